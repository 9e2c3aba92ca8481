// Package kafka publishes events to a topic of Apache Kafka, and reads them back for people.
//
// A Sink sends with acks=all, one batch a partition at a time, and owns its retries: it makes each attempt once, says
// of each event what became of it, and leaves trying again to its caller. The batches of a call for partitions of one
// broker go in one request.
// What the client library does out of sight is kept to connections and a cache of metadata:
//
//   - Every read and write on a connection has a deadline (connection.go), because the library
//     clears its own before a SASL handshake and would wait for ever.
//   - A goroutine of the sink, the keeper (keeper.go), renews connections and metadata after network errors
//     and changes of leader, at most four times a second. The old connections serve until the new ones have
//     proved themselves, so a broker that has gone silent cannot hold up partitions that others lead.
//   - What hangs is tried again beside itself, and a broker that does not answer is asked on a new connection before
//     its old ones are cut (silence.go).
//   - Failures are classified by a table of this package (failure.go); the library's own idea of what
//     is temporary is wrong for some.
//
// A timeout means that nobody knows whether the events were stored. They are reported as failed and are
// stored again by the retry; consumers dedupe on source and id.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

// errClosed is the end of every call on a sink after Close.
var errClosed = errors.New("the sink is closed")

// Sink publishes to one Kafka topic. It is safe for concurrent use.
type Sink struct {
	opts        Options
	timing      timing
	log         *slog.Logger
	compression kafkago.Compression
	connector   *connector

	stop     context.CancelFunc
	stopping <-chan struct{} // closed by Close
	ended    chan struct{}   // closed when the keeper has ended
	wake     chan struct{}   // has the keeper look at what is asked of it

	keeper         keeper
	limits         limits
	partitionLocks partitionLocks
	cuts           cuts
	quotas         quotas
	water          *bridge.HighWater
	doubtful       doubtful

	// letters publishes to the topic of the dead letters, and is nil when there is none. With connections of its own, what
	// goes wrong there disturbs no event.
	letters *Sink
}

var (
	_ bridge.Partitioned         = (*Sink)(nil)
	_ bridge.DeadLetterPublisher = (*Sink)(nil)
	_ bridge.Positioned          = (*Sink)(nil)
)

// role is what a sink of this package is for.
type role int

const (
	publishing role = iota
	reading         // it never writes, and so has no opinion on how the topic is set up
	burying         // its topic is that of another sink's dead letters
)

// setting is the name of the setting that holds the topic.
func (r role) setting() string {
	if r == burying {
		return "DEAD_LETTER"
	}
	return "TOPIC"
}

// New checks o and returns a sink that connects in the background. It never needs a broker: one that cannot be
// reached shows in Publish and Check. The error lists everything that is wrong with o.
func New(o Options) (*Sink, error) {
	s, err := newSink(o, publishing)
	if err != nil || o.DeadLetter == "" {
		return s, err
	}
	o.Topic, o.DeadLetter = o.DeadLetter, ""
	if s.letters, err = newSink(o, burying); err != nil {
		s.stop()
		s.connector.close()
		<-s.ended
		return nil, err
	}
	return s, nil
}

func newSink(o Options, r role) (*Sink, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.timing.setDefaults()
	log := o.Logger.With(slog.String("sink", o.Name))
	checked, err := o.check(log)
	if err != nil {
		return nil, fmt.Errorf("kafka sink %q: %w", o.Name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Sink{
		opts:        o,
		timing:      o.timing,
		log:         log,
		compression: checked.compression,
		connector:   newConnector(&o, checked, log),
		stop:        stop,
		stopping:    ctx.Done(),
		ended:       make(chan struct{}),
		wake:        make(chan struct{}, 1),
		water:       bridge.NewHighWater(),
	}
	o.Files.OnChange(func() {
		s.connector.version.Add(1)
		s.wakeUp()
	})
	s.keeper.role = r
	s.keeper.round = make(chan struct{})
	s.keeper.described = make(chan struct{})
	go func() {
		defer close(s.ended)
		s.keep(ctx)
		if g := s.keeper.generation.Load(); g != nil {
			g.retire()
		}
	}()
	return s, nil
}

// Name returns the name that the sink was given.
func (s *Sink) Name() string { return s.opts.Name }

// HighWater implements bridge.Positioned.
func (s *Sink) HighWater() *bridge.HighWater { return s.water }

// Partition returns the partition that e's key belongs to, as the Java client would choose it, and -1
// until the topic's metadata has been read.
func (s *Sink) Partition(e bridge.Event) int {
	t := s.keeper.topology.Load()
	if t == nil {
		return -1
	}
	return t.partitionOf([]byte(s.key(&e)))
}

// PartitionCount returns how many partitions the topic has, and 0 until its metadata has been read.
func (s *Sink) PartitionCount() int {
	if t := s.keeper.topology.Load(); t != nil {
		return len(t.partitions)
	}
	return 0
}

// OrderingKey implements bridge.Keyed: what Kafka keeps in order are the records of a key.
func (s *Sink) OrderingKey() func(*bridge.Event) string {
	if text := s.opts.Key.String(); text == "" || text == "{partitionkey}" {
		return nil
	}
	return s.key
}

func (s *Sink) key(e *bridge.Event) string { return keyOf(s.opts.Key, e) }

// keyOf returns the record key of e. Where the template makes an empty one, it is the partition key: without a key a
// record would go to any partition, and all with an empty one would go to the same.
func keyOf(t bridge.Template, e *bridge.Event) string {
	return cmp.Or(t.Expand(*e, nil), e.PartitionKey)
}

// Close ends the sink's connections and goroutines. Calls that are under way end with an error. It returns an
// error only when ctx ends first.
func (s *Sink) Close(ctx context.Context) error {
	s.stop()
	s.connector.close()
	if s.letters != nil {
		if err := s.letters.Close(ctx); err != nil {
			return err
		}
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kafka sink %q: closing: %w", s.opts.Name, context.Cause(ctx))
	}
}

// partitionLocks holds a lock for each partition: two produce requests to one partition at once can be stored in either
// order.
type partitionLocks struct {
	mu    sync.Mutex
	locks map[int]chan struct{}
}

// lock waits for the partition, until ctx ends or stopping is closed.
func (l *partitionLocks) lock(ctx context.Context, partition int, stopping <-chan struct{}) (unlock func(), err error) {
	l.mu.Lock()
	if l.locks == nil {
		l.locks = make(map[int]chan struct{})
	}
	held, ok := l.locks[partition]
	if !ok {
		held = make(chan struct{}, 1)
		l.locks[partition] = held
	}
	l.mu.Unlock()

	select {
	case held <- struct{}{}:
		return func() { <-held }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-stopping:
		return nil, errClosed
	}
}

// timing holds every duration of the sink, so that tests can shorten them. Zero means the default.
type timing struct {
	attempt  time.Duration // one request, and twice what the broker is given to replicate a batch
	publish  time.Duration // a whole Publish, whatever its context allows
	silence  time.Duration // one read or write on a connection; longer than attempt, whose own deadline comes first
	dial     time.Duration // a new connection with TLS and SASL
	dialTCP  time.Duration // one address of several
	connect  time.Duration // new connections, and a new topic, until they have proved themselves
	metadata time.Duration // the most that the cached metadata lags, and the limit for reading it
	refresh  time.Duration // between the keeper's looks at the metadata
	pace     time.Duration // the least time between two such looks
	reset    time.Duration // the least time between two renewals of the connections
	blocked  time.Duration // the same when somebody has to mend something first
	create   time.Duration // the least time between two tries to create the topic
	describe time.Duration // between two looks at the topic's settings
	missing  time.Duration // a topic that was there is missed for this long before a person is asked to mend it
	idle     time.Duration // an unused connection is closed
	doubt    time.Duration // without an answer to a batch, its broker is asked whether it is there
	question time.Duration // and has so long to answer, on a new connection
	beside   time.Duration // what hangs is tried once more, beside it
	cutting  time.Duration // connections end at one event for this long before it is rejected
	confirm  time.Duration // leaders say for this long that a partition ends before what it acknowledged
}

func (t *timing) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.attempt, 10 * time.Second},
		{&t.publish, 20 * time.Second},
		{&t.silence, 12 * time.Second},
		{&t.dial, wire.Connect},
		{&t.dialTCP, 2 * time.Second},
		{&t.connect, 8 * time.Second},
		{&t.metadata, 2 * time.Second},
		{&t.refresh, time.Second},
		{&t.pace, 50 * time.Millisecond},
		{&t.reset, wire.RetryMax},
		// Sooner than wire.RetryBlocked: between two passwords no partition that needs another connection gets one.
		{&t.blocked, time.Second},
		{&t.create, 5 * time.Second},
		{&t.describe, time.Minute},
		{&t.missing, 5 * time.Second},
		{&t.idle, 30 * time.Second},
		// With acks=all a broker may rightly take longer than that: it waits for others.
		{&t.doubt, wire.Silence},
		// TCP, TLS and the question take five round trips, which is 750 ms to a broker far away.
		{&t.question, 2 * time.Second},
		{&t.beside, wire.Beside},
		{&t.cutting, 5 * time.Second},
		{&t.confirm, 15 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}
