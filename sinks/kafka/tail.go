package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

const (
	// fetchBytes is the most that one answer holds of a partition, unless one batch is larger.
	fetchBytes = 4 << 20
	// fetchWait is how long a broker waits for something new before it answers.
	fetchWait = 500 * time.Millisecond
)

// Tail calls f for every record of the topic, all partitions, each partition in its order, until ctx ends or f returns
// an error. f is never called concurrently, and its error is what Tail returns; when ctx ends, Tail returns nil. With
// from.End it returns nil once f has had what is stored now.
//
// Tail waits for a topic that does not exist yet and then shows all of it, waits with from.Patience for brokers that
// are away, for each partition on its own, and takes up partitions that are added. It gives up at once only for what a
// person has to mend (credentials, certificates, permission) as long as it has never reached the topic. A record that
// is no CloudEvent comes with its data alone.
func Tail(ctx context.Context, o Options, from bridge.TailStart, f func(bridge.Received) error) error {
	o.CreateTopic = false
	s, err := newSink(o, reading) //nolint:contextcheck // the sink ends with Close, not with a context
	if err != nil {
		return err
	}
	defer func() { _ = s.Close(context.WithoutCancel(ctx)) }()
	ctx, cancel := context.WithCancel(ctx)
	t := &tail{sink: s, from: from, out: make(chan bridge.Received), failed: make(chan error, 1)}
	defer t.fetchers.Wait()
	defer cancel()
	return t.run(ctx, f)
}

type tail struct {
	sink     *Sink
	from     bridge.TailStart
	out      chan bridge.Received
	fetchers sync.WaitGroup
	failed   chan error // why a fetcher has given up, with from.Patience
	reported string     // the failure that was logged last, so that it is logged once
}

func (t *tail) run(ctx context.Context, f func(bridge.Received) error) error {
	ticker := time.NewTicker(t.sink.timing.refresh)
	defer ticker.Stop()
	started := 0            // partitions that have a fetcher
	reached := false        // the topic, once
	awaited := false        // the topic did not exist when the cluster was asked first
	var ended chan struct{} // closed once f has had all, with from.End
	known := time.Now()     // when the topic was last
	for {
		topology, err := t.sink.awaitTopology(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err == nil:
			known = time.Now()
			t.recovered()
			for ; started < len(topology.partitions) && ended == nil; started++ {
				p := &fetcher{tail: t, partition: started, from: t.from, log: t.sink.log.With(slog.Int("partition", started))}
				if reached || awaited {
					p.from = bridge.TailStart{All: true}
				}
				t.fetchers.Go(func() { p.run(ctx) })
			}
			reached = true
			if t.from.End && ended == nil {
				ended = make(chan struct{})
				go func() { // ends with the fetchers, which run waits for
					t.fetchers.Wait()
					close(ended)
				}()
			}
		case isTopicMissing(err) && t.from.End:
			return err
		case isTopicMissing(err):
			awaited = awaited || !reached
			t.report(err)
		case !reached && bridge.KindOf(err) == bridge.FailureBlocked:
			return err
		default:
			if err := t.from.Waited(known, err); err != nil {
				return err
			}
			t.report(err)
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return nil
			case received := <-t.out:
				if err := f(received); err != nil {
					return err
				}
			case err := <-t.failed:
				return err
			case <-ended:
				select {
				case err := <-t.failed:
					return err
				default:
					return nil
				}
			case <-ticker.C:
				wait = false
			}
		}
	}
}

func (t *tail) report(err error) {
	if text := err.Error(); text != t.reported {
		t.reported = text
		t.sink.log.Warn("cannot read the Kafka topic; trying again", slog.Any("error", err))
	}
}

func (t *tail) recovered() {
	if t.reported != "" {
		t.reported = ""
		t.sink.log.Info("reading the Kafka topic", slog.String("topic", t.sink.opts.Topic))
	}
}

// fetcher reads one partition.
type fetcher struct {
	tail      *tail
	partition int
	from      bridge.TailStart
	log       *slog.Logger
	next      int64 // offset to read; set when placed
	last      int64 // offset of what is stored once it is placed
	placed    bool
	reported  string
}

// run reads until ctx ends, or with from.End what was stored when it began. Failures are waited out.
func (p *fetcher) run(ctx context.Context) {
	s := p.tail.sink
	read := time.Now() // when the partition was last
	for ctx.Err() == nil {
		next := p.next
		err := p.place(ctx)
		if err == nil {
			if p.from.End && p.next >= p.last {
				return
			}
			err = p.fetch(ctx)
		}
		if err == nil || p.next != next {
			read = time.Now()
		}
		if err == nil {
			p.reported = ""
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if isStale(err) {
			s.noteStale()
		}
		err = s.explain(s.partition(p.partition), err)
		if given := p.tail.from.Waited(read, err); given != nil {
			select {
			case p.tail.failed <- given:
			default: // another has
			}
			return
		}
		if text := err.Error(); text != p.reported {
			p.reported = text
			p.log.Warn("cannot read a partition of the Kafka topic; trying again", slog.Any("error", err))
		}
		pause(ctx, s.timing.refresh/2)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// place finds the offset to start from, unless it is known.
func (p *fetcher) place(ctx context.Context) error {
	if p.placed {
		return nil
	}
	// The end comes first: what is stored after this answer is new, whatever the second request says.
	first, last, err := p.bounds(ctx)
	if err != nil {
		return err
	}
	p.next, p.last = last, last
	switch {
	case p.from.All:
		p.next = first
	case !p.from.Since.IsZero():
		at, err := p.offset(ctx, p.from.Since.UnixMilli())
		if err != nil {
			return err
		}
		if at >= 0 {
			p.next = at
		}
	}
	p.placed = true
	return nil
}

// bounds returns the oldest offset, and that of the record to come.
func (p *fetcher) bounds(ctx context.Context) (first, last int64, err error) {
	last, err = p.offset(ctx, kafkago.LastOffset)
	if err != nil {
		return 0, 0, err
	}
	first, err = p.offset(ctx, kafkago.FirstOffset)
	return first, last, err
}

// offset returns that of the first record stored at or after a time, in milliseconds, -1 for none, or what
// kafkago.FirstOffset and LastOffset stand for.
func (p *fetcher) offset(ctx context.Context, at int64) (int64, error) {
	s := p.tail.sink
	ctx, cancel := context.WithTimeout(ctx, s.timing.attempt)
	defer cancel()
	answer, err := s.keeper.generation.Load().offsets(ctx, s.opts.Topic, []int{p.partition}, at)
	if err != nil {
		return 0, err
	}
	return offsetOf(answer, p.partition)
}

// fetch reads once and hands on what came. Records are decoded as they are handed on.
func (p *fetcher) fetch(ctx context.Context) (err error) {
	defer recovered(&err)
	s := p.tail.sink
	res, err := request(ctx, s.keeper.generation.Load().client.Fetch, &kafkago.FetchRequest{
		Topic: s.opts.Topic, Partition: p.partition, Offset: p.next,
		MinBytes: 1, MaxBytes: fetchBytes, MaxWait: fetchWait,
	})
	if err == nil {
		pause(ctx, min(res.Throttle, maxHold)) // the broker reads nothing from this connection before it is over
		err = res.Error
	}
	if errors.Is(err, kafkago.OffsetOutOfRange) {
		return p.catchUp(ctx)
	}
	if err != nil {
		return err
	}
	before := p.next
	if err := p.handOn(ctx, res.Records); err != nil {
		return err
	}
	if batches, ok := res.Records.(*protocol.RecordStream); ok && len(batches.Records) > 0 && p.next == before {
		// What stood there has been compacted away, or marks a transaction.
		p.next++
	}
	return nil
}

// catchUp moves to the oldest record there is: what was to be read next has been deleted, or the topic is a new one.
func (p *fetcher) catchUp(ctx context.Context) error {
	first, last, err := p.bounds(ctx)
	if err != nil {
		return err
	}
	if p.next >= first && p.next <= last {
		return nil // a new leader lagged behind
	}
	p.log.Warn("records of the Kafka topic are gone before they were read",
		slog.Int64("next_offset", p.next), slog.Int64("first_offset", first))
	p.next = first
	return nil
}

func (p *fetcher) handOn(ctx context.Context, records kafkago.RecordReader) error {
	for {
		r, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a record after offset %d: %w", p.next, err)
		}
		if r.Offset < p.next {
			continue // a batch is sent whole, from its first record
		}
		received, err := p.received(r)
		if err != nil {
			return fmt.Errorf("reading the record at offset %d: %w", r.Offset, err)
		}
		select {
		case p.tail.out <- received:
		case <-ctx.Done():
			return ctx.Err()
		}
		p.next = r.Offset + 1
	}
}

func (p *fetcher) received(r *protocol.Record) (bridge.Received, error) {
	key, err := readAll(r.Key)
	if err != nil {
		return bridge.Received{}, err
	}
	value, err := readAll(r.Value)
	if err != nil {
		return bridge.Received{}, err
	}
	headers := make([]cloudevents.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = cloudevents.Header{Name: h.Key, Value: string(h.Value)}
	}
	event, err := cloudevents.Decode(headers, cloudevents.KafkaPrefix, value)
	if err != nil {
		event = bridge.Event{Data: value}
	}
	return bridge.Received{
		Address:  fmt.Sprintf("%s/%d@%d", p.tail.sink.opts.Topic, p.partition, r.Offset),
		Key:      string(key),
		StoredAt: r.Time,
		Event:    event,
	}, nil
}

// readAll copies b and gives its memory back.
func readAll(b kafkago.Bytes) ([]byte, error) {
	if b == nil {
		return nil, nil
	}
	defer func() { _ = b.Close() }()
	return kafkago.ReadAll(b)
}
