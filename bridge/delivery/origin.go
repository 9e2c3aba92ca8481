package delivery

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/insist"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	// How much one read takes from the journal: at the rates of a backlog, what the sink publishes in some tens of
	// milliseconds.
	readWebhooks = 1024
	readBytes    = 8 << 20
	// besideShare is the part of those, and of the window, that a stream beside the live one has.
	besideShare = 8
	// readLetters is how many dead letters are read at a time.
	readLetters = 32
	// Webhooks as small as these are normalised where they are read, beside the loop. Others yield one event after the
	// other to it, so that a payload with very many is never expanded in memory.
	eagerEvents = 8
	eagerBytes  = 1 << 10
)

// Origin is where a Dispatcher's webhooks come from and where what becomes of them goes: the journal, or a queue in
// memory. Everything in between is the same for both. The Dispatcher's loop calls its methods one at a time, but for
// those that take a context, which it calls beside itself.
type Origin interface {
	// Begin returns where the live stream begins.
	Begin(ctx context.Context) (Beginning, error)
	// Keeps tells whether what was read, and is not finished, can be read again.
	Keeps() bool
	// Streams returns the streams beside the live one, and a channel that is closed once they may be others. It returns
	// none when ctx ends. A nil channel: there never are any.
	Streams(ctx context.Context) ([]journal.Stream, <-chan struct{})
	// Read returns what a stream has behind a number, oldest first. Of the live stream it waits until there is something:
	// none means that ctx has ended. Of another one none means its end, unless ctx has ended.
	Read(ctx context.Context, s *journal.Stream, after int64) []Entry
	// Save keeps how far streams have come, and unless state is nil how the sink is. With hurry, and no state, it may wait
	// a moment for something else that is to be written, until hurry is closed.
	Save(ctx context.Context, moves []journal.Move, state *journal.SinkState, hurry <-chan struct{}) error
	// DeadLetter takes events that are not to be tried again, with the dead letter of each, and answers for each: nil when
	// the dead letter is safe, ErrSenderTold when there is none and the webhook's sender hears of it instead, else why the
	// event is to be tried again.
	DeadLetter(ctx context.Context, items []*lane.Item, letters []journal.DeadLetter) []error

	// Backlog counts the webhooks that have not wholly reached a sink whose cursor is at the number given. It may be
	// called at any time.
	Backlog(cursor int64) int64
	// Words are what the log says of the sink.
	Words() Words
	// Done is told once of every webhook that the loop has no more to do with.
	Done(w *lane.Webhook)

	// Withdrawals fires when there may be webhooks that nobody waits for any more, and Withdrawn tells which. Nil: never.
	Withdrawals() <-chan struct{}
	Withdrawn(w *lane.Webhook) bool
	// Refuses tells whether an event is not to be taken now, since its lane is known to be down. The lane is nil as long
	// as it has had no event.
	Refuses(w *lane.Webhook, l *lane.Lane) bool
	// Settled judges how the sink is after a batch with live events.
	Settled(l *lane.Lane, b Settlement)
	// Checked judges by a check of the idle sink, and tells whether the check says anything of how the sink is.
	Checked(err error) bool
	// CheckInterval is how long after a check the next one comes.
	CheckInterval() time.Duration
}

// Beginning is where a live stream begins.
type Beginning struct {
	Cursor   int64  // the number of the webhook behind which
	Finished []byte // what was saved of what is finished beyond it
	Head     int64  // the number of the newest webhook: what lies up to it may have been published before
}

// Settlement is what an Origin hears of a batch.
type Settlement struct {
	Started time.Time
	Passed  bool        // something of it got through
	Health  SinkHealth  // of the sink, with the batch
	Lanes   *lane.Lanes // of the sink
	Cause   error       // why events of it failed; nil: none did
}

// SinkHealth is one of the states of a sink, as "fnbridge status" shows them.
type SinkHealth string

// The states of a sink.
const (
	Up       SinkHealth = "up"       // the last try of every partition was acknowledged
	Degraded SinkHealth = "degraded" // some events are held back, others go on
	Down     SinkHealth = "down"     // nothing gets through
	Blocked  SinkHealth = "blocked"  // nothing gets through until somebody mends it
)

// Words are what the log says of a sink, and of its events meanwhile.
type Words struct{ Degraded, Blocked, Down, Rejected, Refused string }

// Entry is a webhook as read, with its payload told apart; or a dead letter, with the event that it is.
type Entry struct {
	// Number is its place in what the stream reads.
	Number  int64
	Seq     int64 // of the webhook
	Webhook bridge.Webhook
	Payload tensorlake.Payload
	// Problem is why there is no payload.
	Problem error
	// Events are those of a small webhook, or of a dead letter; else nil.
	Events []bridge.Event
}

// events returns the events of a webhook. Ingest took each as a JSON object: that one is none is another version's
// judgement, and it is handed on as it is, as unrecognized.
func (e *Entry) events(o tensorlake.Options) iter.Seq[bridge.Event] {
	if e.Problem != nil {
		return tensorlake.Unrecognized(e.Webhook)
	}
	return e.Payload.Events(e.Webhook, o)
}

// Journal is what delivery needs of *journal.Journal. It is an interface so that tests can make the disk fail.
type Journal interface {
	Waiting(ctx context.Context, sink string, after int64, maxCount int, maxBytes int64) ([]journal.Webhook, error)
	Backlog(sink string, after int64) int64
	Changed() <-chan struct{}
	Head() int64
	Cursor(ctx context.Context, sink string) (int64, error)
	Finished(ctx context.Context, sink string) ([]byte, error)
	Select(ctx context.Context, f journal.WebhookFilter, maxCount int, maxBytes int64) ([]journal.Webhook, error)
	Retried(
		ctx context.Context, s journal.Stream, after int64, maxCount int, maxBytes int64,
	) ([]journal.DeadLetter, error)
	Streams(ctx context.Context) ([]journal.Stream, error)
	StreamsChanged() <-chan struct{}
	Move(ctx context.Context, moves []journal.Move, state *journal.SinkState) error
	MoveLazily(ctx context.Context, moves []journal.Move, hurry <-chan struct{}) error
	AddDeadLetters(ctx context.Context, letters []journal.DeadLetter) error
	Position(ctx context.Context, sink string) (bridge.Position, error)
	NoteMissing(
		ctx context.Context, sink string, found []bridge.WentBack, position bridge.Position, replay bool,
	) (journal.Missing, error)
}

// fromJournal is the Origin of a Dispatcher on a journal. What the journal holds waits for a sink however long that is
// down.
type fromJournal struct {
	journal       Journal
	sink          string
	events        tensorlake.Options
	checkInterval time.Duration
	replayMissing bool
	log           *slog.Logger
}

func (o *fromJournal) Begin(ctx context.Context) (b Beginning, err error) {
	if b.Cursor, err = o.journal.Cursor(ctx, o.sink); err != nil {
		return b, fmt.Errorf("cursor of sink %s: %w", o.sink, err)
	}
	b.Head = o.journal.Head()
	insist.Read(ctx, o.log, o.sink, func() (err error) {
		b.Finished, err = o.journal.Finished(ctx, o.sink)
		return err
	})
	return b, nil
}

func (o *fromJournal) Position(ctx context.Context) (bridge.Position, error) {
	return o.journal.Position(ctx, o.sink)
}

func (o *fromJournal) Keeps() bool { return true }

func (o *fromJournal) Streams(ctx context.Context) (mine []journal.Stream, changed <-chan struct{}) {
	changed = o.journal.StreamsChanged()
	insist.Read(ctx, o.log, o.sink, func() error {
		all, err := o.journal.Streams(ctx)
		mine = slices.DeleteFunc(all, func(s journal.Stream) bool { return s.Sink != o.sink })
		return err
	})
	return mine, changed
}

func (o *fromJournal) Read(ctx context.Context, s *journal.Stream, after int64) (page []Entry) {
	for {
		changed := o.journal.Changed()
		if !insist.Read(ctx, o.log, o.sink, func() (err error) {
			page, err = o.readOnce(ctx, s, after)
			return err
		}) {
			return nil
		}
		if len(page) > 0 || s.Kind != journal.Live {
			return page
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// readOnce reads what there is now. This is all in which the kinds of streams differ.
func (o *fromJournal) readOnce(ctx context.Context, s *journal.Stream, after int64) ([]Entry, error) {
	switch s.Kind {
	case journal.Retry:
		letters, err := o.journal.Retried(ctx, *s, after, readLetters, readBytes/besideShare)
		return ofLetters(letters), err
	case journal.Replay:
		if after >= s.Through {
			return nil, nil
		}
		webhooks, err := o.journal.Select(ctx,
			journal.WebhookFilter{After: after, Through: s.Through, Since: s.Since, Until: s.Until},
			readWebhooks, readBytes/besideShare)
		return o.parse(webhooks), err
	default:
		webhooks, err := o.journal.Waiting(ctx, o.sink, after, readWebhooks, readBytes)
		return o.parse(webhooks), err
	}
}

func (o *fromJournal) parse(webhooks []journal.Webhook) []Entry {
	entries := make([]Entry, len(webhooks))
	for i, w := range webhooks {
		e := &entries[i]
		e.Number, e.Seq = w.Seq, w.Seq
		e.Webhook = w.Webhook
		e.Payload, e.Problem = tensorlake.Parse(w.Body)
		if count := e.Payload.Len(o.events); e.Problem == nil && count <= eagerEvents && len(w.Body) <= eagerBytes {
			e.Events = slices.AppendSeq(make([]bridge.Event, 0, count), e.events(o.events))
		}
		if e.Problem != nil {
			o.log.Error("a stored webhook is not a JSON object; it is published as unrecognized",
				"sink", o.sink, "webhook_id", w.ID, "error", e.Problem)
		}
	}
	return entries
}

func ofLetters(letters []journal.DeadLetter) []Entry {
	entries := make([]Entry, len(letters))
	for i := range letters {
		l := &letters[i]
		entries[i] = Entry{
			Number: l.ID, Seq: l.WebhookSeq,
			Webhook: bridge.Webhook{ID: l.Event.WebhookID}, Events: []bridge.Event{l.Event},
		}
	}
	return entries
}

func (o *fromJournal) Save(
	ctx context.Context, moves []journal.Move, state *journal.SinkState, hurry <-chan struct{},
) error {
	if hurry != nil && state == nil {
		return o.journal.MoveLazily(ctx, moves, hurry)
	}
	return o.journal.Move(ctx, moves, state)
}

func (o *fromJournal) NoteMissing(
	ctx context.Context, found []bridge.WentBack, now bridge.Position,
) (journal.Missing, error) {
	return o.journal.NoteMissing(ctx, o.sink, found, now, o.replayMissing)
}

func (o *fromJournal) DeadLetter(ctx context.Context, _ []*lane.Item, letters []journal.DeadLetter) []error {
	errs := make([]error, len(letters))
	if err := o.journal.AddDeadLetters(ctx, letters); err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

func (o *fromJournal) Backlog(cursor int64) int64 { return o.journal.Backlog(o.sink, cursor) }

func (o *fromJournal) Words() Words {
	return Words{
		Degraded: "sink takes only part of the events; the others wait in the journal",
		Blocked:  "sink is blocked until its cause is mended; events wait in the journal, nothing is lost",
		Down:     "sink is down; events wait in the journal and are sent when it is back",
		Rejected: "events rejected by the sink's broker are in the dead letters",
	}
}

func (o *fromJournal) Done(*lane.Webhook)                     {} // the cursor says which webhooks are through
func (o *fromJournal) Withdrawals() <-chan struct{}           { return nil }
func (o *fromJournal) Withdrawn(*lane.Webhook) bool           { return false }
func (o *fromJournal) Refuses(*lane.Webhook, *lane.Lane) bool { return false }
func (o *fromJournal) Settled(*lane.Lane, Settlement)         {}
func (o *fromJournal) Checked(error) bool                     { return true }
func (o *fromJournal) CheckInterval() time.Duration           { return o.checkInterval }
