package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestKindOf(t *testing.T) {
	cause := errors.New("the cause")
	tests := map[string]struct {
		err  error
		want bridge.FailureKind
	}{
		"nil":                   {nil, bridge.FailureRetry},
		"not marked":            {cause, bridge.FailureRetry},
		"deadline":              {context.DeadlineExceeded, bridge.FailureRetry},
		"retry":                 {bridge.Retry(cause), bridge.FailureRetry},
		"reject":                {bridge.Reject(cause), bridge.FailureReject},
		"blocked":               {bridge.Blocked(cause), bridge.FailureBlocked},
		"wrapped":               {fmt.Errorf("publish: %w", bridge.Reject(cause)), bridge.FailureReject},
		"marked twice":          {bridge.Blocked(fmt.Errorf("again: %w", bridge.Reject(cause))), bridge.FailureBlocked},
		"marked back":           {bridge.Retry(bridge.Reject(cause)), bridge.FailureRetry},
		"joined with an error":  {errors.Join(cause, bridge.Reject(cause)), bridge.FailureReject},
		"joined, the first one": {errors.Join(bridge.Blocked(cause), bridge.Reject(cause)), bridge.FailureBlocked},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, bridge.KindOf(tt.err))
			if tt.err != nil && !errors.Is(tt.err, context.DeadlineExceeded) {
				require.ErrorIs(t, tt.err, cause, "a mark hides nothing")
				require.ErrorContains(t, tt.err, "the cause")
			}
		})
	}
}

func TestMarkingNilStaysNil(t *testing.T) {
	for _, mark := range []func(error) error{bridge.Retry, bridge.Reject, bridge.Blocked} {
		require.NoError(t, mark(nil))
	}
}

func TestFailureKindString(t *testing.T) {
	require.Equal(t, "retry", bridge.FailureRetry.String())
	require.Equal(t, "reject", bridge.FailureReject.String())
	require.Equal(t, "blocked", bridge.FailureBlocked.String())
	require.Equal(t, "retry", bridge.FailureKind(42).String(), "what is unknown loses nothing when tried again")
	require.Equal(t, bridge.FailureRetry, bridge.FailureKind(0))
}
