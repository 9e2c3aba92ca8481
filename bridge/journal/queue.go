package journal

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// A batch is bounded so that the first of its requests does not wait long for the last.
	maxBatchRequests = 512
	maxBatchBytes    = 8 << 20
	// patience is how long a patient request waits for others. In a crash, what it says is forgotten.
	patience = 250 * time.Millisecond
)

// kind says what a request asks for.
type kind int

const (
	kindAppend kind = iota
	kindMove
	kindDeadLetters
	kindDropLetters
	kindLettersPublished
	kindAddStreams
	kindCancelReplay
	kindForgetSink
	kindRenameLetters
	kindRenameSink
	kindNoteMissing
)

// The stages of a request. Whoever moves it out of queued decides what becomes of it.
const (
	queued int32 = iota
	taken
	abandoned
)

// request is one thing for the writer to commit. Fields after done are the writer's answer, and may be read once done
// is closed.
type request struct {
	kind    kind
	webhook bridge.Webhook
	moves   []Move
	state   *SinkState
	letters []DeadLetter
	streams []Stream
	seq     int64 // of a stream
	// sink is to be forgotten, or renamed to another name.
	sink, to string
	missing  *missingNote
	// filter selects the letters to drop, which have letterBytes of data.
	filter      *DeadLetterFilter
	letterBytes int64
	// cost is what the request has reserved of the journal's space.
	cost  int64
	stage atomic.Int32
	// patient says that it is worth no commit of its own, and is the queue's once the request is in it. That ends when
	// hurry is closed, and after patience.
	patient bool
	hurry   <-chan struct{}

	done     chan struct{}
	accepted bridge.Acceptance
	changed  int64
	held     Held
	err      error
}

func newRequest(k kind) *request {
	return &request{kind: k, done: make(chan struct{})}
}

// size is what the request counts for in a batch's bytes.
func (r *request) size() int {
	n := len(r.webhook.Body) + int(r.letterBytes)
	for i := range r.letters {
		l := &r.letters[i]
		e := &l.Event
		n += len(l.Reason) + len(e.Data) + len(e.Source) + len(e.Subject) + len(e.Type) + len(e.PartitionKey) +
			len(e.Application) + len(e.Request) + len(e.Function) + len(e.Sandbox) + len(e.SandboxName) + len(e.Reason)
		for _, part := range e.Route {
			n += len(part)
		}
	}
	return n
}

// refused sets why the request is not carried out, and tells whether there is a reason.
func (r *request) refused(why error) bool {
	r.err = why
	return why != nil
}

// answer lets the caller go on.
func (r *request) answer() { close(r.done) }

// queue holds the requests that wait for the writer, in the order in which they came.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	urgent  int // of those that wait: the ones that are not patient
	closed  bool
	// enough is how many waiting requests wake a writer that gathers. 0: it does not gather.
	enough int
	// wake has a token when the writer has something to look at.
	wake chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// put adds r, and wakes the writer unless r is patient: such a one is taken with the next that is not, or once hurry is
// called. It returns false when the queue is closed.
func (q *queue) put(r *request) bool {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	q.waiting = append(q.waiting, r)
	news := len(q.waiting) == q.enough
	if !r.patient {
		q.urgent++
		news = news || q.urgent == 1
	}
	q.mu.Unlock()
	if news {
		q.nudge()
	}
	return true
}

// hurry has r wait for no other request any longer.
func (q *queue) hurry(r *request) {
	q.mu.Lock()
	waits := r.patient && slices.Contains(q.waiting, r)
	if waits {
		r.patient = false
		q.urgent++
	}
	q.mu.Unlock()
	if waits {
		q.nudge()
	}
}

// gather returns once enough requests wait, or after d.
func (q *queue) gather(enough int, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for !q.waitFor(enough) {
		select {
		case <-q.wake:
		case <-timer.C:
			q.waitFor(0)
			return
		}
	}
}

// waitFor tells whether enough requests wait, or the queue is closed. If not, put wakes the writer once they do.
func (q *queue) waitFor(enough int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= enough || q.closed {
		q.enough = 0
		return true
	}
	q.enough = enough
	return false
}

// remove takes r out, if it is still there. While the disk hangs the writer takes none. Callers that come and give up
// would leave their webhooks in memory without a bound.
func (q *queue) remove(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, r); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		if !r.patient {
			q.urgent--
		}
	}
}

// nudge makes the writer look.
func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take appends the next batch to batch, without requests that their callers have abandoned. There is none while all
// that wait are patient, unless the queue is closed. It also tells whether the queue is closed with nothing left in it.
func (q *queue) take(batch []*request) (_ []*request, finished bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.urgent == 0 && !q.closed {
		return batch, false
	}
	bytes, next := 0, 0
	for ; next < len(q.waiting) && len(batch) < maxBatchRequests; next++ {
		r := q.waiting[next]
		size := r.size()
		if len(batch) > 0 && bytes+size > maxBatchBytes {
			break
		}
		if !r.patient {
			q.urgent--
		}
		if !r.stage.CompareAndSwap(queued, taken) {
			continue
		}
		bytes += size
		batch = append(batch, r)
	}
	left := copy(q.waiting, q.waiting[next:])
	clear(q.waiting[left:])
	q.waiting = q.waiting[:left]
	return batch, q.closed && left == 0 && len(batch) == 0
}

// close refuses further requests. Those that wait are still taken.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.nudge()
}

func (q *queue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}
