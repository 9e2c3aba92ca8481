// Package forward publishes the dead letters of a sink to the address that it has for them.
package forward

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/insist"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

const (
	// page is how many dead letters are read at a time, and published in one call.
	page = 32
	// batchBytes bounds the data of both, and probe the letters of a call while the address takes nothing.
	batchBytes = 4 << 20
	probe      = 16
	// rememberedRefusals bounds what is remembered of dead letters that their address refused.
	rememberedRefusals = 1 << 16
	// refusalPause is the least time between two rounds while there are any of those: each reads them again.
	refusalPause = time.Second
	// blockedBackoff is the least wait before another try when somebody has to mend something first.
	blockedBackoff = 5 * time.Second
)

// Journal is what a Forwarder needs of *journal.Journal. It is an interface so that tests can make the disk fail.
type Journal interface {
	DeadLetters(ctx context.Context, f journal.DeadLetterFilter) ([]journal.DeadLetter, error)
	DeadLettersAdded() <-chan struct{}
	DeadLettersPublished(ctx context.Context, letters []journal.DeadLetter) error
}

// Options of a Forwarder. Journal and Sink are required; every other zero value means the default given.
type Options struct {
	Journal Journal
	Sink    bridge.Sink
	// MinBackoff and MaxBackoff bound the wait before another try (100 ms, 30 s).
	MinBackoff, MaxBackoff time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Forwarder publishes a sink's dead letters to the address that it has for them, at least once. It shares nothing with
// the sink's Dispatcher but the journal, so trouble there holds up no event.
type Forwarder struct {
	o       Options
	name    string
	sink    bridge.DeadLetterPublisher // nil: it has no address
	metrics Metrics
	backoff lane.Limits

	attempt int   // consecutive calls that the address took nothing of; 0: it does not fail
	after   int64 // the last letter that was looked at in this round
	missed  bool  // the address failed since the round began
	cause   error
	told    bool // the log has it
	// refused are those that can never be stored at the address, with when they became so. They are left alone until they
	// come back with a later try of their own, or until the next start.
	refused map[int64]time.Time
}

// New makes a Forwarder and registers its metrics, also for a sink without an address for dead letters.
func New(o Options) (*Forwarder, error) {
	if o.MinBackoff == 0 {
		o.MinBackoff = 100 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Forwarder{
		o: o, name: o.Sink.Name(), sink: Address(o.Sink), refused: make(map[int64]time.Time),
		backoff: lane.Limits{MinBackoff: o.MinBackoff, MaxBackoff: o.MaxBackoff, BlockedBackoff: blockedBackoff},
	}
	var err error
	f.metrics, err = NewMetrics(f.name, o.Registerer)
	return f, err
}

// Address returns the sink as one that publishes dead letters, and nil if it has no address for them.
func Address(sink bridge.Sink) bridge.DeadLetterPublisher {
	if s, ok := sink.(bridge.DeadLetterPublisher); ok && s.DeadLetterAddress() != "" {
		return s
	}
	return nil
}

// Run publishes dead letters until ctx ends. Then what is under way has its answer, for as long as the context publish
// lasts. It does nothing for a sink without an address for them.
func (f *Forwarder) Run(ctx, publish context.Context) {
	if f.sink == nil {
		return
	}
	for ctx.Err() == nil {
		added := f.o.Journal.DeadLettersAdded()
		if !f.round(ctx, publish) {
			insist.Wait(ctx, f.backoff.Backoff(max(1, f.attempt), bridge.KindOf(f.cause)))
			continue
		}
		select {
		case <-ctx.Done():
		case <-added:
			if len(f.refused) > 0 {
				insist.Wait(ctx, refusalPause)
			}
		}
	}
}

// round publishes everything that has not been, or goes on where the last one stopped because the address took nothing:
// a letter that fails for ever holds up none behind it. It tells whether all were looked at and the address never
// failed.
func (f *Forwarder) round(ctx, publish context.Context) bool {
	for {
		letters := f.read(ctx)
		if ctx.Err() != nil {
			return true
		}
		if len(letters) == 0 {
			passed := !f.missed
			f.after, f.missed = 0, false
			return passed
		}
		end := letters[len(letters)-1].ID
		for batch := f.due(letters); len(batch) > 0; {
			n := len(batch)
			if f.attempt > 0 {
				n = min(n, probe)
			}
			f.after = batch[n-1].ID
			if stored, failed := f.send(ctx, publish, batch[:n]); failed {
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

// read returns the next letters to publish. It tries until the journal can be read, or ctx ends.
func (f *Forwarder) read(ctx context.Context) (letters []journal.DeadLetter) {
	insist.Read(ctx, f.o.Logger, f.name, func() (err error) {
		letters, err = f.o.Journal.DeadLetters(ctx,
			journal.DeadLetterFilter{Sink: f.name, Unpublished: true, AfterID: f.after, Limit: page, MaxBytes: batchBytes})
		return err
	})
	return letters
}

// due leaves out what was refused.
func (f *Forwarder) due(letters []journal.DeadLetter) []journal.DeadLetter {
	return slices.DeleteFunc(letters, func(l journal.DeadLetter) bool {
		at, refused := f.refused[l.ID]
		return refused && at.Equal(l.LastAt)
	})
}

// send publishes letters and notes in the journal which of them were stored. It tells how many that are, and whether
// the address failed.
func (f *Forwarder) send(ctx, publish context.Context, letters []journal.DeadLetter) (count int, failed bool) {
	batch := make([]bridge.DeadLetter, len(letters))
	for i := range letters {
		batch[i] = letters[i].DeadLetter
	}
	errs := bridge.Answers(f.sink.PublishDeadLetters(publish, batch), len(batch))
	var stored []journal.DeadLetter
	var cause error
	for i, err := range errs {
		switch {
		case err == nil:
			stored = append(stored, letters[i])
		case bridge.KindOf(err) == bridge.FailureReject:
			f.metrics.Rejected.Inc()
			f.refuse(&letters[i], err)
		default:
			f.metrics.Retried.Inc()
			cause = err
		}
	}
	f.metrics.Published.Add(float64(len(stored)))
	f.note(ctx, publish, stored)
	if len(stored) > 0 {
		f.attempt = 0
	}
	switch {
	case cause != nil:
		f.cause = cause
		if f.attempt++; !f.told && publish.Err() == nil && (f.attempt > 1 || bridge.KindOf(cause) == bridge.FailureBlocked) {
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
func (f *Forwarder) refuse(d *journal.DeadLetter, err error) {
	if len(f.refused) == 0 {
		f.o.Logger.Warn("a dead letter was rejected at the sink's dead-letter address, too; "+
			"it stays in the dead letters, unpublished",
			"sink", f.name, "address", f.sink.DeadLetterAddress(), "dead_letter", d.ID, "webhook_id", d.Event.WebhookID,
			"event_id", d.Event.ID, "error", err)
	}
	if len(f.refused) >= rememberedRefusals {
		clear(f.refused)
	}
	f.refused[d.ID] = d.LastAt
}

// note stores which letters were published, and goes on trying until ctx ends: they are not to be published twice.
func (f *Forwarder) note(ctx, publish context.Context, letters []journal.DeadLetter) {
	if len(letters) == 0 {
		return
	}
	for failed := false; ; failed = true {
		err := f.o.Journal.DeadLettersPublished(publish, letters)
		if err == nil {
			return
		}
		if !failed {
			f.o.Logger.Error("the journal cannot note which dead letters were published; trying again every second",
				"sink", f.name, "dead_letters", len(letters), "error", err)
		}
		if insist.Wait(ctx, insist.Pause); ctx.Err() != nil {
			return
		}
	}
}

// Metrics count dead letters by what came of a try to publish them to their sink's address.
type Metrics struct{ Published, Retried, Rejected prometheus.Counter }

// NewMetrics registers the Metrics of a sink.
func NewMetrics(sink string, registerer prometheus.Registerer) (Metrics, error) {
	letters := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fnbridge_sink_dead_letters_published_total", ConstLabels: prometheus.Labels{"sink": sink},
		Help: "Dead letters by what came of a try to publish them to the sink's dead-letter address: " +
			"published, retried (will be tried again) or rejected.",
	}, []string{"result"})
	if registerer != nil {
		if err := registerer.Register(letters); err != nil {
			return Metrics{}, fmt.Errorf("metrics of sink %s: %w", sink, err)
		}
	}
	return Metrics{
		Published: letters.WithLabelValues("published"), Retried: letters.WithLabelValues("retried"),
		Rejected: letters.WithLabelValues("rejected"),
	}, nil
}
