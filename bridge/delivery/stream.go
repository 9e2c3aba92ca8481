package delivery

import (
	"math"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

// besidePortion is how many events a stream beside the live one gives in its turn.
const besidePortion = 256

// beyondRate is how many bytes a second are written, at most, of what is finished beyond the cursor.
const beyondRate = 64 << 10

// stream is a cursor over the journal: where it stands, where it ends, which events it wants. The live stream of a
// sink, a replay and a retry of dead letters are the same but for what Origin.Read reads for them.
type stream struct {
	row    journal.Stream
	window lane.Window
	open   openWebhooks
	// left is what it left behind, which it does if leaves is set, and again reads that once more.
	left   *lane.Left
	leaves bool
	again  secondReading
	// before is what a run before this one had finished beyond the cursor.
	before lane.Finished
	// repeats is up to which number what it publishes may have been published, or made a dead letter, before.
	repeats int64
	// share is the part of the window that it has, and portion how many events it gives in a turn.
	share, portion int

	reading  bool
	ended    bool // there is nothing more to read
	released bool // it is not wanted any more: nothing of it is taken, and what fails is let go
	due      time.Time

	dirty  bool // it has moved since it was saved
	saving bool
	stored []journal.Event // reached the sink since then

	beyond      bool // something beyond the cursor may be finished that was not saved
	savedBeyond bool // what was saved last is something
	nextBeyond  time.Time
}

func newStream(row journal.Stream, o *Options) *stream {
	key, turns := o.orderingKey()
	row.Taken = row.Acknowledged + row.DeadLettered // what was under way is taken again
	s := &stream{
		row: row, window: lane.NewWindow(row.Cursor), left: lane.NewLeft(), share: 1, portion: math.MaxInt,
		open: openWebhooks{key: key, turns: turns},
	}
	s.again.open = s.open
	if row.Kind != journal.Live {
		s.share, s.portion = besideShare, besidePortion
	}
	return s
}

// newLive makes the live stream of a sink.
func newLive(d *Dispatcher, cursor, repeats int64) *stream {
	s := newStream(journal.Stream{Kind: journal.Live, Sink: d.name, Cursor: cursor}, &d.o)
	s.leaves, s.repeats = d.origin.Keeps(), repeats
	return s
}

func (s *stream) live() bool { return s.row.Kind == journal.Live }

func (s *stream) room(o *Options) bool {
	return s.window.Room(max(1, o.WindowEvents/s.share), windowBytes/s.share)
}

// wants tells whether the stream publishes an event to a sink with such routes.
func (s *stream) wants(routes bridge.Routes) func(*bridge.Event) bool {
	switch {
	case s.row.Kind == journal.Retry:
		return nil // its reading selects, and it was the sink's when it became a dead letter
	case !s.row.Events.IsZero():
		return func(e *bridge.Event) bool { return routes.Match(e) && s.row.Events.Match(e) }
	case !routes.IsZero():
		return routes.Match
	default:
		return nil
	}
}

// needsRead tells whether little is left of what has been read.
func (s *stream) needsRead(o *Options) bool {
	return !s.reading && !s.ended && !s.released && s.open.runsOut(s.share) && s.room(o) && !s.full(o)
}

// full tells whether it is too far ahead of what is not finished to read on.
func (s *stream) full(o *Options) bool {
	switch {
	case s.leaves:
		return s.left.Size() >= o.WindowLeft
	case s.live(): // what cannot be read again is bounded where it waits
		return false
	default:
		return s.window.Span() >= int64(o.WindowWebhooks)
	}
}

// took opens what has been read.
func (s *stream) took(page []Entry, o *Options) {
	if s.released {
		return
	}
	for i := range page {
		e := &page[i]
		wants := s.wants(o.Routes)
		all, finished := s.before.Of(e.Number)
		if all {
			s.window.Skip(e.Number)
			continue
		}
		if !finished.Empty() {
			wants = both(wants, func(e *bridge.Event) bool { return !finished.Has(e.Origin.Index) })
		}
		w := s.webhook(e)
		w.Resume(finished)
		s.window.Add(w)
		s.open.add(newSource(w, e, wants, o.Events))
	}
}

func (s *stream) webhook(e *Entry) *lane.Webhook {
	return &lane.Webhook{
		Number: e.Number, Seq: e.Seq, ID: e.Webhook.ID, ReceivedAt: e.Webhook.ReceivedAt, Live: s.live(), Owner: s,
	}
}

// both returns what selects the events that a and b select. A nil a selects all.
func both(a, b func(*bridge.Event) bool) func(*bridge.Event) bool {
	if a == nil {
		return b
	}
	return func(e *bridge.Event) bool { return a(e) && b(e) }
}

// take takes events into the lanes as far as there is room, and returns when to come again, if that is known.
func (s *stream) take(l *loop, now time.Time) time.Time {
	s.takeAgain(l.lanes, &l.d.o, l.d.origin, now)
	still, goOn := l.lanes.Still(), l.lanes.GoOn()
	for range s.portion {
		if s.open.len() == 0 || !s.room(&l.d.o) {
			return time.Time{}
		}
		if s.row.Rate > 0 && now.Before(s.due) {
			return s.due
		}
		from := s.open.next()
		var e *bridge.Event
		if l.d.origin.Withdrawn(from.webhook) {
			from.drop()
		} else {
			e = from.next()
		}
		if e == nil {
			from.stop()
			s.open.remove()
			s.exhaust(l.d.origin, from.webhook)
			continue
		}
		it := &lane.Item{Event: e, Webhook: from.webhook, Key: s.open.key(e)}
		ln := l.lanes.Of(it)
		if l.d.origin.Refuses(from.webhook, ln) {
			from.webhook.Lost++
			continue
		}
		from.taken++
		if s.leaves {
			stands := ln.Still(it)
			if s.left.Has(it.Key) || (stands && goOn && !still.Below(l.d.o.stillShare())) {
				s.left.Leave(it, now)
				continue
			}
			if stands {
				still.Add(it)
			}
		}
		it.Event = s.own(e)
		s.window.Take(it)
		l.lanes.Add(it)
		s.pace(now)
	}
	return now
}

// exhaust notes that every event of a webhook has been taken or left behind.
func (s *stream) exhaust(origin Origin, w *lane.Webhook) {
	if s.window.Exhaust(w) {
		origin.Done(w)
	}
	s.left.Put(w)
}

// own returns the event as the stream publishes it: what a replay publishes is no repeat that a broker may drop.
func (s *stream) own(e *bridge.Event) *bridge.Event {
	s.row.Taken++
	if s.row.Kind != journal.Replay {
		return e
	}
	again := *e
	again.Origin.Replay = s.row.ID
	return &again
}

// pace notes when the next event may be taken.
func (s *stream) pace(now time.Time) {
	if s.row.Rate <= 0 {
		return
	}
	if s.due.Before(now.Add(-time.Second)) { // what was not used is not saved up
		s.due = now
	}
	s.due = s.due.Add(time.Duration(float64(time.Second) / s.row.Rate))
}

// finish notes what became of an item: it reached the sink, is a dead letter, or was let go.
func (s *stream) finish(it *lane.Item, f fate, m *metrics) (done bool) {
	switch f {
	case lost:
		it.Webhook.Lost++
		s.row.Taken--
	case deadLettered, failedAgain:
		s.row.DeadLettered++
	case acknowledged:
		s.row.Acknowledged++
		if !s.live() || it.Webhook.Number <= s.repeats {
			s.stored = append(s.stored, journal.Event{WebhookSeq: it.Webhook.Seq, Index: it.Event.Origin.Index})
		}
	}
	if !s.live() {
		s.dirty = true
		m.beside(s.row.Kind, f)
	}
	if it.Again {
		s.again.finish(it)
	}
	s.beyond = s.leaves
	return s.window.Finish(it)
}

// move moves the cursor, and ends a stream that has come to its end. It tells whether it has just ended.
func (s *stream) move() (ended bool) {
	if s.released || s.row.End != "" {
		return false // what was let go is not done with
	}
	s.window.Advance(s.left)
	if c := s.window.Cursor(); c != s.row.Cursor {
		s.row.Cursor, s.dirty = c, true
	}
	if !s.ended || !s.window.Empty() || s.reading {
		return false
	}
	s.row.Cursor, s.row.End, s.dirty = s.row.Through, journal.StreamDone, true
	return true
}

// release lets go of everything of the stream that is not under way.
func (s *stream) release(l *loop) {
	s.released = true
	s.stop()
	for _, it := range l.lanes.Remove(func(it *lane.Item) bool { return it.Webhook.Owner == s }) {
		l.finish(it, lost)
	}
}

// idle tells whether nothing of the stream is under way, or not saved.
func (s *stream) idle() bool { return s.window.Events() == 0 && !s.reading && !s.dirty && !s.saving }

// stop ends what it reads from.
func (s *stream) stop() {
	s.open.stop()
	s.again.open.stop()
}

// unsaved returns how far it has come since it was saved, if it has, and else when to ask again, if that is known. At a
// stop all is said.
func (s *stream) unsaved(now time.Time, stop bool) (m journal.Move, moved bool, next time.Time) {
	beyond := s.beyond && (stop || !now.Before(s.nextBeyond))
	if !s.dirty && !beyond {
		if s.beyond {
			next = s.nextBeyond
		}
		return journal.Move{}, false, next
	}
	m = journal.Move{Stream: s.row, Stored: s.stored}
	if beyond {
		s.beyond = false
		text := s.window.Finished(s.left, &s.before)
		if len(text) > 0 || s.savedBeyond {
			m.Finished, s.savedBeyond, s.nextBeyond = text, len(text) > 0, now.Add(beyondInterval(len(text)))
		} else if !s.dirty {
			return journal.Move{}, false, next
		}
	}
	s.dirty, s.saving, s.stored = false, true, nil
	return m, true, time.Time{}
}

// beyondInterval is how long after what is finished beyond the cursor was written it is written again, if it took so
// many bytes.
func beyondInterval(size int) time.Duration {
	return max(time.Second, time.Duration(size)*time.Second/beyondRate)
}

// notSaved takes a move back that could not be saved.
func (s *stream) notSaved(m journal.Move) {
	s.dirty, s.stored = true, append(m.Stored, s.stored...)
	if m.Finished != nil {
		s.beyond, s.savedBeyond = true, true
	}
}
