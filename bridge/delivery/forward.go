package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

const (
	// rememberedRefusals bounds what is remembered of dead letters that their address refused.
	rememberedRefusals = 1 << 16
	// refusalPause is the least time between two rounds while there are any of those: each reads them again.
	refusalPause = time.Second
)

// forwarder publishes the sink's dead letters to the address that it has for them, at least once. It runs beside the
// loop and shares nothing with it but the journal, so trouble there holds up no event.
type forwarder struct {
	*Dispatcher
	sink    bridge.DeadLetterPublisher
	publish context.Context //nolint:containedctx // lives as long as the forwarder: what publishing may use up after Run's own context has ended
	attempt int             // consecutive calls that the address took nothing of; 0: it does not fail
	after   int64           // the last letter that was looked at in this round
	missed  bool            // the address failed since the round began
	cause   error
	told    bool // the log has it
	// refused are those that can never be stored at the address, with when they became so. They are left alone until they
	// come back with a later try of their own, or until the next start.
	refused map[int64]time.Time
}

// forward publishes dead letters until ctx ends. It does nothing for a sink without an address for them, or without a
// journal that has some.
func (d *Dispatcher) forward(ctx, publish context.Context) {
	sink, ok := d.o.Sink.(bridge.DeadLetterPublisher)
	if !ok || sink.DeadLetterAddress() == "" || d.o.Journal == nil {
		return
	}
	f := &forwarder{Dispatcher: d, sink: sink, publish: publish, refused: make(map[int64]time.Time)}
	for ctx.Err() == nil {
		changed := d.o.Journal.DeadLettersChanged()
		if !f.round(ctx) {
			pause(ctx, backoff(max(1, f.attempt), bridge.KindOf(f.cause), &d.o))
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
			if len(f.refused) > 0 {
				pause(ctx, refusalPause)
			}
		}
	}
}

// round publishes everything that has not been, or goes on where the last one stopped because the address took nothing:
// a letter that fails for ever holds up none behind it. It tells whether all were looked at and the address never failed.
func (f *forwarder) round(ctx context.Context) bool {
	for {
		var page []journal.DeadLetter
		if !f.insist(ctx, func() (err error) {
			page, err = f.o.Journal.DeadLetters(ctx,
				journal.DeadLetterFilter{Sink: f.name, Unpublished: true, AfterID: f.after, Limit: letterPage})
			return err
		}) {
			return true
		}
		if len(page) == 0 {
			passed := !f.missed
			f.after, f.missed = 0, false
			return passed
		}
		end := page[len(page)-1].ID
		for batch := f.due(page); len(batch) > 0; {
			n := f.portion(batch)
			f.after = batch[n-1].ID
			if stored, failed := f.send(ctx, batch[:n]); failed {
				f.missed = true
				if stored == 0 {
					return false
				}
			}
			if ctx.Err() != nil {
				return true
			}
			batch = batch[n:]
		}
		f.after = end
	}
}

// due leaves out what was refused, and what is being tried again at the sink itself: that is removed, or comes back.
func (f *forwarder) due(page []journal.DeadLetter) []journal.DeadLetter {
	batch := page[:0]
	for i := range page {
		if at, refused := f.refused[page[i].ID]; page[i].RetryAt.IsZero() && (!refused || !at.Equal(page[i].LastAt)) {
			batch = append(batch, page[i])
		}
	}
	return batch
}

// portion returns how many of the letters go in one call.
func (f *forwarder) portion(letters []journal.DeadLetter) int {
	most := len(letters)
	if f.attempt > 0 {
		most = min(most, f.o.ProbeEvents)
	}
	bytes := 0
	for n := range most {
		bytes += len(letters[n].Event.Data)
		if n > 0 && bytes > f.o.BatchBytes {
			return n
		}
	}
	return min(most, f.o.BatchEvents)
}

// send publishes letters and notes in the journal which of them were stored. It tells how many that are, and whether the
// address failed.
func (f *forwarder) send(ctx context.Context, letters []journal.DeadLetter) (count int, failed bool) {
	batch := make([]bridge.DeadLetter, len(letters))
	for i := range letters {
		batch[i] = bridge.DeadLetter{Event: letters[i].Event, Reason: letters[i].Reason, Attempts: letters[i].Attempts}
	}
	//nolint:contextcheck // what is under way at a stop has the context publish
	errs := answers(f.sink.PublishDeadLetters(f.publish, batch), len(batch))
	var stored []journal.DeadLetter
	var cause error
	for i, err := range errs {
		switch {
		case err == nil:
			stored = append(stored, letters[i])
		case bridge.KindOf(err) == bridge.FailureReject:
			f.metrics.lettersRejected.Inc()
			f.refuse(&letters[i], err)
		default:
			f.metrics.lettersRetried.Inc()
			cause = err
		}
	}
	f.metrics.lettersPublished.Add(float64(len(stored)))
	f.note(ctx, stored)
	if len(stored) > 0 {
		f.attempt = 0
	}
	switch {
	case cause != nil:
		f.cause = cause
		if f.attempt++; !f.told && f.publish.Err() == nil && (f.attempt > 1 || bridge.KindOf(cause) == bridge.FailureBlocked) {
			f.told = true
			f.o.Logger.Warn("dead letters cannot be published to the sink's dead-letter address; they are kept and tried again",
				"sink", f.name, "address", f.sink.DeadLetterAddress(), "error", cause)
		}
	case len(stored) > 0 && f.told:
		f.told = false
		f.o.Logger.Info("dead letters can be published to the sink's dead-letter address again",
			"sink", f.name, "address", f.sink.DeadLetterAddress())
	}
	return len(stored), cause != nil
}

// refuse remembers a letter that the address can never store.
func (f *forwarder) refuse(d *journal.DeadLetter, err error) {
	if len(f.refused) == 0 {
		f.o.Logger.Warn("a dead letter was rejected at the sink's dead-letter address, too; it stays in the dead letters, unpublished",
			"sink", f.name, "address", f.sink.DeadLetterAddress(), "dead_letter", d.ID, "event_id", d.Event.ID, "error", err)
	}
	if len(f.refused) >= rememberedRefusals {
		clear(f.refused)
	}
	f.refused[d.ID] = d.LastAt
}

// note stores which letters were published, and goes on trying until ctx ends: they are not to be published twice.
func (f *forwarder) note(ctx context.Context, letters []journal.DeadLetter) {
	if len(letters) == 0 {
		return
	}
	for failed := false; ; failed = true {
		err := f.o.Journal.DeadLettersPublished(f.publish, letters) //nolint:contextcheck // as above
		if err == nil {
			return
		}
		if !failed {
			f.o.Logger.Error("the journal cannot note which dead letters were published; trying again every second",
				"sink", f.name, "dead_letters", len(letters), "error", err)
		}
		if pause(ctx, journalRetry); ctx.Err() != nil {
			return
		}
	}
}

// answers returns a sink's results. A count that does not add up is never trusted: nothing counts as acknowledged then.
func answers(errs []error, want int) []error {
	if len(errs) == want {
		return errs
	}
	err := fmt.Errorf("sink answered %d results for %d events", len(errs), want)
	errs = make([]error, want)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
