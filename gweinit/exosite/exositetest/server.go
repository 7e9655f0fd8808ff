// Package exositetest is an emulator of Exosite's HTTP Device API: in tests as
// net/http/httptest is for other servers, and by hand for those who develop
// applications without an account.
//
//	func TestReports(t *testing.T) {
//		s := exositetest.New(t)
//		s.AddDevice("00:2F:AC:43:55:A0")
//		s.Fault(exositetest.Fault{Call: "write", Times: 2, Status: 503, RetryAfter: "1"})
//		// ... let a device talk to s.HTTPSAddr(), and trust s.CA() ...
//		info, err := s.Cloud().Device(s.Product(), "00:2F:AC:43:55:A0")
//		// ...
//	}
//
// It is strict where Exosite is, and tells in the answer's text what is wrong
// with a request. Both generations' forms of the calls work on each product.
//
// What Exosite keeps is in package cloud; here is how it is asked for.
package exositetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exosite/gwe/gweinit/exosite/exositetest/cloud"
)

// Options say what a Server is.
type Options struct {
	// Cloud is what is served. It stays open when the Server is closed.
	Cloud *cloud.Cloud
	// Product is the one of requests whose Host does not name one. It is made if
	// it is not there. "": DefaultProduct.
	Product string
	// HTTP and HTTPS are the addresses to listen on, such as "127.0.0.1:0"; "":
	// none.
	HTTP, HTTPS string
	// Dir is the folder where the certificates are kept, so that clients that
	// trust ca.pem of it still do after a restart; "": in memory only.
	Dir string
	// Log has a line for each request and for what goes wrong; nil: none.
	Log *slog.Logger
	// Page serves / and /page/, for people; nil: there is none.
	Page http.Handler
}

// DefaultProduct has the form of Murano's IDs.
const DefaultProduct = "a1b2c3d4e5f60000"

const (
	maxHeader  = 16 << 10
	headerTime = 30 * time.Second // for a handshake and a request's header: small machines take their time
	idleTime   = 2 * time.Minute
	stallTime  = time.Minute // without a byte, in a body
	goodbye    = time.Second // for requests that have come before Close
)

// Server is the emulator. It is safe for concurrent use.
type Server struct {
	cloud       *cloud.Cloud
	product     string
	log         *slog.Logger
	page        http.Handler
	certs       *certificates
	http        *http.Server
	mux         *http.ServeMux
	plain, safe net.Listener // nil: none
	faults      faultList
	requests    requestLog
	clock       atomic.Int64 // offset
	tls         *tls.Config

	end      context.CancelFunc
	ending   <-chan struct{}
	serving  sync.WaitGroup // listeners
	inflight sync.RWMutex   // held for reading by each request
	closed   sync.Once
	closeErr error
}

// Start begins to serve. The error says which of the addresses, folders and
// names does not work.
func Start(o Options) (*Server, error) {
	if o.Cloud == nil {
		return nil, errors.New("exositetest.Start: Options.Cloud is nil, make one with cloud.Open")
	}
	if o.HTTP == "" && o.HTTPS == "" {
		return nil, errors.New("exositetest.Start: neither Options.HTTP nor Options.HTTPS has an address to listen on")
	}
	s := &Server{cloud: o.Cloud, product: o.Product, log: o.Log, page: o.Page}
	if s.product == "" {
		s.product = DefaultProduct
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.cloud.CreateProduct(s.product); err != nil && !errors.Is(err, cloud.ErrExists) {
		return nil, fmt.Errorf("make the emulator's product: %w", err)
	}
	var err error
	if s.certs, err = loadCertificates(o.Dir, time.Now()); err != nil {
		return nil, err
	}
	s.tls = s.certs.config()
	if o.HTTP != "" {
		if s.plain, err = net.Listen("tcp", o.HTTP); err != nil {
			return nil, fmt.Errorf("listen for HTTP: %w", err)
		}
	}
	if o.HTTPS != "" {
		if s.safe, err = net.Listen("tcp", o.HTTPS); err != nil {
			if s.plain != nil {
				s.plain.Close()
			}
			return nil, fmt.Errorf("listen for HTTPS: %w", err)
		}
	}
	var ctx context.Context
	ctx, s.end = context.WithCancel(context.Background())
	s.ending = ctx.Done()
	s.mux = s.routes()
	// Only HTTP/1.1, as Exosite: what faults do is about its connections.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         s.tls.Clone(),
		Protocols:         protocols,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	if s.plain != nil {
		s.serving.Go(func() { s.listening(s.http.Serve(s.plain)) })
	}
	if s.safe != nil {
		s.serving.Go(func() { s.listening(s.http.ServeTLS(s.safe, "", "")) })
	}
	return s, nil
}

func (s *Server) listening(err error) {
	if !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("the emulator no longer listens", "error", err)
	}
}

// Close ends all connections, after requests that are under way have had a
// second; long polls are answered at once. After it no goroutine of the Server
// is left in a handler.
func (s *Server) Close() error {
	s.closed.Do(func() {
		s.end()
		ctx, cancel := context.WithTimeout(context.Background(), goodbye)
		defer cancel()
		if s.http.Shutdown(ctx) != nil {
			s.closeErr = s.http.Close()
		}
		s.serving.Wait()
		s.inflight.Lock() // waits for the last request
		s.inflight.Unlock()
	})
	return s.closeErr
}

// HTTPAddr is the address of the listener without TLS, "" if there is none.
func (s *Server) HTTPAddr() string { return address(s.plain) }

// HTTPSAddr is the address of the listener with TLS, "" if there is none.
func (s *Server) HTTPSAddr() string { return address(s.safe) }

func address(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// CA has the certificate that clients have to trust, in PEM.
func (s *Server) CA() []byte { return slices.Clone(s.certs.ca) }

// TLSConfig is for other servers that belong to the emulator, such as the MQTT
// broker.
func (s *Server) TLSConfig() *tls.Config { return s.tls.Clone() }

// Cloud is what is served.
func (s *Server) Cloud() *cloud.Cloud { return s.cloud }

// Product is the one of requests whose Host does not name one.
func (s *Server) Product() string { return s.product }

// AddDevice makes a device of Product ready for activation: adds its serial
// number, if it is not there, and enables it. It is for tests, and panics if that
// is not possible; others use Cloud.
func (s *Server) AddDevice(sn string) {
	err := s.cloud.AddSerials(s.product, cloud.Serial{SN: sn})
	if err == nil || errors.Is(err, cloud.ErrExists) {
		err = s.cloud.Enable(s.product, sn, "emulator")
	}
	if err != nil {
		panic(fmt.Sprintf("exositetest: AddDevice: %v", err))
	}
}

// SetClock makes the emulator's clock, as GET /timestamp and the Date of each
// answer tell it, differ by offset from the Cloud's. Values are still stamped
// with the Cloud's time.
func (s *Server) SetClock(offset time.Duration) { s.clock.Store(int64(offset)) }

// serve is around all that is asked for.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.inflight.RLock()
	defer s.inflight.RUnlock()
	x := &exchange{clock: time.Duration(s.clock.Load())}
	x.Request = Request{
		Time: s.cloud.Now(), From: r.RemoteAddr, Method: short(r.Method), Path: short(r.URL.RequestURI()),
	}
	start := time.Now()
	timeouts := http.NewResponseController(w)
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	r.Body = &bodyReader{ReadCloser: r.Body, timeouts: timeouts, x: x} // of the copy: net/http looks at its own
	out := &answerWriter{ResponseWriter: w, timeouts: timeouts, x: x, now: s.cloud.Now}
	defer func() {
		// Also if a fault has dropped the connection by a panic.
		if x.ours {
			return
		}
		x.Duration = time.Since(start)
		s.requests.add(x.Request)
		s.log.Info("request", "from", x.From, "method", x.Method, "path", x.Path, "call", x.Call, "product", x.Product, "serial", x.Serial,
			"status", x.Status, "in", x.In, "out", x.Out, "duration", x.Duration, "fault", x.Fault)
	}()
	s.mux.ServeHTTP(out, r)
}

// now is the time that an answer tells.
func (s *Server) now(x *exchange) time.Time { return s.cloud.Now().Add(x.clock) }

// handler answers a request. An error becomes an answer by fail.
type handler func(w http.ResponseWriter, r *http.Request, x *exchange) error

// identify finds out who asks. An error becomes an answer in place of the
// handler's.
type identify func(r *http.Request, x *exchange) error

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for _, t := range []struct {
		pattern string
		call    func(r *http.Request) string
		who     identify
		handler handler
	}{
		{"GET /timestamp", always("timestamp"), anyone, s.timestamp},
		{"POST /provision/activate", always("activate"), s.asNew, s.activate},
		{"GET /onep:v1/stack/alias", readCall, s.asDevice, s.read},
		{"POST /onep:v1/stack/alias", writeCall, s.asDevice, s.write},
		{"POST /onep:v1/stack/record", always("record"), s.asDevice, s.record},
		{"POST /onep:v1/stack/alias/{alias}", always("record"), s.asDevice, s.recordOne},
		{"GET /provision/download", downloadCall, s.asDevice, s.download},

		{"GET /provision/manage/model/{$}", always("manage"), s.asOwner, s.listModels},
		{"POST /provision/manage/model/{$}", always("manage"), s.asOwner, s.changeModels},
		{"GET /provision/manage/model/{model}", always("manage"), s.asOwner, s.modelInfo},
		{"PUT /provision/manage/model/{model}", always("manage"), s.asOwner, s.updateModel},
		{"DELETE /provision/manage/model/{model}", always("manage"), s.asOwner, s.deleteModel},
		{"GET /provision/manage/model/{model}/{$}", always("manage"), s.asOwner, s.listSerials},
		{"POST /provision/manage/model/{model}/{$}", always("manage"), s.asOwner, s.changeSerials},
		{"DELETE /provision/manage/model/{model}/{$}", always("manage"), s.asOwner, s.removeSerials},
		{"GET /provision/manage/model/{model}/{sn}", always("manage"), s.asOwner, s.serialInfo},
		{"POST /provision/manage/model/{model}/{sn}", always("manage"), s.asOwner, s.changeSerial},
		{"DELETE /provision/manage/model/{model}/{sn}", always("manage"), s.asOwner, s.removeSerial},
		{"GET /provision/manage/content/{model}/{$}", always("manage"), s.asOwner, s.listContent},
		{"POST /provision/manage/content/{model}/{$}", always("manage"), s.asOwner, s.changeContent},
		{"GET /provision/manage/content/{model}/{id}", always("manage"), s.asOwner, s.ownContent},
		{"POST /provision/manage/content/{model}/{id}", always(uploadCall), s.asOwner, s.upload},
		{"DELETE /provision/manage/content/{model}/{id}", always("manage"), s.asOwner, s.deleteContent},
	} {
		mux.HandleFunc(t.pattern, func(w http.ResponseWriter, r *http.Request) {
			x := exchangeOf(r)
			x.Call = t.call(r)
			var bad error
			if x.Call == uploadCall {
				x.Call = "manage" // its body may be longer than memory
			} else {
				bad = x.readBody(w, r)
			}
			if bad == nil {
				bad = t.who(r, x)
			}
			f, _ := s.faults.take(x.Call, x.Serial)
			f.serve(w, r, x, func(w http.ResponseWriter, r *http.Request) {
				err := bad
				if err == nil {
					err = t.handler(w, r, x)
				}
				if err != nil {
					s.fail(w, x, err)
				}
			})
		})
	}
	s.forDevelopers(mux)
	return mux
}

// uploadCall is a "manage" of which the body is not read into memory.
const uploadCall = "upload"

func always(call string) func(*http.Request) string {
	return func(*http.Request) string { return call }
}

func anyone(*http.Request, *exchange) error { return nil }

// hostProduct is the product that the Host of a request names. named tells
// whether it does: a Host that the emulator does not know means Options.Product,
// and devices of all products may come there.
func (s *Server) hostProduct(r *http.Request) (id string, named bool) {
	label, domain, _ := strings.Cut(strings.TrimSuffix(strings.ToLower(hostName(r)), "."), ".")
	if domain == "m2.exosite.com" || domain == "m2.exosite.io" {
		for _, id := range s.cloud.Products() { // host names come in any case
			if strings.EqualFold(id, label) {
				return id, true
			}
		}
	}
	return s.product, false
}

// hostName is the Host of a request without its port.
func hostName(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return strings.Trim(r.Host, "[]")
}
