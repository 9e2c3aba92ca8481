package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// tailPause is between two looks at a broker that is away, or has no such stream yet.
const tailPause = 500 * time.Millisecond

// deleteTimeout bounds the end of a tail, which somebody waits for.
const deleteTimeout = 2 * time.Second

// Tail calls f with every event that is stored in o.Stream under the sink's subjects, or under what the stream makes of
// them, in stored order, until ctx ends or f returns an error, which it returns. f is never called concurrently. With
// from.End it returns nil once f has had what is stored now.
//
// A server that is away is waited for with from.Patience, and so is a stream that does not exist yet. What a person has
// to mend ends it with an error: credentials, certificates, permissions. It creates nothing on the server that outlives
// it.
func Tail(ctx context.Context, o Options, from bridge.TailStart, f func(bridge.Received) error) error {
	o, err := o.validated()
	if err != nil {
		return err
	}
	t := &tail{o: &o, from: from, f: f, filter: streamSubject(o.Subject), log: o.Logger.With("sink", o.Name)}
	t.conn = newConnection(&o, t.log)
	ended := make(chan struct{})
	// The connection lasts longer than ctx: there is something to delete in the end.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(ended)
		t.conn.run(running)
	}()
	defer func() {
		stop()
		<-ended
	}()
	waiting := ""      // the cause that the log was told last
	read := time.Now() // when something was last
	for {
		next := t.next
		err := t.round(ctx)
		if t.next != next {
			read = time.Now()
		}
		var final *finalError
		switch {
		case errors.Is(err, errEnd):
			return nil
		case errors.As(err, &final):
			return final.err
		case ctx.Err() != nil:
			return ctx.Err()
		case bridge.KindOf(err) == bridge.FailureBlocked:
			return err
		}
		if err := from.Waited(read, err); err != nil {
			return err
		}
		if err != nil && err.Error() != waiting {
			waiting = err.Error()
			t.log.Warn("waiting for the stream", "stream", o.Stream, "error", err)
		}
		pause := time.NewTimer(tailPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
}

// errEnd is the end of what was stored.
var errEnd = errors.New("that was all")

// finalError is what f returned, or why there is nothing to read.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }

type tail struct {
	o      *Options
	from   bridge.TailStart
	f      func(bridge.Received) error
	filter string
	log    *slog.Logger
	conn   *connection

	// created tells the stream apart from a later one of the same name, whose numbers begin anew.
	created time.Time
	// next is the number of the next message to read; 0 while that is not known.
	next uint64
	// left is how many messages are left to read, with from.End.
	left uint64
	// consumer is the one that may be there; empty for none.
	consumer string
	// missing says that there was no stream when the reading began, so that all of it is new.
	missing bool
}

// round reads until something fails, which it returns.
func (t *tail) round(ctx context.Context) error {
	session, err := t.conn.session(ctx)
	if err != nil {
		return err
	}
	requests, done := session.watch(ctx, t.o.APIPrefix+".")
	defer done()
	stream, err := session.js.Stream(requests, t.o.Stream)
	if errors.Is(err, natsjs.ErrStreamNotFound) {
		t.missing = true
		err := fmt.Errorf("stream %s does not exist yet", t.o.Stream)
		if t.from.End {
			return &finalError{err}
		}
		return err
	}
	if err != nil {
		return t.o.classifyRequest(requests, "look up stream "+t.o.Stream, err)
	}
	info := stream.CachedInfo()
	if !t.created.IsZero() && !info.Created.Equal(t.created) {
		t.next, t.missing = 0, true
	}
	t.created = info.Created
	t.deleteConsumer(ctx, session, stream) // of a session that was lost
	config := natsjs.OrderedConsumerConfig{
		FilterSubjects: storedUnder(t.filter, info.Config.SubjectTransform), InactiveThreshold: time.Minute,
	}
	switch {
	case t.next > 0:
		config.DeliverPolicy, config.OptStartSeq = natsjs.DeliverByStartSequencePolicy, t.next
	case t.from.All, t.missing:
		config.DeliverPolicy = natsjs.DeliverAllPolicy
	case !t.from.Since.IsZero():
		config.DeliverPolicy, config.OptStartTime = natsjs.DeliverByStartTimePolicy, &t.from.Since
	default:
		// A number, so that nothing is missed if the connection is lost before the first message.
		t.next = info.State.LastSeq + 1
		config.DeliverPolicy, config.OptStartSeq = natsjs.DeliverByStartSequencePolicy, t.next
	}
	consumer, err := stream.OrderedConsumer(requests, config)
	if err != nil {
		return t.o.classifyRequest(requests, "read stream "+t.o.Stream, err)
	}
	defer func() {
		t.consumer = consumer.CachedInfo().Name // the library may have made another
		t.deleteConsumer(ctx, session, stream)
	}()
	if t.from.End {
		// Of what comes from now on, as many as wait now are the ones that were asked for.
		if t.left = consumer.CachedInfo().NumPending; t.left == 0 {
			return errEnd
		}
	}
	messages, err := consumer.Messages(natsjs.PullHeartbeat(t.heartbeat()))
	if err != nil {
		return t.o.classifyRequest(ctx, "read stream "+t.o.Stream, err)
	}
	defer messages.Stop()
	watch, unwatch := context.WithCancel(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		t.watch(watch, session, stream)
		messages.Stop()
	}()
	defer func() {
		unwatch()
		<-watching
	}()
	for {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("read stream %s: %w", t.o.Stream, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.deliver(msg); err != nil {
			return err
		}
	}
}

// deleteConsumer deletes the consumer that may be there, even when ctx has ended. One that cannot be deleted goes after
// its InactiveThreshold, and until then counts towards the stream's max_consumers.
func (t *tail) deleteConsumer(ctx context.Context, s *session, stream natsjs.Stream) {
	if t.consumer == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(t.o.AckTimeout, deleteTimeout))
	defer cancel()
	ctx, done := s.watch(ctx, t.o.APIPrefix+".CONSUMER.DELETE.")
	defer done()
	err := stream.DeleteConsumer(ctx, t.consumer)
	switch {
	case err == nil, errors.Is(err, natsjs.ErrConsumerNotFound), errors.Is(err, natsjs.ErrStreamNotFound):
		t.consumer = ""
	default:
		t.log.Debug("the consumer that the stream was read by stays for a minute", "consumer", t.consumer, "error", err)
	}
}

// watch returns when what is being read has ended: the session, or the stream, which somebody may have deleted and
// created anew. The consumer of the library would go on waiting for the next number of the old one.
func (t *tail) watch(ctx context.Context, s *session, stream natsjs.Stream) {
	tick := time.NewTicker(t.heartbeat())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.closed:
			return
		case <-tick.C:
		}
		info, err := stream.Info(ctx)
		if errors.Is(err, natsjs.ErrStreamNotFound) || (err == nil && !info.Created.Equal(t.created)) {
			return
		}
	}
}

// heartbeat is how often a server that has nothing to send says so, and how often the stream is looked at.
func (t *tail) heartbeat() time.Duration { return min(max(t.o.AckTimeout, time.Second), 5*time.Second) }

func (t *tail) deliver(msg natsjs.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read stream %s: %w", t.o.Stream, err)
	}
	if meta.Sequence.Stream < t.next {
		return nil
	}
	headers := make([]cloudevents.Header, 0, len(msg.Headers()))
	for name, values := range msg.Headers() {
		if len(values) > 0 {
			headers = append(headers, cloudevents.Header{Name: name, Value: values[0]})
		}
	}
	event, err := cloudevents.Decode(headers, cloudevents.NATSPrefix, msg.Data())
	if err != nil {
		event = bridge.Event{Data: msg.Data()} // somebody else's message is still worth showing
	}
	if err := t.f(bridge.Received{Address: msg.Subject(), StoredAt: meta.Timestamp, Event: event}); err != nil {
		return &finalError{err}
	}
	t.next = meta.Sequence.Stream + 1
	if t.from.End {
		if t.left--; t.left == 0 {
			return errEnd
		}
	}
	return nil
}
