package page

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/problem"
)

const (
	// MaxStreams is how many streams are open at once.
	MaxStreams = 128
	// streamBehind is how many messages a stream may be behind before it is cut off, and streamPatience how long its
	// reader may take for one.
	streamBehind   = 32
	streamPatience = 5 * time.Second
	// arrivalEvery is how often webhooks are told, shownArrivals how many at once: of more only the newest are. Nobody
	// reads faster, and a hundred pages get each of them.
	arrivalEvery  = 500 * time.Millisecond
	shownArrivals = 20
	// shownRows is how many requests the page shows at most.
	shownRows = 100
	// statusShare is which part of the time reading the status may take.
	statusShare = 20
)

// streams are those that are open.
type streams struct {
	mu     sync.Mutex
	open   map[*stream]struct{}
	closed bool
	// fresh is set when a stream was opened: its page wants the status at once.
	fresh bool
}

// stream is one of them. Its channel is closed when it is cut off.
type stream struct{ messages chan []byte }

// add opens a stream; nil: there are too many.
func (s *streams) add() *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.open) >= MaxStreams {
		return nil
	}
	one := &stream{messages: make(chan []byte, streamBehind)}
	s.open[one] = struct{}{}
	s.fresh = true
	return one
}

// remove closes a stream, unless it is closed.
func (s *streams) remove(one *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[one]; ok {
		delete(s.open, one)
		close(one.messages)
	}
}

// send hands a message to every stream, and cuts those off that are too far behind.
func (s *streams) send(name string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return // there is nothing in it that cannot be
	}
	message := slices.Concat([]byte("event: "+name+"\ndata: "), data, []byte("\n\n"))
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.open {
		select {
		case one.messages <- message:
		default:
			delete(s.open, one)
			close(one.messages)
		}
	}
}

// any tells whether a stream is open, and whether one was opened since the last time.
func (s *streams) any() (open, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh, s.fresh = s.fresh, false
	return len(s.open) > 0, fresh
}

// end ends all streams; forever tells that no other may be opened.
func (s *streams) end(forever bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = s.closed || forever
	for one := range s.open {
		delete(s.open, one)
		close(one.messages)
	}
}

// serveStream tells of status, series and webhooks as they come, until the reader goes or is too slow.
func (p *Page) serveStream(w http.ResponseWriter, r *http.Request) {
	s := p.streams.add()
	if s == nil {
		w.Header().Set("Retry-After", "10")
		problem.New(http.StatusServiceUnavailable,
			"As many pages are open as may be; close one, or try again later.").Write(w)
		return
	}
	defer p.streams.remove(s)
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Time{}) // reading only notices that the reader has gone
	w.Header().Set("Content-Type", "text/event-stream")
	for message := []byte("retry: 2000\n\n"); ; {
		_ = conn.SetWriteDeadline(time.Now().Add(streamPatience))
		if _, err := w.Write(message); err != nil {
			return
		}
		if conn.Flush() != nil {
			return
		}
		var ok bool
		select {
		case <-r.Context().Done():
			return
		case message, ok = <-s.messages:
			if !ok {
				return
			}
		}
	}
}

// EndStreams ends the streams that are open. Pages ask for others, and are asked for the token again. It does not
// block.
func (p *Page) EndStreams() { p.streams.end(false) }

// Run keeps the series and feeds the streams until ctx ends, which also ends them.
func (p *Page) Run(ctx context.Context) {
	defer p.streams.end(true)
	ticker := time.NewTicker(arrivalEvery)
	defer ticker.Stop()
	f := feed{page: p, nextSecond: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			f.tick(ctx, now)
		}
	}
}

// feed is what streams were told last.
type feed struct {
	page       *Page
	nextSecond time.Time
	nextStatus time.Time
	head       int64 // newest webhook of the journal
	place      int64 // of what is recent
	cursors    map[string]int64
	told       []int64 // numbers of the webhooks that were told last
	letters    map[string]map[int64]admin.Fate
}

func (f *feed) tick(ctx context.Context, now time.Time) {
	p := f.page
	open, fresh := p.streams.any()
	if !now.Before(f.nextSecond) {
		f.nextSecond = f.nextSecond.Add(time.Second)
		if f.nextSecond.Before(now) {
			f.nextSecond = now.Add(time.Second)
		}
		one := p.sample(now)
		if open {
			p.streams.send("second", one)
		}
	}
	if !open {
		f.skip() // whoever comes gets what came before from /api/webhooks
		return
	}
	if arrived := f.arrived(ctx); len(arrived) > 0 {
		p.streams.send("webhooks", arrived)
	}
	// What becomes a dead letter is one before its sink's cursor moves on, and nobody takes it for acknowledged.
	cursors := p.cursors(ctx)
	if letters, err := f.lettersNow(ctx); err == nil && (fresh || !maps.EqualFunc(letters, f.letters, maps.Equal)) {
		f.letters = letters
		p.streams.send("letters", letters)
	}
	if fresh || !maps.Equal(cursors, f.cursors) {
		f.cursors = cursors
		p.streams.send("cursors", cursors)
	}
	if fresh || !now.Before(f.nextStatus) {
		began := time.Now()
		if s, err := p.o.Parts.Status(ctx); err == nil {
			p.streams.send("status", s)
		}
		f.nextStatus = now.Add(max(time.Second, statusShare*time.Since(began)))
	}
}

// cursors are how far the sinks are in the journal.
func (p *Page) cursors(ctx context.Context) map[string]int64 {
	all := make(map[string]int64)
	if j := p.o.Parts.Journal; j != nil {
		for _, s := range p.o.Parts.Sinks {
			if at, err := j.Cursor(ctx, s.Name); err == nil {
				all[s.Name] = at
			}
		}
	}
	return all
}

// lettersNow returns the dead letters of what pages may show: the newest webhooks, and those that were told last.
func (f *feed) lettersNow(ctx context.Context) (map[string]map[int64]admin.Fate, error) {
	j := f.page.o.Parts.Journal
	if j == nil {
		return make(map[string]map[int64]admin.Fate), nil
	}
	head := j.Head()
	numbers := slices.Clone(f.told)
	for n := max(1, head-shownRows+1); n <= head; n++ {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return f.page.o.Parts.Letters(ctx, slices.Compact(numbers))
}

func (f *feed) skip() {
	_, f.place = f.page.recent.since(0, 0)
	if j := f.page.o.Parts.Journal; j != nil {
		f.head = j.Head()
	}
}

// arrived returns what has come since the last time, oldest first; of very many the newest.
func (f *feed) arrived(ctx context.Context) []admin.Arrival {
	p := f.page
	var found []kept
	found, f.place = p.recent.since(f.place, shownArrivals)
	all := p.arrivals(found)
	if p.o.Parts.Journal == nil {
		return all
	}
	stored, err := p.o.Parts.Arrivals(ctx, f.head, shownArrivals)
	if err != nil || len(stored) == 0 {
		return all
	}
	f.head = stored[len(stored)-1].Number
	for i := range stored {
		f.told = append(f.told, stored[i].Number)
	}
	f.told = f.told[max(0, len(f.told)-shownRows):]
	all = newestFirst(append(all, stored...))
	slices.Reverse(all)
	return all
}

func (p *Page) arrivals(found []kept) []admin.Arrival {
	all := make([]admin.Arrival, 0, len(found))
	for _, k := range found {
		shown := p.o.Parts.Arrived(k.Answered)
		shown.Number, shown.Order, shown.Bytes = k.number, k.order, k.size
		all = append(all, shown)
	}
	return all
}

func newestFirst(all []admin.Arrival) []admin.Arrival {
	slices.SortStableFunc(all, func(a, b admin.Arrival) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.Number, a.Number))
	})
	return all
}

// sample takes the figures of a second.
func (p *Page) sample(now time.Time) second {
	counters, gauges := make(map[string]float64), make(map[string]float64)
	for result, n := range p.o.Requests() {
		counters["requests."+result] = n
	}
	for _, s := range p.o.Parts.Sinks {
		counters["sinks."+s.Name+".acknowledged"] = float64(s.Dispatcher.Acknowledged())
		gauges["sinks."+s.Name+".backlog"] = float64(s.Dispatcher.Backlog())
	}
	if j := p.o.Parts.Journal; j != nil {
		gauges["journal.bytes"] = float64(j.Bytes())
	}
	return p.series.add(now, counters, gauges)
}
