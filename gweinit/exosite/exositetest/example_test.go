package exositetest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/exosite/gwe/gweinit/exosite/exositetest"
	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// A device that writes, and finds the server busy at first. Tests have New for
// what is done here by hand.
func ExampleStart() {
	c, err := cloud.Open(cloud.Options{})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	s, err := exositetest.Start(exositetest.Options{Cloud: c, HTTP: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	s.AddDevice("00:2F:AC:43:55:A0")
	s.Fault(exositetest.Fault{Call: "write", Times: 1, Status: 503, RetryAfter: "1"})

	post := func(path, cik, body string) (int, string) {
		r, err := http.NewRequest("POST", "http://"+s.HTTPAddr()+path, strings.NewReader(body))
		if err != nil {
			panic(err)
		}
		r.Header.Set("X-Exosite-CIK", cik)
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			panic(err)
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if err != nil {
			panic(err)
		}
		return a.StatusCode, string(text)
	}
	_, cik := post("/provision/activate", "", "id=00:2F:AC:43:55:A0")
	for range 2 {
		status, _ := post("/onep:v1/stack/alias", cik, "fetch_status=done")
		fmt.Println(status)
	}
	points, err := c.History(s.Product(), "00:2F:AC:43:55:A0", "fetch_status")
	if err != nil {
		panic(err)
	}
	fmt.Println(points[0].Value)
	// Output:
	// 503
	// 204
	// done
}
