package control

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The wire is XML-RPC (xmlrpc.com/spec.md) with the types that Supervisor uses:
// int, bool, float64, string, []any and map[string]any in Go, and nil as
// Python's extension has it.

// maxDepth is of lists and structures in each other.
const maxDepth = 16

// decoder reads one document.
type decoder struct{ *xml.Decoder }

// decodeCall reads a <methodCall>.
func decodeCall(r io.Reader) (method string, args []any, err error) {
	d := decoder{xml.NewDecoder(r)}
	if err := d.start("methodCall"); err != nil {
		return "", nil, err
	}
	if err := d.start("methodName"); err != nil {
		return "", nil, err
	}
	if method, err = d.text(); err != nil {
		return "", nil, err
	}
	method = strings.TrimSpace(method)
	name, err := d.child()
	switch {
	case err != nil:
		return "", nil, err
	case name == "": // without arguments <params> may be missing
	case name != "params":
		return "", nil, fmt.Errorf("<%s> where <params> belongs", name)
	default:
		if args, err = d.list("param", func() (any, error) { return d.inner("value", 0) }); err != nil {
			return "", nil, err
		}
		if err := d.end(); err != nil { // of methodCall
			return "", nil, err
		}
	}
	return method, args, nil
}

// decodeResponse reads a <methodResponse>. The error is a Fault if that is the
// answer.
func decodeResponse(r io.Reader) (any, error) {
	d := decoder{xml.NewDecoder(r)}
	if err := d.start("methodResponse"); err != nil {
		return nil, err
	}
	name, err := d.child()
	if err != nil {
		return nil, err
	}
	switch name {
	case "params":
		if err := d.start("param"); err != nil {
			return nil, err
		}
		return d.inner("value", 0)
	case "fault":
		v, err := d.inner("value", 0)
		if err != nil {
			return nil, err
		}
		fields, _ := v.(map[string]any)
		code, ok1 := fields["faultCode"].(int)
		text, ok2 := fields["faultString"].(string)
		if !ok1 || !ok2 {
			return nil, errors.New("<fault> without a code and a text")
		}
		return nil, Fault{code, text}
	}
	return nil, fmt.Errorf("<%s> where <params> or <fault> belongs", name)
}

// child returns the name of the next element inside of this one, or "" at the
// end of this one. Text between elements has to be blank.
func (d decoder) child() (string, error) {
	for {
		t, err := d.Token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return t.Name.Local, nil
		case xml.EndElement:
			return "", nil
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				return "", fmt.Errorf("text %q between elements", t)
			}
		}
	}
}

// start goes into the next element, which has to have this name.
func (d decoder) start(name string) error {
	got, err := d.child()
	if err == nil && got != name {
		err = fmt.Errorf("<%s> is missing", name)
	}
	return err
}

// end leaves this element, in which there may be nothing more.
func (d decoder) end() error {
	name, err := d.child()
	if err == nil && name != "" {
		err = fmt.Errorf("<%s> does not belong here", name)
	}
	return err
}

// text returns what is in this element, and leaves it.
func (d decoder) text() (string, error) {
	var b strings.Builder
	for {
		t, err := d.Token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return "", fmt.Errorf("<%s> where text belongs", t.Name.Local)
		case xml.EndElement:
			return b.String(), nil
		case xml.CharData:
			b.Write(t)
		}
	}
}

// list reads elements of this name up to the end of the one around them.
func (d decoder) list(name string, read func() (any, error)) ([]any, error) {
	list := []any{}
	for {
		got, err := d.child()
		switch {
		case err != nil:
			return nil, err
		case got == "":
			return list, nil
		case got != name:
			return nil, fmt.Errorf("<%s> where <%s> belongs", got, name)
		}
		v, err := read()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
}

// inner reads an element of this name, a value, and leaves the one around it.
func (d decoder) inner(name string, depth int) (any, error) {
	if err := d.start(name); err != nil {
		return nil, err
	}
	v, err := d.value(depth)
	if err != nil {
		return nil, err
	}
	return v, d.end()
}

// value reads what is in a <value>, and leaves that.
func (d decoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("values are more than %d deep in each other", maxDepth)
	}
	var bare strings.Builder // a value without a type is a string
	for {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch t := t.(type) {
		case xml.CharData:
			bare.Write(t)
		case xml.EndElement:
			return bare.String(), nil
		case xml.StartElement:
			if strings.TrimSpace(bare.String()) != "" {
				return nil, fmt.Errorf("text %q before <%s>", bare.String(), t.Name.Local)
			}
			v, err := d.typed(t.Name.Local, depth)
			if err != nil {
				return nil, err
			}
			return v, d.end()
		}
	}
}

func (d decoder) typed(name string, depth int) (any, error) {
	switch name {
	case "array":
		if err := d.start("data"); err != nil {
			return nil, err
		}
		list, err := d.list("value", func() (any, error) { return d.value(depth + 1) })
		if err != nil {
			return nil, err
		}
		return list, d.end()
	case "struct":
		fields := map[string]any{}
		_, err := d.list("member", func() (any, error) {
			if err := d.start("name"); err != nil {
				return nil, err
			}
			name, err := d.text()
			if err != nil {
				return nil, err
			}
			fields[name], err = d.inner("value", depth+1)
			return nil, err
		})
		return fields, err
	}
	text, err := d.text()
	if err != nil {
		return nil, err
	}
	plain := strings.TrimSpace(text)
	switch name {
	case "string":
		return text, nil
	case "int", "i4":
		n, err := strconv.ParseInt(plain, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("<%s> %q is no number of 32 bits", name, plain)
		}
		return int(n), nil
	case "boolean":
		if plain != "0" && plain != "1" {
			return nil, fmt.Errorf("<boolean> %q is not 0 or 1", plain)
		}
		return plain == "1", nil
	case "double":
		f, err := strconv.ParseFloat(plain, 64)
		if err != nil {
			return nil, fmt.Errorf("<double> %q is no number", plain)
		}
		return f, nil
	case "base64": // Python's clients send bytes that way
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
		if err != nil {
			return nil, fmt.Errorf("<base64>: %w", err)
		}
		return string(b), nil
	case "nil":
		return nil, nil
	}
	return nil, fmt.Errorf("type <%s> is not known here", name)
}

const header = "<?xml version='1.0'?>\n"

func encodeCall(method string, args []any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(header + "<methodCall><methodName>")
	xml.EscapeText(&b, []byte(method))
	b.WriteString("</methodName><params>")
	for _, arg := range args {
		b.WriteString("<param>")
		if err := encodeValue(&b, arg); err != nil {
			return nil, err
		}
		b.WriteString("</param>")
	}
	b.WriteString("</params></methodCall>\n")
	return b.Bytes(), nil
}

func encodeResponse(v any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(header + "<methodResponse><params><param>")
	if err := encodeValue(&b, v); err != nil {
		return nil, err
	}
	b.WriteString("</param></params></methodResponse>\n")
	return b.Bytes(), nil
}

func encodeFault(f Fault) []byte {
	var b bytes.Buffer
	b.WriteString(header + "<methodResponse><fault>")
	encodeValue(&b, map[string]any{"faultCode": f.Code, "faultString": f.Text}) // both can be encoded
	b.WriteString("</fault></methodResponse>\n")
	return b.Bytes()
}

func encodeValue(b *bytes.Buffer, v any) error {
	b.WriteString("<value>")
	switch v := v.(type) {
	case nil:
		b.WriteString("<nil/>")
	case string:
		b.WriteString("<string>")
		xml.EscapeText(b, []byte(v)) // what XML has no place for becomes U+FFFD
		b.WriteString("</string>")
	case int:
		if int64(v) != int64(int32(v)) {
			return fmt.Errorf("XML-RPC has no room for the number %d", v)
		}
		fmt.Fprintf(b, "<int>%d</int>", v)
	case bool:
		if v {
			b.WriteString("<boolean>1</boolean>")
		} else {
			b.WriteString("<boolean>0</boolean>")
		}
	case float64:
		fmt.Fprintf(b, "<double>%s</double>", strconv.FormatFloat(v, 'f', -1, 64))
	case []any:
		b.WriteString("<array><data>")
		for _, v := range v {
			if err := encodeValue(b, v); err != nil {
				return err
			}
		}
		b.WriteString("</data></array>")
	case map[string]any:
		b.WriteString("<struct>")
		for _, name := range slices.Sorted(maps.Keys(v)) {
			b.WriteString("<member><name>")
			xml.EscapeText(b, []byte(name))
			b.WriteString("</name>")
			if err := encodeValue(b, v[name]); err != nil {
				return err
			}
			b.WriteString("</member>")
		}
		b.WriteString("</struct>")
	default:
		return fmt.Errorf("XML-RPC has no type for a %T", v)
	}
	b.WriteString("</value>")
	return nil
}
