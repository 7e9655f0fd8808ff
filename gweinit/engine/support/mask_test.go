package support

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

const cik = "0123456789abcdef0123456789abcdef01234567"

func TestMask(t *testing.T) {
	const other = "fedcba98765432100123456789abcdef99999999"
	const odd = `p&ss w/o "rd\%25+`
	oddJSON, _ := json.Marshal(odd)
	key := "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nabcd==\n-----END RSA PRIVATE KEY-----\n"
	certificate := "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
	m := newMask([]string{cik, odd, "x"})
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"nothing to see, 12:34:56 x=1\n", "nothing to see, 12:34:56 x=1\n"},
		// Secrets that are given.
		{"write to " + cik + " failed", "write to 01234567* failed"},
		{"x" + cik + "y", "x01234567*y"},
		{"GET /a?" + url.QueryEscape(odd) + "&", "GET /a?*&"},
		{"GET /a?" + url.PathEscape(odd) + "&", "GET /a?*&"},
		{"a " + odd + " b", "a * b"},
		{`{"a": ` + string(oddJSON) + `}`, `{"a": "*"}`},
		{"every byte: %30123456789abcdef%30123456789abcdef01234567", "every byte: 01234567*"},
		{"hdr: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+cik)), "hdr: Basic *"},
		{"a " + base64.URLEncoding.EncodeToString([]byte("us"+odd+"x")) + " b", "a * b"},
		{"cut off: " + cik[:30], "cut off: 01234567*"},
		{"not that: 012345 end", "not that: 012345 end"},
		// What looks like a CIK.
		{"old one " + other + ",", "old one fedcba98*,"},
		{"%3D" + other + `\n` + other, `%3Dfedcba98*\nfedcba98*`},
		{"sha256 " + other + "0123456789abcdef99999999", "sha256 " + other + "0123456789abcdef99999999"},
		{"a_word_of_" + strings.Repeat("a", 40), "a_word_of_" + strings.Repeat("a", 40)},
		// Keys.
		{"a\n" + key + "b\n" + certificate, "a\n[private key removed]\nb\n" + certificate},
		{"1 app: " + strings.ReplaceAll(key, "\n", "\n1 app: "), "1 app: [private key removed]\n1 app: "},
		{strings.ReplaceAll(key, "\n", `\n`), `[private key removed]\n`},
		{key[40:] + "after", "[private key removed]\nafter"},
		{"before " + key[:60], "before [private key removed]"},
		{"k: " + base64.StdEncoding.EncodeToString([]byte(key)), "k: *"},
		{key + key, "[private key removed]\n[private key removed]\n"},
		// Values by their keys.
		{"password = two words\nuser = x\n", "password = *\nuser = x\n"},
		{"WIFI_PSK=abc # really\r\nb=1", "WIFI_PSK=*\r\nb=1"},
		{";password=abc\n", ";password=*\n"},
		{"password =\nuser = x\n", "password =\nuser = x\n"},
		{"a:\n  - password: |\n      one\n\n      two\n    user: x\n", "a:\n  - password: *\n    user: x\n"},
		{"token:\n  one\nuser: x\n", "token:*\nuser: x\n"},
		{"wifi: {ssid: a b, psk: c d, x: 1}\n", "wifi: {ssid: a b, psk: *, x: 1}\n"},
		{`{"user":"a","Password" : "b\"c","n":1}`, `{"user":"a","Password" : "*","n":1}`},
		{`{"token":123,"secret":{"a":["}"]},"secrets":[1,2],"n":1}`, `{"token":"*","secret":"*","secrets":"*","n":1}`},
		{`{"text":"{\"token\":\"a b\",\"n\":1}"}`, `{"text":"{\"token\":\"*\",\"n\":1}"}`},
		{`{"secret":""}`, `{"secret":""}`},
		{"12:00 login: user=a password=b&c x=1", "12:00 login: user=a password=* x=1"},
		{`12:00 body "cik=abc\n" end`, `12:00 body "cik=*" end`},
		{"12:00 X-Exosite-CIK: abc def", "12:00 X-Exosite-CIK: * def"},
		{"12:00 Authorization: Basic abc def", "12:00 Authorization: * def"},
		{"app --api-token abc --user x --password=d", "app --api-token * --user x --password=*"},
		{"cik = " + other, "cik = fedcba98*"},
		{"https://user:pass@host/a b@c", "https://user:*@host/a b@c"},
		{"http://host:80/a@b", "http://host:80/a@b"},
		{"the password was wrong", "the password was wrong"},
	} {
		got := m.line(c.text)
		if got != c.want {
			t.Errorf("%q\n got %q\nwant %q", c.text, got, c.want)
		}
		if strings.HasPrefix(c.text, "{") && !json.Valid([]byte(got)) && json.Valid([]byte(c.text)) {
			t.Errorf("%q is no JSON any more", got)
		}
	}
}

func TestMaskEnvironment(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[program:a]\nenvironment=A=\"b,c\",D='e f', G_1=h\ncommand=x\n", "[program:a]\nenvironment= A=*,D=*,G_1=*\ncommand=x\n"},
		{"environment =\n  A=b,\n  C=d\nuser=x", "environment = A=*,C=*\nuser=x"},
		{"environment: A=\"b\\\"c,d e=f\"\n", "environment: A=*,*\n"},
		{"environment=nonsense", "environment= *"},
		{"environment=A=\"open", "environment= A=*"},
		{";environment=A=b", ";environment= A=*"},
		{"environment=\nuser=x\n", "environment= \nuser=x\n"},
	} {
		if got := string(maskEnvironment([]byte(c.text))); got != c.want {
			t.Errorf("%q\n got %q\nwant %q", c.text, got, c.want)
		}
	}
}

func FuzzMask(f *testing.F) {
	f.Add([]byte("a "+cik+" b"), cik, "other secret")
	f.Add([]byte("password=%41bcdef\n  x\n-----BEGIN PRIVATE KEY-----"), "Abcdef", "password")
	f.Add([]byte(`{"token":"\\\"", "psk":[{"a"}]}`), `\"quoted`, "%25%25%25")
	f.Add([]byte("-----END A PRIVATE KEY----------BEGIN PRIVATE KEY-----x-----END PRIVATE KEY-----"), "[private", "removed]")
	f.Add([]byte("environment=A=b,C='d\n e'"), "A=*,C=*", "abcdefgh*")
	f.Add([]byte("https://a:b@c --token x Authorization: Basic a"), "*@cdef", "Basic *")
	f.Fuzz(func(t *testing.T, text []byte, one, two string) {
		before := bytes.Clone(text)
		m := newMask([]string{one, two})
		got := m.text(text)
		if !bytes.Equal(before, text) {
			t.Fatalf("the text was changed: %q", text)
		}
		for _, secret := range m.secrets {
			for _, form := range []string{string(secret), url.QueryEscape(string(secret)), url.PathEscape(string(secret))} {
				if bytes.Contains(got, []byte(form)) {
					t.Fatalf("%q has %q", got, form)
				}
			}
		}
		if again := m.text(got); !bytes.Equal(again, got) {
			t.Fatalf("once: %q, twice: %q", got, again)
		}
		maskEnvironment(text)
		if bytes.Contains(got, []byte("PRIVATE KEY-----")) && bytes.Contains(got, []byte("-----BEGIN PRIVATE")) {
			t.Fatalf("%q", got)
		}
	})
}

// TestMaskTime has what could take a time that grows with the square of the size.
func TestMaskTime(t *testing.T) {
	m := newMask([]string{cik, "a secret"})
	for _, part := range []string{"password", "password=", "token=[", `"token":"`, "psk:\n", "\n ", "--psk ", "://a:", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "LS0tLS1CRUdJTi", "0123456789abcdef", "%30", `\`, `"`, "a psk=b "} {
		m.text(bytes.Repeat([]byte(part), maxFile/len(part))) // the test's time limit is the check
	}
}

func BenchmarkMask(b *testing.B) {
	m := newMask([]string{cik, "another secret"})
	var log bytes.Buffer
	for i := 0; log.Len() < maxFile-200; i++ {
		fmt.Fprintf(&log, "2026-11-25T12:00:00Z app[%d]: a line as logs have them, request %d took %d ms\n", i%100, i, i%77)
		if i%100 == 0 {
			fmt.Fprintf(&log, "2026-11-25T12:00:00Z app: password=abc cik %s\n", cik)
		}
	}
	b.SetBytes(int64(log.Len()))
	b.ReportAllocs()
	for b.Loop() {
		m.text(log.Bytes())
	}
}
