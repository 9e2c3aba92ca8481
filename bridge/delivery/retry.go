package delivery

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
)

const (
	// letterPage is how many dead letters are read at a time. Each may be as large as a webhook.
	letterPage = 32
	// letterPause is the least time between two rounds through the dead letters.
	letterPause = 250 * time.Millisecond
	// letterTries is how many tries a retried dead letter has before it makes room for others that wait for theirs.
	letterTries = 3
	// rememberedTries bounds what is remembered of those that made room.
	rememberedTries = 1 << 16
)

// letters are the dead letters that somebody asked another try for: those in memory, and how far the round through
// all of them in the journal has come. They keep their mark in the journal until they are done with, so a crash costs
// no more than a repeat.
type letters struct {
	share
	page    []journal.DeadLetter // read, and not yet taken
	after   int64                // the last one read in this round
	round   int
	changed <-chan struct{} // from before the round began
	reading bool            // a read or a wait is under way
	scans   bool            // it is a read
	letGo   bool            // some made room in this round
	unseen  map[int64]bool  // taken before this round began, and not come upon in it
	gone    map[int64]bool  // a whole round has not come upon them; under way at its end, and let go of with their answer

	open  map[int64]bool  // taken, until the journal has what became of them
	ended map[int64]bool  // done with during the read under way, which may show them all the same
	tries map[int64]tries // of those that made room

	acked       []int64 // reached the sink, to be removed
	removing    bool
	nextRemoval time.Time
	unremovable bool // the log has it
	failing     bool // the log has it
}

func newLetters() letters {
	return letters{
		gone: make(map[int64]bool), open: make(map[int64]bool), ended: make(map[int64]bool), tries: make(map[int64]tries),
	}
}

// tries is what a dead letter that made room has behind it.
type tries struct {
	attempts int
	waiting  time.Time
	failure  string
	round    int
}

// letterRead is a page of dead letters, or the end of a wait for more.
type letterRead struct {
	page    []journal.DeadLetter
	changed <-chan struct{}
	waited  bool
	ok      bool
}

type removal struct {
	ids []int64
	err error
}

// startLetterRead reads the next page of dead letters to be tried again. At the end of a round it waits until there may
// be more.
func (l *loop) startLetterRead(ctx context.Context) {
	s := &l.letters
	if s.reading || len(s.page) > 0 || l.o.Journal == nil {
		return
	}
	s.reading, s.scans = true, true
	l.running++
	after, changed := s.after, s.changed
	go func() {
		r := letterRead{changed: changed}
		if after == 0 {
			r.changed = l.o.Journal.DeadLettersChanged()
		}
		r.ok = l.insist(ctx, func() (err error) {
			r.page, err = l.o.Journal.DeadLetters(ctx,
				journal.DeadLetterFilter{Sink: l.name, Retrying: true, AfterID: after, Limit: letterPage})
			return err
		})
		l.lettersRead <- r
	}()
}

// startLetterWait waits until there is reason for another round.
func (l *loop) startLetterWait(ctx context.Context, changed <-chan struct{}, atMost time.Duration) {
	s := &l.letters
	s.reading, s.scans = true, false
	l.running++
	go func() {
		var again <-chan time.Time
		if atMost > 0 {
			timer := time.NewTimer(atMost)
			defer timer.Stop()
			again = timer.C
		}
		select {
		case <-ctx.Done():
		case <-again:
		case <-changed:
			pause(ctx, letterPause)
		}
		l.lettersRead <- letterRead{waited: true}
	}()
}

// tookLetters takes a page in, or begins a new round.
func (l *loop) tookLetters(ctx context.Context, r letterRead) {
	l.running--
	s := &l.letters
	s.reading = false
	switch {
	case r.waited:
		s.after, s.letGo = 0, false
		s.round++
		s.unseen = maps.Clone(s.open)
	case !r.ok: // it stops
	case len(r.page) == 0:
		for id, t := range s.tries {
			if t.round < s.round { // this round has not come upon it: it is no longer there
				delete(s.tries, id)
			}
		}
		l.forgetUnmarked()
		var atMost time.Duration
		if s.letGo {
			atMost = l.o.MaxBackoff
		}
		l.sayLetters()
		l.startLetterWait(ctx, r.changed, atMost)
	default:
		s.changed = r.changed
		s.after = r.page[len(r.page)-1].ID
		for i := range r.page {
			id := r.page[i].ID
			delete(s.unseen, id)
			delete(s.gone, id)
			if !s.open[id] && !s.ended[id] {
				s.page = append(s.page, r.page[i])
			}
		}
	}
	clear(s.ended)
}

// fillLetters takes dead letters that have been read into the lanes.
func (l *loop) fillLetters() {
	s := &l.letters
	for len(s.page) > 0 && s.room(&l.o) {
		letter := s.page[0]
		s.page[0] = journal.DeadLetter{}
		s.page = s.page[1:]
		it := retriedItem(&letter)
		if t, ok := s.tries[letter.ID]; ok {
			it.attempts, it.carried, it.waiting, it.failure = t.attempts, t.attempts, t.waiting, t.failure
			delete(s.tries, letter.ID)
		}
		s.open[letter.ID] = true
		s.take(it)
		l.enqueue(it)
	}
}

func retriedItem(d *journal.DeadLetter) *item {
	return &item{
		class: classRetried, letter: d.ID, webhook: &webhook{seq: d.WebhookSeq, id: d.Event.WebhookID}, event: &d.Event,
	}
}

// finishLetter notes what became of a retried dead letter: it reached its sink, or it is a dead letter again.
func (l *loop) finishLetter(it *item, deadLettered bool) {
	s := &l.letters
	s.leave(it)
	if deadLettered {
		l.metrics.retriedDeadLettered.Inc()
		s.end(it.letter)
		return
	}
	l.metrics.retriedAcknowledged.Inc()
	s.acked = append(s.acked, it.letter)
}

// end forgets a dead letter that the journal no longer shows as one to try again.
func (s *letters) end(id int64) {
	delete(s.open, id)
	delete(s.gone, id)
	if s.scans && s.reading {
		s.ended[id] = true
	}
}

// rotate lets go of dead letters of a partition that have had their tries, when others wait for room. They keep their mark,
// and have their turn again in the next round.
func (l *loop) rotate(p *partition) {
	s := &l.letters
	if len(s.page) == 0 || s.room(&l.o) {
		return
	}
	for _, it := range l.takeOut(p, func(it *item) bool { return it.attempts-it.carried >= letterTries }) {
		if len(s.tries) < rememberedTries {
			s.tries[it.letter] = tries{attempts: it.attempts, waiting: it.waiting, failure: it.failure, round: s.round}
		}
		s.letGo = true
	}
}

// forgetUnmarked lets go of what was taken before a round that has not come upon it: it was dropped, or is a dead letter
// anew after a replay. What is under way gets its answer first.
func (l *loop) forgetUnmarked() {
	s := &l.letters
	for id := range s.unseen {
		s.gone[id] = true
	}
	s.unseen = nil
	for _, p := range l.partitions {
		l.letGoOfGone(p)
	}
}

func (l *loop) letGoOfGone(p *partition) {
	if gone := l.letters.gone; len(gone) > 0 {
		l.takeOut(p, func(it *item) bool { return gone[it.letter] })
	}
}

// takeOut lets go of those dead letters of a partition that which selects and that are not under way, and returns them.
func (l *loop) takeOut(p *partition, which func(*item) bool) []*item {
	out := p.remove(classRetried, which)
	for _, it := range out {
		l.letters.leave(it)
		l.leave(it)
		l.letters.end(it.letter)
	}
	if ln := &p.lanes[classRetried]; len(ln.held) == 0 && !p.busy {
		ln.attempt, ln.retryAt, ln.failingSince, ln.cause = 0, time.Time{}, time.Time{}, nil
	}
	return out
}

// startRemoval removes what reached the sink from the dead letters, and returns when to try again after a failure.
func (l *loop) startRemoval() time.Time {
	s := &l.letters
	if s.removing || len(s.acked) == 0 {
		return time.Time{}
	}
	if time.Now().Before(s.nextRemoval) {
		return s.nextRemoval
	}
	ids := s.acked
	s.acked, s.removing = nil, true
	l.running++
	go func() { l.removed <- removal{ids: ids, err: l.o.Journal.RemoveDeadLetters(l.publish, l.name, ids)} }()
	return time.Time{}
}

func (l *loop) lettersRemoved(r removal) {
	l.running--
	s := &l.letters
	s.removing = false
	if r.err != nil {
		s.acked = append(r.ids, s.acked...)
		s.nextRemoval = time.Now().Add(journalRetry)
		if !s.unremovable && l.publish.Err() == nil { // what a stop cuts short is made up for by the stop
			s.unremovable = true
			l.o.Logger.Error("dead letters that reached their sink cannot be removed; after a restart they are sent again",
				"sink", l.name, "dead_letters", len(s.acked), "error", r.err)
		}
		return
	}
	s.unremovable = false
	for _, id := range r.ids {
		s.end(id)
	}
}

// removeLast removes at a stop what has reached the sink and is still among the dead letters.
func (l *loop) removeLast(ctx context.Context) error {
	ids := l.letters.acked
	if len(ids) == 0 {
		return nil
	}
	if err := l.o.Journal.RemoveDeadLetters(ctx, l.name, ids); err != nil {
		return fmt.Errorf("sink %s: %d dead letters that reached it could not be removed and will be sent again: %w", l.name, len(ids), err)
	}
	return nil
}

// sayLetters says once in the log that retried dead letters do not get through, and once that they do. That says nothing
// of the sink: what lies in the dead letters does so for a reason.
func (l *loop) sayLetters() {
	s := &l.letters
	var cause error
	for _, p := range l.partitions {
		if ln := &p.lanes[classRetried]; ln.failing() && (ln.attempt > 1 || s.failing) {
			cause = ln.cause
		}
	}
	switch {
	case cause != nil && !s.failing && l.health.now == stateUp:
		s.failing = true
		l.o.Logger.Warn("dead letters that were asked another try for do not get through yet; they are kept and tried again",
			"sink", l.name, "error", cause)
	case cause == nil && s.failing && s.events == 0 && len(s.page) == 0 && !s.letGo:
		s.failing = false
		l.o.Logger.Info("no dead letter that was asked another try for is held up any more", "sink", l.name)
	}
}
