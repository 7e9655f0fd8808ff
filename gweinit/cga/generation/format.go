package generation

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// envelope is the content of a generation's file: the sum is that of the
// generation's bytes as they are in the file.
type envelope struct {
	SHA256     string          `json:"sha256"`
	Generation json.RawMessage `json:"generation"`
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// encode returns the content of a generation's file.
func encode(g Generation) ([]byte, error) {
	data, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	data, err = json.Marshal(envelope{sum(data), data})
	if err != nil {
		return nil, err
	}
	data = append(data, '\n')
	if len(data) > maxFile {
		return nil, fmt.Errorf("%d bytes: %w", len(data), errTooLong)
	}
	return data, nil
}

// decode returns the generation in the content of the file of this number.
func decode(data []byte, number int) (g Generation, err error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return Generation{}, err
	}
	if e.SHA256 != sum(e.Generation) {
		return Generation{}, errors.New("the SHA-256 is not that of the data")
	}
	if err := json.Unmarshal(e.Generation, &g); err != nil {
		return Generation{}, err
	}
	if g.Number != number {
		return Generation{}, fmt.Errorf("it is generation %d", g.Number)
	}
	if err := g.check(); err != nil {
		return Generation{}, err
	}
	return g, nil
}

// A newer firmware in the other slot may have more to say about a generation, an
// app or a job than this one knows: fields that are unknown are kept, as an object
// in JSON ("" for none).

func (g *Generation) UnmarshalJSON(data []byte) (err error) {
	type plain Generation
	g.unknown, err = unmarshal(data, (*plain)(g))
	return err
}

func (a *App) UnmarshalJSON(data []byte) (err error) {
	type plain App
	a.unknown, err = unmarshal(data, (*plain)(a))
	if a.Since == 0 {
		a.Since = a.Layer // it is from a firmware that did not know that
	}
	return err
}

func (d *Done) UnmarshalJSON(data []byte) (err error) {
	type plain Done
	d.unknown, err = unmarshal(data, (*plain)(d))
	return err
}

func (g Generation) MarshalJSON() ([]byte, error) {
	type plain Generation
	return marshal(plain(g), g.unknown)
}

func (a App) MarshalJSON() ([]byte, error) {
	type plain App
	return marshal(plain(a), a.unknown)
}

func (d Done) MarshalJSON() ([]byte, error) {
	type plain Done
	return marshal(plain(d), d.unknown)
}

// unmarshal returns what data has besides the fields of the struct at to.
func unmarshal[T any](data []byte, to *T) (unknown string, err error) {
	if err := json.Unmarshal(data, to); err != nil {
		return "", err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return "", err
	}
	for field := range reflect.TypeFor[T]().Fields() {
		known, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		for name := range all {
			if strings.EqualFold(name, known) { // as Unmarshal does
				delete(all, name)
			}
		}
	}
	if len(all) == 0 {
		return "", nil
	}
	rest, err := json.Marshal(all)
	return string(rest), err
}

// marshal puts the unknown fields behind those of v, which has some.
func marshal(v any, unknown string) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil || unknown == "" {
		return data, err
	}
	data = append(bytes.TrimSuffix(data, []byte("}")), ',')
	return append(data, unknown[1:]...), nil
}
