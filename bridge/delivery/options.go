// Package delivery brings every webhook in the journal to a sink, at least once: one Dispatcher a sink reads behind
// the sink's cursor, normalises, publishes, tries again what failed, stores what can never be published as dead
// letters, and moves the cursor past what is finished. DESIGN.md beside this file states what holds and why.
package delivery

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

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

	// ReplayMissing has what the sink's broker lost of what it had acknowledged published again without being asked: for a
	// broker whose disk is the bridge's.
	ReplayMissing bool

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Now is the clock for what is shown and stored. Waits are measured by the process's own clock, which nobody steps.
	Now func() time.Time

	// GiveUpAfter is how long an event may fail, or be held behind one of its key that fails, until it becomes a dead
	// letter (0: for ever).
	GiveUpAfter time.Duration

	// BatchEvents bounds what one Publish call gets (4,096); ProbeEvents bounds it while nothing gets through (16).
	BatchEvents int
	ProbeEvents int

	// WindowEvents bounds how many events are in memory that are not finished (8,192). What stands still while the rest
	// goes on has half of it; what is beyond that is left in the journal, and WindowLeft bounds what is remembered of it,
	// in webhooks and keys (524,288). WindowWebhooks bounds how far a replay or retry runs ahead of its oldest unfinished
	// webhook (65,536).
	WindowEvents   int
	WindowLeft     int
	WindowWebhooks int

	// MinBackoff and MaxBackoff bound the wait before another try (100 ms, 30 s); BlockedBackoff is the least wait when
	// somebody has to mend something first (5 s).
	MinBackoff     time.Duration
	MaxBackoff     time.Duration
	BlockedBackoff time.Duration

	// ReturnInterval is how often a sink that is away is asked whether it is back, while events wait for it (250 ms).
	ReturnInterval time.Duration
	// CheckInterval is how often an idle sink is asked whether it could publish what the journal has (15 s).
	CheckInterval time.Duration
}

const (
	// batchBytes bounds what one Publish call gets, and windowBytes what is in memory of events that are not finished.
	batchBytes  = 4 << 20
	windowBytes = 64 << 20
	// checkTimeout is how long a sink may take to say whether it could publish.
	checkTimeout = 10 * time.Second
)

func (o *Options) setDefaults() {
	defaultTo(&o.BatchEvents, 4096)
	defaultTo(&o.ProbeEvents, 16)
	defaultTo(&o.WindowEvents, 8192)
	defaultTo(&o.WindowLeft, 1<<19)
	defaultTo(&o.WindowWebhooks, 65536)
	defaultTo(&o.MinBackoff, 100*time.Millisecond)
	defaultTo(&o.MaxBackoff, 30*time.Second)
	defaultTo(&o.BlockedBackoff, 5*time.Second)
	defaultTo(&o.CheckInterval, 15*time.Second)
	defaultTo(&o.ReturnInterval, 250*time.Millisecond)
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
		BatchEvents: o.BatchEvents, BatchBytes: batchBytes, ProbeEvents: o.ProbeEvents,
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

// partitions returns how many there are, and 0 while that is not known.
func (o *Options) partitions() int {
	if p, ok := o.Sink.(bridge.Partitioned); ok {
		return p.PartitionCount()
	}
	return 1
}

// leader returns the number of the broker that stores a partition, and -1 while that is not known.
func (o *Options) leader(partition int) int {
	if p, ok := o.Sink.(bridge.Partitioned); ok {
		return p.Leader(partition)
	}
	return -1
}

// orderingKey returns what makes the key by which the sink keeps events in order, and how many webhooks are taken from
// by turns. Where the events of one can have several keys, one webhook follows the other: a turn knows the key of its
// next event alone.
func (o *Options) orderingKey() (key func(*bridge.Event) string, turns int) {
	if k, ok := o.Sink.(bridge.Keyed); ok {
		if key = k.OrderingKey(); key != nil {
			return key, 1
		}
	}
	return func(e *bridge.Event) string { return e.PartitionKey }, openSources
}

// stillShare is the part of the window that what stands still has.
func (o *Options) stillShare() lane.Share {
	return lane.Share{Events: o.WindowEvents / 2, Bytes: windowBytes / 2}
}

func defaultTo[T int | time.Duration](value *T, fallback T) {
	if *value == 0 {
		*value = fallback
	}
}
