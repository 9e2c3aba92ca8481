package delivery

import (
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/lane"
)

// secondReading reads what a stream left behind once more, in passes from the oldest webhook to the newest. A pass
// begins when half of what may stand still is free, and waits where that is used up. Once a lane has gone on after
// failures, and every now and then, a pass begins, or one that waits goes on, to its end: what stands still is left
// behind again.
type secondReading struct {
	open    openWebhooks
	reading bool
	taken   lane.Share // of the window, by what it took and is not finished

	toEnd   bool      // the pass goes past what stands still
	returns int       // of lanes, when it began, or began to go past
	due     time.Time // when one goes to its end, whatever lanes do
}

// passPace is the least time between passes that no lane has asked for, a webhook: reading it takes a twentieth.
const passPace = 500 * time.Microsecond

// finish takes an item out of the count of what it took.
func (r *secondReading) finish(it *lane.Item) { r.taken.Remove(it) }

// begin begins a pass if there is reason to.
func (r *secondReading) begin(left *lane.Left, lanes *lane.Lanes, o *Options, now time.Time) {
	if _, ahead := left.Ahead(); ahead || r.open.len() > 0 || r.reading || left.Webhooks() == 0 || !lanes.GoOn() {
		return
	}
	if toEnd := r.asked(lanes, now); toEnd || lanes.Still().Below(o.stillShare().Half()) {
		r.toEnd = toEnd
		r.reckon(left, lanes, o, now)
		left.Begin()
	}
}

// asked tells whether there is reason for a pass to its end.
func (r *secondReading) asked(lanes *lane.Lanes, now time.Time) bool {
	return lanes.Returns() != r.returns || !now.Before(r.due)
}

// reckon reckons when there is reason for the next one.
func (r *secondReading) reckon(left *lane.Left, lanes *lane.Lanes, o *Options, now time.Time) {
	r.returns, r.due = lanes.Returns(), now.Add(max(o.MaxBackoff, passPace*time.Duration(left.Webhooks())))
}

// goesPast tells whether what stands still is passed by, instead of waited for. It can be what never goes on, before
// what would.
func (r *secondReading) goesPast(left *lane.Left, lanes *lane.Lanes, o *Options, now time.Time) bool {
	if !r.toEnd && r.asked(lanes, now) {
		r.toEnd = true
		r.reckon(left, lanes, o, now)
	}
	return r.toEnd
}

// takeAgain takes events that were left behind into the lanes, as far as there is room. They may have half of the
// window, so that new events go on beside them.
func (s *stream) takeAgain(lanes *lane.Lanes, o *Options, origin Origin, now time.Time) {
	if s.left.Webhooks() == 0 && s.again.open.len() == 0 {
		return
	}
	r, share := &s.again, o.stillShare()
	r.begin(s.left, lanes, o, now)
	if !lanes.GoOn() {
		return
	}
	still := lanes.Still()
	taken := r.taken.Minus(lanes.HeldAgain()) // what is held has a share of its own
	for r.open.len() > 0 && s.room(o) && taken.Below(share) {
		from := r.open.next()
		e := from.next()
		if e == nil {
			from.stop()
			r.open.remove()
			s.exhaust(origin, from.webhook)
			continue
		}
		it := &lane.Item{Event: e, Webhook: from.webhook, Key: s.open.key(e), Again: true}
		ln := lanes.Of(it)
		stands := ln.Still(it)
		switch full := stands && !still.Below(share); {
		case full && !r.goesPast(s.left, lanes, o, now):
			from.putBack(e)
			return
		case full || s.left.Passed(it.Key):
			s.left.LeaveAgain(it)
			from.taken++
			continue
		}
		if since := s.left.Take(it); stands || !r.toEnd {
			// It has waited since its key was left behind, or since it came, if that was later.
			it.WaitsSince(later(since, now.Add(-o.Now().Sub(from.webhook.ReceivedAt))))
		}
		if stands {
			still.Add(it)
		}
		from.taken++
		r.taken.Add(it)
		taken.Add(it)
		s.window.Take(it)
		lanes.Add(it)
	}
}

// tookAgain opens what has been read again.
func (s *stream) tookAgain(page []Entry, o *Options) {
	if s.released {
		return
	}
	for i := range page {
		w, places, ok := s.left.Read(page[i].Number)
		if !ok {
			continue
		}
		wants := s.wants(o.Routes)
		if w == nil {
			w = s.webhook(&page[i])
		} else {
			wants = both(wants, func(e *bridge.Event) bool { return places.Has(e.Origin.Index) })
		}
		s.window.Add(w)
		s.again.open.add(newSource(w, &page[i], wants, o.Events))
	}
}

// leaveOverflow leaves behind what stands still beyond its share of the window. While nothing goes on, what was read
// again is left once more: the window is for what is new, of which something may get through.
func (s *stream) leaveOverflow(lanes *lane.Lanes, share lane.Share, now time.Time) {
	var out []*lane.Item
	switch goOn := lanes.GoOn(); {
	case !s.leaves:
	case !goOn && s.again.taken.Events > 0:
		out = lanes.PutBack(func(it *lane.Item) bool { return it.Again })
	case goOn && !lanes.Still().Within(share):
		out = lanes.Overflow(share)
	}
	for _, it := range out {
		lanes.Finish(it)
		if it.Again {
			s.again.finish(it)
		}
		s.left.PutBack(it, now)
		s.window.PutBack(it)
		if it.Webhook.Exhausted() {
			s.left.Put(it.Webhook)
		}
	}
}
