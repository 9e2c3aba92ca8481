package sinktest

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// goroutineLabel is the profiler's label that tells the goroutines of one sink from all others.
const goroutineLabel = "sinktest"

var watchedSinks atomic.Int64 //nolint:gochecknoglobals // labels must differ between tests that run side by side

// watched is a sink whose goroutines can be found: they inherit the label of the calls that start them. So servers and
// other tests may start and end goroutines in the same process meanwhile.
type watched struct {
	bridge.Sink
	label string
}

func watch[S bridge.Sink](t *testing.T, newSink func(t *testing.T) S) (watched, S) {
	t.Helper()
	w := watched{label: strconv.FormatInt(watchedSinks.Add(1), 10)}
	var sink S
	w.call(t.Context(), func(context.Context) { sink = newSink(t) })
	w.Sink = sink
	return w, sink
}

func (w watched) call(ctx context.Context, f func(context.Context)) {
	pprof.Do(ctx, pprof.Labels(goroutineLabel, w.label), f)
}

func (w watched) Publish(ctx context.Context, events []bridge.Event) (results []error) {
	w.call(ctx, func(ctx context.Context) { results = w.Sink.Publish(ctx, events) })
	return results
}

func (w watched) Check(ctx context.Context) (err error) {
	w.call(ctx, func(ctx context.Context) { err = w.Sink.Check(ctx) })
	return err
}

func (w watched) Close(ctx context.Context) (err error) {
	w.call(ctx, func(ctx context.Context) { err = w.Sink.Close(ctx) })
	return err
}

// watchedForLetters is a watched sink that publishes dead letters.
type watchedForLetters struct {
	watched
	letters bridge.DeadLetterPublisher
}

func (w watchedForLetters) DeadLetterAddress() string { return w.letters.DeadLetterAddress() }

func (w watchedForLetters) PublishDeadLetters(ctx context.Context, letters []bridge.DeadLetter) (results []error) {
	w.call(ctx, func(ctx context.Context) { results = w.letters.PublishDeadLetters(ctx, letters) })
	return results
}

// requireNoGoroutines waits until the sink has none.
func (w watched) requireNoGoroutines(t *testing.T) {
	t.Helper()
	tick, timeout := time.NewTicker(5*time.Millisecond), time.After(slack)
	defer tick.Stop()
	for {
		left := w.goroutines(t)
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			require.Fail(t, "the sink left goroutines behind", "%s", strings.Join(left, "\n\n"))
			return
		}
	}
}

// goroutines returns the stacks of the sink's goroutines, those with the same one together.
func (w watched) goroutines(t *testing.T) []string {
	t.Helper()
	var profile bytes.Buffer
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&profile, 1))
	var stacks []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", goroutineLabel, w.label)) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
