package gdc

import (
	"context"
	"errors"
	"fmt"

	"github.com/exosite/gwe/gweinit/exosite"
	"github.com/exosite/gwe/gweinit/exosite/mqtt"
)

func (s *session) mqtt() *mqtt.Session { return mqtt.New(s.client, mqtt.Options{Port: s.port}) }

func mqttActivate(ctx context.Context, s *session, _ []string) error {
	m := s.mqtt()
	defer m.Close()
	return s.activate(ctx, m.Activate)
}

func mqttPublish(ctx context.Context, s *session, args []string) error {
	m := s.mqtt()
	defer m.Close()
	n := 0
	return s.each(ctx, args[1], func(value string) error {
		ctx, cancel := context.WithTimeout(ctx, s.limit(0))
		defer cancel()
		if err := m.Publish(ctx, args[0], []byte(value)); err != nil {
			return err
		}
		n++
		return s.result(fmt.Sprintf("rc=0, mid=%d: %s", n, value), map[string]any{"mid": n, "value": value})
	})
}

// mqttSubscribe prints until it is told to end, which is no failure.
func mqttSubscribe(ctx context.Context, s *session, _ []string) error {
	m := s.mqtt()
	defer m.Close()
	var failed error
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	err := m.Watch(inner, func(p exosite.Point) {
		t := p.Time.UnixMicro()
		if failed = s.result(fmt.Sprintf("%s.%d=%s", p.Alias, t, p.Value), map[string]any{"alias": p.Alias, "timestamp": t, "value": p.Value}); failed != nil {
			cancel()
		}
	})
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil
	}
	return err
}
