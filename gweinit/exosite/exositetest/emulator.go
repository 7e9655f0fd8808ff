package exositetest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// forDevelopers adds what Exosite does not have: faults, the log of requests
// and the page.
func (s *Server) forDevelopers(mux *http.ServeMux) {
	own := http.NewServeMux()
	own.HandleFunc("GET /emulator/faults", func(w http.ResponseWriter, r *http.Request) {
		faults := s.Faults()
		if faults == nil {
			faults = []Fault{}
		}
		answerJSON(w, http.StatusOK, faults)
	})
	own.HandleFunc("POST /emulator/faults", s.addFault)
	own.HandleFunc("DELETE /emulator/faults", func(w http.ResponseWriter, r *http.Request) {
		s.ClearFaults()
		answer(w, http.StatusNoContent, "", "")
	})
	own.HandleFunc("DELETE /emulator/faults/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.Atoi(r.PathValue("id"))
		if err != nil || !s.faults.remove(id) {
			s.fail(w, exchangeOf(r), refuse(http.StatusNotFound, "there is no fault %.20q", r.PathValue("id")))
			return
		}
		answer(w, http.StatusNoContent, "", "")
	})
	own.HandleFunc("GET /emulator/requests", func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, http.StatusOK, s.Requests())
	})
	if s.page != nil {
		own.Handle("/{$}", s.page)
		own.Handle("/page/", s.page)
	}
	guarded := guard(own)
	for _, pattern := range []string{"/{$}", "/page/", "/emulator/"} {
		mux.Handle(pattern, guarded)
	}
}

func (s *Server) addFault(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r)
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if tooLong := (*http.MaxBytesError)(nil); !errors.As(err, &tooLong) {
			err = wrong("the request's body has not come to its end: %w", err)
		}
		s.fail(w, x, err)
		return
	}
	f, err := ParseFault(data)
	if err == nil {
		f, err = s.faults.add(f)
	}
	if err != nil {
		s.fail(w, x, wrong("%w", err))
		return
	}
	answerJSON(w, http.StatusCreated, f)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic(err) // of plain values
	}
	w.Header().Set("Cache-Control", "no-store")
	answer(w, status, "application/json", string(data)+"\n")
}

// guard keeps other web pages that the developer looks at from the emulator:
// their requests, and their names that are made to mean this machine.
func guard(next http.Handler) http.Handler {
	protected := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r).ours = true
		if host := strings.TrimSuffix(strings.ToLower(hostName(r)), "."); host != "localhost" {
			if _, err := netip.ParseAddr(host); err != nil {
				answer(w, http.StatusForbidden, plainType, "the emulator's own pages are at localhost or an IP address only\n")
				return
			}
		}
		protected.ServeHTTP(w, r)
	})
}
