package control

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// What Python's xmlrpc.client writes, which Supervisor's own clients use.
func TestPython(t *testing.T) {
	method, args, err := decodeCall(open(t, "call.xml"))
	want := []any{
		"RUNNING & <fine>", 7, -1, true, false, 1.5, []any{1, "a", []any{}},
		map[string]any{"name": "gwe", "pid": 579, "in": map[string]any{"x": []any{true}}}, nil,
	}
	if method != "supervisor.getProcessInfo" || !reflect.DeepEqual(args, want) || err != nil {
		t.Errorf("call: %s(%#v), %v", method, args, err)
	}
	if method, args, err = decodeCall(open(t, "no-arguments.xml")); method != "supervisor.getState" || len(args) != 0 || err != nil {
		t.Errorf("no arguments: %s(%#v), %v", method, args, err)
	}
	v, err := decodeResponse(open(t, "response.xml"))
	if want := map[string]any{"name": "gmq", "state": 20, "text": "é\n\t ü"}; !reflect.DeepEqual(v, want) || err != nil {
		t.Errorf("response: %#v, %v", v, err)
	}
	if _, err = decodeResponse(open(t, "fault.xml")); err != (Fault{10, "BAD_NAME: x"}) {
		t.Errorf("fault: %#v", err)
	}
}

func open(t *testing.T, name string) *bytes.Reader {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(text)
}

func TestRoundTrip(t *testing.T) {
	for _, v := range []any{
		nil, "", " a\n\t<&>\"'ü ", 0, math.MaxInt32, math.MinInt32, true, false, 0.0, -2.5, 1e300,
		[]any{}, []any{"a", 1, []any{false}}, map[string]any{}, map[string]any{"": 1, "a<b": []any{map[string]any{"c": nil}}},
	} {
		text, err := encodeCall("a.b", []any{v, v})
		if err != nil {
			t.Errorf("%#v: %v", v, err)
			continue
		}
		method, args, err := decodeCall(bytes.NewReader(text))
		if method != "a.b" || !reflect.DeepEqual(args, []any{v, v}) || err != nil {
			t.Errorf("%#v: call %s(%#v), %v\n%s", v, method, args, err, text)
		}
		text, err = encodeResponse(v)
		if err != nil {
			t.Errorf("%#v: %v", v, err)
		}
		if got, err := decodeResponse(bytes.NewReader(text)); !reflect.DeepEqual(got, v) || err != nil {
			t.Errorf("%#v: response %#v, %v\n%s", v, got, err, text)
		}
	}
	large := math.MaxInt32
	large++ // on 64 bits
	for _, v := range []any{large, int64(1), []string{"a"}, []any{struct{}{}}, map[string]any{"x": uint8(1)}} {
		if text, err := encodeResponse(v); err == nil {
			t.Errorf("%#v: %s", v, text)
		}
	}
	// What XML cannot have does not break the document.
	text, err := encodeResponse("a\x00\xffb")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeResponse(bytes.NewReader(text)); got != "a\uFFFD\uFFFDb" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBadCalls(t *testing.T) {
	call := func(value string) string {
		return "<methodCall><methodName>m</methodName><params><param>" + value + "</param></params></methodCall>"
	}
	deep := strings.Repeat("<value><array><data>", 100) + strings.Repeat("</data></array></value>", 100)
	for _, tt := range []struct{ text, want string }{
		{"", "EOF"},
		{"hello", `text "hello"`},
		{"<methodResponse/>", "<methodCall> is missing"},
		{"<methodCall><params/></methodCall>", "<methodName> is missing"},
		{"<methodCall><methodName>m</methodName><args/></methodCall>", "<args> where <params> belongs"},
		{"<methodCall><methodName>m</methodName><params>", "EOF"},
		{call("x"), `text "x"`},
		{call("<value><int>x</int></value>"), `<int> "x" is no number of 32 bits`},
		{call("<value><int>99999999999</int></value>"), "no number of 32 bits"},
		{call("<value><boolean>true</boolean></value>"), "is not 0 or 1"},
		{call("<value><double>x</double></value>"), "is no number"},
		{call("<value><base64>A</base64></value>"), "<base64>: illegal base64"},
		{call("<value><dateTime.iso8601>20261125T00:00:00</dateTime.iso8601></value>"), "type <dateTime.iso8601> is not known here"},
		{call("<value><string>a<b/></string></value>"), "<b> where text belongs"},
		{call("<value>a<string>b</string></value>"), `text "a" before <string>`},
		{call("<value><string>a</string>b</value>"), `text "b"`},
		{call("<value><string>a</string><string>b</string></value>"), "<string> does not belong here"},
		{call("<value><array><value/></array></value>"), "<data> is missing"},
		{call("<value><struct><value/></struct></value>"), "<value> where <member> belongs"},
		{call("<value>&evil;</value>"), "invalid character entity"},
		{call(deep), "deep in each other"},
	} {
		if method, args, err := decodeCall(strings.NewReader(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n%s(%#v), %v\nwant %s", tt.text, method, args, err, tt.want)
		}
	}
	if _, args, err := decodeCall(strings.NewReader(call("<value><base64>\nYQ\n==\n</base64></value>"))); !reflect.DeepEqual(args, []any{"a"}) || err != nil {
		t.Errorf("%#v, %v", args, err)
	}
	// A value without a type is a string, as the specification has it.
	if _, args, err := decodeCall(strings.NewReader(call("<value> a </value>"))); !reflect.DeepEqual(args, []any{" a "}) || err != nil {
		t.Errorf("%#v, %v", args, err)
	}
}

func FuzzCall(f *testing.F) {
	for _, name := range []string{"call.xml", "no-arguments.xml"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		method, args, err := decodeCall(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := encodeCall(method, args)
		if err != nil {
			t.Fatalf("%s(%#v): %v", method, args, err)
		}
		// NaN is not equal to itself, so the texts are compared.
		method2, args2, err := decodeCall(bytes.NewReader(again))
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if third, err := encodeCall(method2, args2); !bytes.Equal(again, third) || err != nil {
			t.Errorf("%s\n%s\n%v", again, third, err)
		}
	})
}

func FuzzResponse(f *testing.F) {
	for _, name := range []string{"response.xml", "fault.xml"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := decodeResponse(bytes.NewReader(text))
		if fault := (Fault{}); errors.As(err, &fault) {
			if _, err := decodeResponse(bytes.NewReader(encodeFault(fault))); err == nil {
				t.Errorf("%#v is none when read again", fault)
			}
			return
		}
		if err == nil {
			if _, err := encodeResponse(v); err != nil {
				t.Errorf("%#v: %v", v, err)
			}
		}
	})
}
