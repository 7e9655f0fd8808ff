package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/exosite/gwe/gweinit/exosite"
)

// Activate gets the credential of the device with this serial number, which the
// product must have enabled, and uses it from now on, here and in the HTTP
// client. The caller has to keep it.
//
// MQTT has no word for refusals: if the server ends the connection instead of
// answering, the error is an exosite.ErrNotEnabled, whatever the reason. By
// HTTP one learns more.
func (s *Session) Activate(ctx context.Context, serial string) (cik string, err error) {
	if !isTopic(serial) {
		return "", fmt.Errorf("activate by MQTT: serial number %.40q has characters that a topic cannot have: use HTTP", serial)
	}
	topic := provisionTopic + serial
	err = s.again(ctx, "activate", s.tries(), func() error {
		got := make(chan string, 1)
		l, err := s.dial(ctx, login{id: randomID(), push: func(t string, payload []byte) {
			if t == topic {
				select {
				case got <- string(payload):
				default:
				}
			}
		}})
		if err != nil {
			return err
		}
		defer l.end()
		if err := l.publish(ctx, "activate", topic, nil); err != nil && !l.isOver() {
			return err
		}
		patience := time.NewTimer(s.patience)
		defer patience.Stop()
		select {
		case cik = <-got:
		case <-l.over:
			select {
			case cik = <-got: // before that
			default:
				// Whether the device has been activated is not known: another try
				// would tell nothing new.
				return permanent{fmt.Errorf("the server ended the connection without an answer: %w", exosite.ErrNotEnabled)}
			}
		case <-patience.C:
			return permanent{fmt.Errorf("no answer within %v", s.patience)}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !exosite.IsCIK(cik) {
			return permanent{errors.New("the answer is not a CIK, which has 40 letters and digits: is this Exosite's server?")}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	s.client.SetCIK(cik)
	return cik, nil
}

// Publish sends a payload to a topic, and returns when the server has taken it.
// Others than $resource/ALIAS and $resource.batch make the server end the
// connection.
func (s *Session) Publish(ctx context.Context, topic string, payload []byte) error {
	return s.publish(ctx, "publish", topic, payload)
}

func (s *Session) publish(ctx context.Context, method, topic string, payload []byte) error {
	return s.again(ctx, method, s.tries(), func() error {
		l, err := s.connected(ctx)
		if err != nil {
			return err
		}
		return l.publish(ctx, method, topic, payload)
	})
}

// Write gives resources new values. The server stamps each with the time at which
// it comes. Aliases that the product does not have are ignored. If an answer is
// lost, a value may be written twice.
func (s *Session) Write(ctx context.Context, values ...exosite.Value) error {
	for _, v := range values {
		if !isTopic(v.Alias) {
			return fmt.Errorf("write by MQTT: alias %.40q has characters that a topic cannot have", v.Alias)
		}
	}
	for _, v := range values {
		if err := s.publish(ctx, "write", resourceTopic+v.Alias, []byte(v.Value)); err != nil {
			return err
		}
	}
	return nil
}

// batch is the points of one time, as the API has them.
type batch struct {
	Timestamp int64             `json:"timestamp"` // µs since 1970
	Values    map[string]string `json:"values"`
}

// Record stores values with times of their own, which count in microseconds.
// Unlike by HTTP the server does not tell which of them clash with others.
func (s *Session) Record(ctx context.Context, points ...exosite.Point) error {
	var batches []batch
	for _, p := range points {
		if !utf8.ValidString(p.Alias) || !utf8.ValidString(p.Value) || p.Alias == "" {
			return fmt.Errorf("record by MQTT: alias %.40q or its value is not UTF-8, or empty", p.Alias)
		}
		t := p.Time.UnixMicro()
		// Of one time each alias can be there once.
		i := slices.IndexFunc(batches, func(b batch) bool {
			_, there := b.Values[p.Alias]
			return b.Timestamp == t && !there
		})
		if i < 0 {
			i = len(batches)
			batches = append(batches, batch{Timestamp: t, Values: map[string]string{}})
		}
		batches[i].Values[p.Alias] = p.Value
	}
	if len(batches) == 0 {
		return nil
	}
	payload, err := json.Marshal(batches)
	if err != nil {
		return err
	}
	if len(payload) > maxPacket {
		return fmt.Errorf("record by MQTT: %d bytes are too many for one message: record fewer points at once", len(payload))
	}
	return s.publish(ctx, "record", batchTopic, payload)
}
