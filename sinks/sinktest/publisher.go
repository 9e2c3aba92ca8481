package sinktest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// retryPause is how long a publisher waits before it tries again, as delivery does with its backoff.
const retryPause = 20 * time.Millisecond

// attempt is what one call of Publish came to.
type attempt struct {
	acknowledged, failed int
	took                 time.Duration
	err                  error // of the first event that failed
}

// publisher sends events in batches and sends again what failed, in order, until all is acknowledged or rejected:
// what delivery does, in few words.
type publisher struct {
	sink  bridge.Sink
	batch int
	// attempts, if not nil, gets every attempt. The publisher does not wait for room in it.
	attempts chan attempt

	mu           sync.Mutex
	acknowledged []bridge.Event
	rejected     map[string]error
}

// run returns nil when every event is acknowledged or rejected, and an error when ctx ends first, or the sink breaks
// a rule that holds for every call.
func (p *publisher) run(ctx context.Context, events []bridge.Event) error {
	var last error
	for start := 0; start < len(events); start += p.batch {
		pending := events[start:min(start+p.batch, len(events))]
		for len(pending) > 0 {
			var err error
			if pending, err = p.attempt(ctx, pending, &last); err != nil {
				return err
			}
			if len(pending) == 0 {
				break
			}
			pause := time.NewTimer(retryPause)
			select {
			case <-ctx.Done():
				pause.Stop()
				return fmt.Errorf("%d of %d events are not through: %w; the last failure was: %w",
					len(pending)+len(events)-min(start+p.batch, len(events)), len(events), ctx.Err(), last)
			case <-pause.C:
			}
		}
	}
	return nil
}

// attempt publishes once, and returns the events to send again.
func (p *publisher) attempt(ctx context.Context, events []bridge.Event, last *error) ([]bridge.Event, error) {
	began := time.Now()
	results := p.sink.Publish(ctx, events)
	a := attempt{took: time.Since(began)}
	if len(results) != len(events) {
		return nil, fmt.Errorf("Publish returned %d results for %d events", len(results), len(events))
	}
	failedKeys := make(map[string]int)
	var again []bridge.Event
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, result := range results {
		e := events[i]
		switch {
		case result != nil && bridge.KindOf(result) == bridge.FailureReject:
			if p.rejected == nil {
				p.rejected = make(map[string]error)
			}
			p.rejected[e.ID] = result
		case result != nil:
			if a.err == nil {
				a.err, *last = result, result
			}
			a.failed++
			failedKeys[e.PartitionKey] = i
			again = append(again, e)
		default:
			a.acknowledged++
			if j, ok := failedKeys[e.PartitionKey]; ok {
				return nil, fmt.Errorf("event %d of key %q was acknowledged "+
					"although event %d of that key, before it in the same call, failed with: %w",
					i, e.PartitionKey, j, results[j])
			}
			p.acknowledged = append(p.acknowledged, e)
		}
	}
	if p.attempts != nil {
		select {
		case p.attempts <- a:
		default:
		}
	}
	return again, nil
}

// sent returns what is acknowledged so far.
func (p *publisher) sent() []bridge.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]bridge.Event(nil), p.acknowledged...)
}

// loadPause is between two batches of a load, so that a fault that lasts does not end in millions of events.
const loadPause = 2 * time.Millisecond

// load is a publisher that works in the background, batch after batch, while a test plays faults.
type load struct {
	*publisher
	broker *Broker
	stop   chan struct{}
	done   chan struct{}
	// What follows may be read once done is closed.
	err    error
	events []bridge.Event
}

// publishInBackground starts a load of several keys. The test ends it with finish.
func publishInBackground(t *testing.T, b *Broker, sink bridge.Sink, name string) *load {
	t.Helper()
	const keys = 11
	l := &load{
		publisher: &publisher{sink: sink, batch: 2 * keys, attempts: make(chan attempt, 100_000)},
		broker:    b,
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		<-l.done
	})
	go func() {
		defer close(l.done)
		pause := time.NewTicker(loadPause)
		defer pause.Stop()
		for {
			events := make([]bridge.Event, l.batch)
			for i := range events {
				events[i] = Event(name, len(l.events)+i, fmt.Sprintf("%s-invocation-%d", name, i%keys))
			}
			l.events = append(l.events, events...)
			if l.err = l.run(ctx, events); l.err != nil {
				return
			}
			select {
			case <-l.stop:
				return
			case <-pause.C:
			}
		}
	}()
	return l
}

// untilAcknowledged waits for an attempt in which at least one event was acknowledged.
func (l *load) untilAcknowledged(t *testing.T) {
	t.Helper()
	l.until(t, l.broker.RecoverBound, "an event is acknowledged", func(a attempt) bool { return a.acknowledged > 0 })
}

// untilFailure waits for an attempt in which at least one event failed, and returns its error.
func (l *load) untilFailure(t *testing.T) error {
	t.Helper()
	a := l.until(t, l.broker.PublishBound+slack, "an event fails", func(a attempt) bool { return a.failed > 0 })
	return a.err
}

func (l *load) until(t *testing.T, within time.Duration, what string, wanted func(attempt) bool) attempt {
	t.Helper()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	var last error
	for {
		select {
		case a := <-l.attempts:
			l.requireBounded(t, a)
			if wanted(a) {
				return a
			}
			last = a.err
		case <-l.done:
			require.FailNow(t, "Publishing ended before "+what+".", "%v", l.err)
		case <-timeout.C:
			require.FailNow(t, "The test waited too long until "+what+".",
				"It waited %s; the last failure was: %v", within, last)
		}
	}
}

// forget drops the attempts that have ended so far, so that until sees later ones.
func (l *load) forget(t *testing.T) {
	t.Helper()
	for {
		select {
		case a := <-l.attempts:
			l.requireBounded(t, a)
			continue
		default:
		}
		return
	}
}

func (l *load) requireBounded(t *testing.T, a attempt) {
	t.Helper()
	require.LessOrEqual(t, a.took, l.broker.PublishBound+slack, "Publish took too long; it ended with: %v", a.err)
}

// finish waits until the sink has recovered, ends the load when everything is through, and checks what is stored:
// all of it at least once, each key in order.
func (l *load) finish(t *testing.T) {
	t.Helper()
	l.forget(t)
	l.untilAcknowledged(t)
	close(l.stop)
	timeout := time.NewTimer(l.broker.RecoverBound)
	defer timeout.Stop()
	for ended := false; !ended; {
		select {
		case <-l.done:
			ended = true
		case a := <-l.attempts:
			l.requireBounded(t, a)
		case <-timeout.C:
			require.FailNow(t, "The sink did not recover.", "It had %s.", l.broker.RecoverBound)
		}
	}
	require.NoError(t, l.err)
	l.forget(t)
	requireAtLeastOnce(t, l.events, l.broker.Stored(t))
}
