package delivery

import (
	"context"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/insist"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// checkpointInterval is the least time between two positions that are remembered together with the cursor.
const checkpointInterval = 10 * time.Second

// positionKeeper is an Origin that keeps how far a sink's broker has acknowledged.
type positionKeeper interface {
	// Position returns what Save has kept last.
	Position(ctx context.Context) (bridge.Position, error)
	// NoteMissing keeps that the broker went back, and goes on from where it is now. Nothing of the sink is under way, and
	// everything is saved. It returns what may be missing.
	NoteMissing(ctx context.Context, found []bridge.WentBack, now bridge.Position) (journal.Missing, error)
}

// broker is what the loop knows of how far the sink's broker has acknowledged. One without a water knows nothing.
type broker struct {
	o      *Options
	sink   string
	water  *bridge.HighWater
	keeper positionKeeper
	back   <-chan struct{}

	// found are the ways in which it went back that are to be noted. Until then nothing is published: what is acknowledged
	// meanwhile would be of before or of since then, and nobody could say which.
	found          []bridge.WentBack
	noting, unsaid bool
	nextNote       time.Time
	nextCheckpoint time.Time
}

// newBroker has the sink find out whether its broker goes back, if that is possible.
func newBroker(ctx context.Context, o *Options, sink string, origin Origin) broker {
	b := broker{o: o, sink: sink}
	positioned, ok := o.Sink.(bridge.Positioned)
	keeper, keeps := origin.(positionKeeper)
	if !ok || !keeps {
		return b
	}
	var acknowledged bridge.Position
	insist.Read(ctx, o.Logger, sink, func() (err error) {
		acknowledged, err = keeper.Position(ctx)
		return err
	})
	b.water, b.keeper = positioned.HighWater(), keeper
	b.water.Restore(acknowledged)
	b.back = b.water.Back()
	return b
}

// look takes what the sink has found.
func (b *broker) look() { b.found = b.water.Found() }

// mark adds to a move of the live stream how far the broker has acknowledged.
func (b *broker) mark(m *journal.Move) {
	if b.water == nil {
		return
	}
	m.Position = b.water.Position()
	if now := time.Now(); len(b.found) == 0 && len(m.Position) > 0 && now.After(b.nextCheckpoint) {
		m.Checkpoint, b.nextCheckpoint = true, now.Add(checkpointInterval)
	}
}

// note notes beside the loop that the broker went back, if it did, and returns when to try again after a failure.
// Nothing is under way, and everything is saved. Once it is noted, noted is called in the loop.
func (b *broker) note(ctx context.Context, now time.Time, start func(func() func()), noted func()) time.Time {
	if b.noting {
		return time.Time{}
	}
	if now.Before(b.nextNote) {
		return b.nextNote
	}
	b.noting = true
	found, settled := b.found, b.water.Settled(b.found)
	start(func() func() {
		missing, err := b.keeper.NoteMissing(ctx, found, settled)
		return func() {
			b.noting = false
			if err != nil {
				b.nextNote = time.Now().Add(insist.Pause)
				if !b.unsaid && ctx.Err() == nil {
					b.unsaid = true
					b.o.Logger.Error("the sink's broker went back, and that cannot be noted; nothing is published until it is",
						"sink", b.sink, "error", err)
				}
				return
			}
			b.water.Settle(found)
			b.unsaid = false
			b.look()
			b.say(&missing)
			noted()
		}
	})
	return time.Time{}
}

// say tells the log what may be missing.
func (b *broker) say(m *journal.Missing) {
	log := b.o.Logger.With("sink", b.sink, "found", m.Found)
	switch {
	case m.Webhooks() == 0:
		log.Warn("the sink's broker went back; the journal has nothing that could be missing there")
	case m.Replay != 0:
		log.Warn("the sink's broker went back, and events that it had acknowledged may be missing; they are replayed",
			"replay", m.Replay, "webhooks", m.Webhooks())
	default:
		log.Error("the sink's broker went back, and events that it had acknowledged may be missing; replay them",
			"webhooks", m.Webhooks(), "command", m.Command(b.sink))
	}
}
