package nats

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// A call whose context has ended sends nothing more and ends, with no result for what it has not sent. That is no
// acknowledgement.
func TestWhatWasNeverSentIsNeverAcknowledged(t *testing.T) {
	template, err := bridge.ParseTemplate("tensorlake.{route}")
	require.NoError(t, err)
	s, err := New(Options{
		Name: "nats", URL: "nats://127.0.0.1:1", Stream: "TENSORLAKE", Subject: template, MaxAge: time.Hour,
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	cause := errors.New("it stops")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	c := newCall(s, &session{}, s.o.Stream, publication{events: make([]bridge.Event, 8)})
	c.run(ctx)
	for _, err := range c.answers(context.Cause(ctx)) {
		require.ErrorIs(t, err, cause)
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err))
	}
}
