package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
)

// beside calls ask, and calls it once more beside those that hang whenever interval has passed: what hangs may have
// gone into a cable that was cut, and has been mended since. The first result counts. When others have one too by then,
// drop gets it.
func beside[T any](
	ctx context.Context, interval time.Duration, ask func(context.Context) (T, error), drop func(T),
) (T, error) {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	var first *result
	again := time.NewTicker(interval)
	defer again.Stop()
	under := 0
	start := func() {
		under++
		go func() {
			value, err := ask(ctx)
			results <- result{value, err}
		}()
	}
	for start(); under > 0; {
		select {
		case <-again.C:
			if first == nil && ctx.Err() == nil {
				start()
			}
		case r := <-results:
			under--
			switch {
			case first == nil:
				first = &r
				cancel()
			case r.err == nil:
				drop(r.value)
			}
		}
	}
	cancel()
	return first.value, first.err
}

// errSilent is why a batch is given up whose broker does not answer anything.
var errSilent = errors.New("the broker has not answered, and does not on a new connection either")

// doubt asks the broker at address whether it is there, on a new connection, once a while has passed without an
// answer to what was sent to it. If it is not, its old connections are cut, and give is called with errSilent. Until
// then a batch may wait: the broker itself may be waiting for others. The returned function ends the doubts.
func (s *Sink) doubt(ctx context.Context, g *generation, address string, give context.CancelCauseFunc) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Add(1)
	timer := time.AfterFunc(s.timing.doubt, func() {
		defer asking.Done()
		err := s.isThere(ctx, address)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Debug("a Kafka broker is silent", "broker", address, "error", err)
		give(errSilent) // before the connection's end tells something else
		s.connector.closeWhere(func(c *conn) bool { return c.address == address && c.generation == g })
	})
	return func() {
		cancel()
		if timer.Stop() {
			asking.Done()
		}
		asking.Wait()
	}
}

// isThere returns nil once a broker answers on a new connection what it answers before a login: so that far away it
// has the time, and a login that does not work any more is no silence.
func (s *Sink) isThere(ctx context.Context, address string) (err error) {
	defer recovered(&err)
	ctx, cancel := context.WithTimeout(ctx, s.timing.question)
	defer cancel()
	g := s.connector.prepare([]string{address}, nil)
	defer g.abort()
	stop := context.AfterFunc(ctx, g.abort)
	defer stop()
	conn, err := g.dial(ctx, "tcp", address)
	if err == nil {
		err = ctx.Err() // from here on its end closes the connection
	}
	if err == nil && g.transport.TLS != nil {
		config := g.transport.TLS.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(address)
		}
		conn = tls.Client(conn, config)
	}
	if err == nil {
		_, err = protocol.NewConn(conn, clientID).RoundTrip(new(apiversions.Request))
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("asking whether it is there: %w", err)
	}
	return nil
}

// doubtful are the brokers, by address, of which a batch had no answer.
type doubtful struct {
	mu      sync.Mutex
	brokers map[string]bool
}

func (d *doubtful) set(address string, doubt bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !doubt {
		delete(d.brokers, address)
		return
	}
	if d.brokers == nil {
		d.brokers = make(map[string]bool)
	}
	d.brokers[address] = true
}

func (d *doubtful) has(address string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.brokers[address]
}

// clearDoubt asks the leader of the parts' partitions, which is at address, before it is sent anything again, if it
// gave no answer the last time. A batch can be on one connection only, and would hang with that; a question need not.
// What is wrong with a partition is that one's error. Once something is right with one, the leader is there.
func (s *Sink) clearDoubt(ctx context.Context, address string, parts []part) []error {
	t := s.keeper.topology.Load()
	if !s.doubtful.has(address) || t == nil {
		return make([]error, len(parts))
	}
	partitions := make([]int, len(parts))
	for i, p := range parts {
		partitions[i] = p.partition
	}
	errs := s.askLeaders(ctx, t, partitions)
	if slices.Contains(errs, nil) {
		s.doubtful.set(address, false)
	}
	return errs
}
