// Package delivery brings every webhook in the journal to a sink, at least once: one Dispatcher a sink reads behind
// the sink's cursor, normalises, publishes, tries again what failed, stores what can never be published as dead
// letters, and moves the cursor past what is finished. DESIGN.md beside this file states what holds and why.
package delivery

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// Journal is what delivery needs of *journal.Journal. It is an interface so that tests can make the disk fail.
type Journal interface {
	Read(ctx context.Context, after int64, maxCount int, maxBytes int64) ([]journal.Webhook, error)
	Head() int64
	Changed() <-chan struct{}
	Cursor(ctx context.Context, sink string) (int64, error)
	Select(ctx context.Context, f journal.WebhookFilter, maxCount int, maxBytes int64) ([]journal.Webhook, error)
	Retried(ctx context.Context, s journal.Stream, after int64, maxCount int) ([]journal.DeadLetter, error)
	Streams(ctx context.Context) ([]journal.Stream, error)
	StreamsChanged() <-chan struct{}
	Move(ctx context.Context, moves []journal.Move, state *journal.SinkState) error
	AddDeadLetters(ctx context.Context, letters []journal.DeadLetter) error
}

// Options of a Dispatcher. Sink and one of Journal and Origin are required; every other zero value means the default
// given.
type Options struct {
	Journal Journal
	// Origin is where webhooks come from that are in no journal.
	Origin Origin
	Sink   bridge.Sink
	Events tensorlake.Options
	// Routes selects the events that the sink gets. It is done with the others. The zero Routes selects all.
	Routes bridge.Routes

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Now is the clock for what is shown and stored. Waits are measured by the process's own clock, which nobody steps.
	Now func() time.Time

	// GiveUpAfter is how long an event may fail, or be held behind one of its key that fails, until it becomes a dead
	// letter (0: for ever).
	GiveUpAfter time.Duration

	// BatchEvents and BatchBytes bound what one Publish call gets (4,096 events, 4 MiB); ProbeEvents bounds it
	// while nothing gets through (16).
	BatchEvents int
	BatchBytes  int
	ProbeEvents int

	// WindowEvents, WindowBytes and WindowWebhooks bound how far delivery runs ahead of an event that does not get
	// through: unfinished events (8,192) and their bytes (64 MiB), and webhooks between the oldest unfinished one
	// and the newest one read (65,536).
	WindowEvents   int
	WindowBytes    int
	WindowWebhooks int

	// MinBackoff and MaxBackoff bound the wait before another try (100 ms, 30 s); BlockedBackoff is the least wait when
	// somebody has to mend something first (5 s).
	MinBackoff     time.Duration
	MaxBackoff     time.Duration
	BlockedBackoff time.Duration

	// ReturnInterval is how often a sink that is away is asked whether it is back, while events wait for it (250 ms).
	ReturnInterval time.Duration
	// CheckInterval is how often an idle sink is asked whether it could publish what the journal has (15 s), and
	// CheckTimeout how long it may take to say so (10 s).
	CheckInterval time.Duration
	CheckTimeout  time.Duration
}

func (o *Options) setDefaults() {
	defaultTo(&o.BatchEvents, 4096)
	defaultTo(&o.BatchBytes, 4<<20)
	defaultTo(&o.ProbeEvents, 16)
	defaultTo(&o.WindowEvents, 8192)
	defaultTo(&o.WindowBytes, 64<<20)
	defaultTo(&o.WindowWebhooks, 65536)
	defaultTo(&o.MinBackoff, 100*time.Millisecond)
	defaultTo(&o.MaxBackoff, 30*time.Second)
	defaultTo(&o.BlockedBackoff, 5*time.Second)
	defaultTo(&o.CheckInterval, 15*time.Second)
	defaultTo(&o.ReturnInterval, 250*time.Millisecond)
	defaultTo(&o.CheckTimeout, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

func (o *Options) limits() lane.Limits {
	return lane.Limits{
		BatchEvents: o.BatchEvents, BatchBytes: o.BatchBytes, ProbeEvents: o.ProbeEvents,
		MinBackoff: o.MinBackoff, MaxBackoff: o.MaxBackoff, BlockedBackoff: o.BlockedBackoff, GiveUpAfter: o.GiveUpAfter,
	}
}

// partition returns the partition that an event goes to; a sink without partitions has one.
func (o *Options) partition(e *bridge.Event) int {
	if p, ok := o.Sink.(bridge.Partitioned); ok {
		return p.Partition(*e)
	}
	return 0
}

func defaultTo[T int | time.Duration](value *T, fallback T) {
	if *value == 0 {
		*value = fallback
	}
}
