package gdc

import (
	"context"
	"errors"
)

func mqttActivate(ctx context.Context, s *session, _ []string) error   { return errors.New("x") }
func mqttPublish(ctx context.Context, s *session, args []string) error { return errors.New("x") }
func mqttSubscribe(ctx context.Context, s *session, _ []string) error  { return errors.New("x") }
