package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// quotas are how long brokers hold this client back. One that has answered with a throttle time reads nothing more from
// that connection until it is over: what is sent meanwhile times out, is sent again, and is stored twice.
type quotas struct {
	mu      sync.Mutex
	brokers map[int]*quota
}

// quota is of one broker.
type quota struct {
	turn chan struct{} // whoever sends while the broker holds us back

	mu    sync.Mutex
	until time.Time
}

func (q *quotas) of(broker int) *quota {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.brokers == nil {
		q.brokers = make(map[int]*quota)
	}
	if q.brokers[broker] == nil {
		q.brokers[broker] = &quota{turn: make(chan struct{}, 1)}
	}
	return q.brokers[broker]
}

// holds tells whether the broker holds us back now.
func (q *quotas) holds(broker int) bool { return q.of(broker).left() > 0 }

func (q *quota) left() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Until(q.until)
}

// maxHold is for how long an answer can hold this client back. Apache Kafka asks for no more than its window of quotas
// has, 11 seconds unless told otherwise; a broker that holds us back for longer says so again.
const maxHold = time.Minute

// hold notes what an answer says.
func (q *quota) hold(throttle time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if until := time.Now().Add(min(throttle, maxHold)); throttle > 0 && until.After(q.until) {
		q.until = until
	}
}

// await waits until the broker takes requests. While it holds us back they go one by one, each with the wait that the
// one before it was told of: together they would all be over the quota, again and again. The caller calls done after
// the answer.
func (q *quota) await(ctx context.Context, stopping <-chan struct{}) (done func(), err error) {
	if q.left() <= 0 {
		return func() {}, nil
	}
	select {
	case q.turn <- struct{}{}:
		done = func() { <-q.turn }
	case <-ctx.Done():
		return nil, fmt.Errorf("the broker holds this client to its quota: %w", context.Cause(ctx))
	case <-stopping:
		return nil, errClosed
	}
	for {
		left := q.left()
		if left <= 0 {
			return done, nil
		}
		pause := time.NewTimer(left)
		select {
		case <-pause.C:
		case <-ctx.Done():
			err = fmt.Errorf("the broker holds this client to its quota for another %v: %w",
				left.Round(time.Millisecond), context.Cause(ctx))
		case <-stopping:
			err = errClosed
		}
		pause.Stop()
		if err != nil {
			done()
			return nil, err
		}
	}
}
