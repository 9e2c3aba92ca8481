package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

const (
	// deadLetterLines is the least time between two log lines about dead letters.
	deadLetterLines = 10 * time.Second
	// maxReason is how much of a reason a dead letter keeps: brokers say what they like.
	maxReason = 2048
)

// ErrSenderTold is the answer of Origin.DeadLetter for an event of which there is no dead letter.
var ErrSenderTold = errors.New("the sender of the webhook is told")

// fate is what became of an item.
type fate int

const (
	acknowledged fate = iota
	deadLettered
	failedAgain // and is a dead letter, though the sink did not say that it can never store it
	lost        // let go: nobody waits for it any more
)

// batch is a batch under way, and then what became of it.
type batch struct {
	lane    *lane.Lane
	items   []*lane.Item
	started time.Time
	// wellAt is when the sink was last seen to be well. What is not live and failed before fails by itself if it fails
	// again.
	wellAt time.Time
	// givenUp tells that it was not tried: it has been held for too long.
	givenUp bool

	errs    []error              // nil: the sink is done with it
	letters []journal.DeadLetter // that it became; nil: none did
	cause   error                // of what failed again; nil: nothing did
	fates   []fate               // of those without an error; nil: all are acknowledged
	final   []final              // what is not to be tried again
	told    []journal.DeadLetter // of what there are no dead letters, because senders are told instead
}

// final is an item that is not to be tried again, and why.
type final struct {
	place  int // in the batch
	reason string
}

func (b *batch) fate(i int) fate {
	if b.fates == nil {
		return acknowledged
	}
	return b.fates[i]
}

// send publishes batches together. It and what follows run beside the loop.
func (d *Dispatcher) send(ctx context.Context, batches []*batch) {
	count := 0
	for _, b := range batches {
		count += len(b.items)
	}
	events := make([]bridge.Event, 0, count)
	for _, b := range batches {
		for _, it := range b.items {
			events = append(events, *it.Event)
		}
	}
	start := time.Now()
	d.flying.Add(int64(count))
	errs := bridge.Answers(d.o.Sink.Publish(ctx, events), count)
	d.flying.Add(-int64(count))
	d.metrics.publish.Observe(time.Since(start).Seconds())
	for _, b := range batches {
		b.errs, errs = errs[:len(b.items):len(b.items)], errs[len(b.items):]
		d.judge(b, func(it *lane.Item, err error) (reason string, is bool) {
			again := !it.Webhook.Live && it.FailedBefore(b.wellAt)
			return err.Error(), again || bridge.KindOf(err) == bridge.FailureReject
		})
	}
}

// giveUp is what becomes of a batch that has been held for too long, instead of send.
func (d *Dispatcher) giveUp(b *batch) {
	b.errs = make([]error, len(b.items))
	for i := range b.errs {
		b.errs[i] = errGivenUp
	}
	d.judge(b, func(it *lane.Item, _ error) (string, bool) {
		return givenUpReason(it, it.Waited(b.started)), true
	})
}

var errGivenUp = bridge.Retry(errors.New("given up"))

// judge tells of each event of a batch that failed whether it is not to be tried again.
func (d *Dispatcher) judge(b *batch, reason func(*lane.Item, error) (string, bool)) {
	for i, err := range b.errs {
		if err == nil {
			d.acknowledged.Add(1)
			continue
		}
		why, is := reason(b.items[i], err)
		if !is {
			d.metrics.retried.Inc()
			continue
		}
		b.final = append(b.final, final{place: i, reason: why})
	}
}

// deadLetter has the events of a batch that are not to be tried again stored as dead letters, or their senders told.
// Their error becomes nil if that succeeds; otherwise they are tried again.
func (d *Dispatcher) deadLetter(ctx context.Context, b *batch) {
	letters := make([]journal.DeadLetter, len(b.final))
	items := make([]*lane.Item, len(b.final))
	now := d.o.Now()
	for k, f := range b.final {
		it := b.items[f.place]
		attempts := it.Attempts
		if !b.givenUp {
			attempts++
		}
		items[k] = it
		letters[k] = journal.DeadLetter{
			Sink: d.name, WebhookSeq: it.Webhook.Seq, FirstAt: now, LastAt: now,
			DeadLetter: bridge.DeadLetter{
				Event: *it.Event, Reason: excerpt.Cut(f.reason, maxReason), Attempts: attempts,
			},
		}
	}
	b.fates = make([]fate, len(b.items))
	for k, err := range d.origin.DeadLetter(ctx, items, letters) {
		i := b.final[k].place
		switch {
		case err == nil:
			if b.fates[i] = deadLettered; bridge.KindOf(b.errs[i]) != bridge.FailureReject {
				b.fates[i], b.cause = failedAgain, b.errs[i]
			}
			b.errs[i] = nil
			b.letters = append(b.letters, letters[k])
			d.metrics.lettered(b.givenUp)
		case errors.Is(err, ErrSenderTold):
			b.errs[i] = nil
			b.told = append(b.told, letters[k])
			d.metrics.rejected.Inc()
		default:
			b.errs[i] = bridge.Retry(fmt.Errorf("rejected by the sink, and the dead letter could not be stored: %w", err))
			d.metrics.retried.Inc()
		}
	}
}

func givenUpReason(it *lane.Item, after time.Duration) string {
	if after >= time.Second {
		after = after.Truncate(time.Second)
	}
	switch {
	case it.Attempts == 0 && it.BehindLane:
		return fmt.Sprintf("given up after %s without a try, while nothing got through to its partition: %s",
			after, it.Failure)
	case it.Attempts == 0:
		return fmt.Sprintf("given up after %s without a try, held behind an earlier event of its key: %s", after, it.Failure)
	case it.Attempts == 1:
		return fmt.Sprintf("given up after %s and 1 try: %s", after, it.Failure)
	default:
		return fmt.Sprintf("given up after %s and %d tries: %s", after, it.Attempts, it.Failure)
	}
}

// notices are the lines of the log about new dead letters.
type notices struct{ rejections, refusals, givings notice }

func newNotices(d *Dispatcher) notices {
	n := func(message string) notice { return notice{d: d, message: message} }
	words := d.origin.Words()
	return notices{
		rejections: n(words.Rejected), refusals: n(words.Refused),
		givings: n("events that were given up are in the dead letters"),
	}
}

func (n *notices) say(b *batch) {
	if b.givenUp {
		n.givings.say(b.letters)
		return
	}
	n.rejections.say(b.letters)
	n.refusals.say(b.told)
}

// sayRest writes at a stop what the log was not told of.
func (n *notices) sayRest() {
	for _, n := range []*notice{&n.rejections, &n.refusals, &n.givings} {
		if n.unsaid > 0 {
			n.d.o.Logger.Warn("more "+n.message, //nolint:sloglint // one of the few with which the notices are made
				"sink", n.d.name, "events", n.unsaid)
		}
	}
}

// notice is a line of the log, written once every while: a payload can have very many functions.
type notice struct {
	d       *Dispatcher
	message string
	unsaid  int // dead letters that the log was not told of
	said    time.Time
}

func (n *notice) say(letters []journal.DeadLetter) {
	if len(letters) == 0 {
		return
	}
	n.unsaid += len(letters)
	now := time.Now()
	if !n.said.IsZero() && now.Sub(n.said) < deadLetterLines {
		return
	}
	last := &letters[len(letters)-1]
	n.d.o.Logger.Warn(n.message, "sink", n.d.name, "events", n.unsaid, //nolint:sloglint // as above
		"last_event_id", last.Event.ID, "last_type", excerpt.Shorten(last.Event.Type),
		"last_webhook_id", last.Event.WebhookID, "last_error", last.Reason)
	n.unsaid, n.said = 0, now
}
