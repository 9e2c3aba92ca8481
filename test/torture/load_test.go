//go:build linux

package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	// workers bounds the requests under way; each works on chainsPerWorker keys in turn.
	workers         = 48
	chainsPerWorker = 3
	// doubled, repeated and redelivered: one of so many webhooks is sent twice at the same moment, told again under
	// another id, or sent again later.
	doubled, repeated, redelivered = 25, 25, 20
	// laterAtMost is how much later, well within what the bridge remembers.
	laterAtMost = 90 * time.Second
)

// load sends webhooks as the real sender does: signed, each again under its id until it has been answered with 2xx.
// The webhooks of a key go one after the other. It is safe for concurrent use.
type load struct {
	url    string
	ledger *ledger
	failf  func(format string, args ...any)
	signer *svix.Webhook
	http   *http.Client
	// timeout of one try, in nanoseconds.
	timeout atomic.Int64
	// interval between two webhooks, in nanoseconds.
	interval atomic.Int64

	// stateless tells that the answer for a webhook that is new is 200, and that a process may take it for new which did
	// not publish it before.
	stateless bool

	gate *gate
	// stopping is closed when no new webhook shall begin, aborted when none shall be tried again.
	stopping, aborted chan struct{}
	tokens            chan struct{}
	wg                sync.WaitGroup

	ids        atomic.Int64
	mu         sync.Mutex
	counts     loadCounts
	answers    map[string]*answers
	memoryFrom time.Time // what was accepted before, the bridge may have forgotten
	later      []redelivery
}

// answers are those that a webhook has had.
type answers struct {
	accepted time.Time // the first 2xx
	asNew    int       // answers 202
}

// gate is where tries wait while the load pauses.
type gate struct {
	mu       sync.Mutex
	paused   bool
	underWay int
	changed  chan struct{} // closed, and replaced, with each change
}

func newGate() *gate { return &gate{changed: make(chan struct{})} }

func (g *gate) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
	close(g.changed)
	g.changed = make(chan struct{})
}

// enter waits while the load pauses. It returns false when aborted is closed first; else leave has to follow.
func (g *gate) enter(aborted <-chan struct{}) bool {
	for {
		g.mu.Lock()
		if !g.paused {
			g.underWay++
			g.mu.Unlock()
			return true
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-aborted:
			return false
		}
	}
}

func (g *gate) leave() { g.set(func() { g.underWay-- }) }

// close lets no more tries enter, and returns when all have left or ctx ends.
func (g *gate) close(ctx context.Context) {
	g.set(func() { g.paused = true })
	for {
		g.mu.Lock()
		empty, changed := g.underWay == 0, g.changed
		g.mu.Unlock()
		if empty {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (g *gate) open() { g.set(func() { g.paused = false }) }

// loadCounts counts webhooks and tries.
type loadCounts struct {
	Accepted   int64 // webhooks that were answered with 2xx
	Tries      int64 // requests
	New        int64 // answers for a webhook that is new
	Duplicates int64 // answers for one that is known
	Refused    int64 // answers 503
	Unanswered int64 // tries that ended without an answer
}

// redelivery is a webhook that has been accepted and shall be sent again.
type redelivery struct {
	id   string
	body []byte
	due  time.Time
}

func newLoad(url string, l *ledger, failf func(string, ...any)) (*load, error) {
	signer, err := svix.NewWebhook(secret)
	if err != nil {
		return nil, fmt.Errorf("the sender's secret: %w", err)
	}
	return &load{
		url: url, ledger: l, failf: failf, signer: signer,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}},
		gate: newGate(), stopping: make(chan struct{}), aborted: make(chan struct{}), tokens: make(chan struct{}),
		answers: make(map[string]*answers),
	}, nil
}

// start begins sending, so many webhooks a second at most. Every worker's choices come from the seed.
func (l *load) start(rate float64, timeout time.Duration, seed uint64) {
	l.setRate(rate)
	l.setTimeout(timeout)
	l.wg.Go(l.pace)
	for n := range workers {
		l.wg.Go(func() { l.work(n, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	l.wg.Go(l.redeliver)
}

// stop ends sending. It returns once every webhook that was begun has been accepted, or with an error when ctx ends
// first. Once only.
func (l *load) stop(ctx context.Context) error {
	close(l.stopping)
	done := make(chan struct{})
	go func() {
		l.wg.Wait()
		close(done)
	}()
	defer l.http.CloseIdleConnections()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		close(l.aborted)
		<-done
		return fmt.Errorf("some webhooks were not accepted: %w", ctx.Err())
	}
}

func (l *load) setRate(perSecond float64)        { l.interval.Store(int64(float64(time.Second) / perSecond)) }
func (l *load) setTimeout(timeout time.Duration) { l.timeout.Store(int64(timeout)) }

// pause returns once no request is under way, and none begins until resume. A request ends within the sender's
// timeout, so it takes no longer than that.
func (l *load) pause(ctx context.Context) {
	l.gate.close(ctx)
	l.http.CloseIdleConnections()
}

func (l *load) resume() { l.gate.open() }

// accepted counts webhooks that were answered with 2xx, refused answers 503, since the beginning.
func (l *load) accepted() int64 { return l.count().Accepted }
func (l *load) refused() int64  { return l.count().Refused }

func (l *load) count() loadCounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// pace lets workers begin webhooks. While all of them are at work it does not save up.
func (l *load) pace() {
	for {
		timer := time.NewTimer(time.Duration(l.interval.Load()))
		select {
		case <-timer.C:
		case <-l.stopping:
			timer.Stop()
			return
		}
		select {
		case l.tokens <- struct{}{}:
		case <-l.stopping:
			return
		}
	}
}

func (l *load) work(worker int, r *rand.Rand) {
	chains := make([]*chain, chainsPerWorker)
	made := 0
	for {
		select {
		case <-l.tokens:
		case <-l.stopping:
			return
		}
		at := r.IntN(len(chains))
		if chains[at] == nil || chains[at].left == 0 {
			chains[at] = newChain(fmt.Sprintf("%d-%d", worker, made), r)
			made++
		}
		body := chains[at].next(r)
		id := l.send(body, r)
		if r.IntN(repeated) == 0 {
			l.send(body, r)
		}
		if r.IntN(redelivered) == 0 {
			l.sendLater(id, body, time.Duration(r.Int64N(int64(laterAtMost))))
		}
	}
}

// send sends a new webhook until it is accepted, and returns its id.
func (l *load) send(body []byte, r *rand.Rand) string {
	id := fmt.Sprintf("msg_%08d", l.ids.Add(1))
	if err := l.ledger.sending(id, body); err != nil {
		l.failf("%v", err)
		return id
	}
	var twin sync.WaitGroup
	if r.IntN(doubled) == 0 {
		twin.Go(func() { l.try(id, body) })
	}
	defer twin.Wait()
	for !l.try(id, body) {
		wait := time.NewTimer(100*time.Millisecond + time.Duration(r.Int64N(int64(200*time.Millisecond))))
		select {
		case <-wait.C:
		case <-l.aborted:
			wait.Stop()
			return id
		}
	}
	return id
}

// probe sends a webhook of its own until it is accepted or ctx ends.
func (l *load) probe(ctx context.Context) error {
	id := fmt.Sprintf("msg_%08d", l.ids.Add(1))
	body := fmt.Appendf(nil, `{"workflow_name":"probe","invocation_id":%q,"fn_status":{"probe":"success"}}`, id)
	if err := l.ledger.sending(id, body); err != nil {
		return err
	}
	for !l.try(id, body) {
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("a webhook is not accepted: %w", ctx.Err())
		}
	}
	return nil
}

func (l *load) sendLater(id string, body []byte, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.later = append(l.later, redelivery{id, body, time.Now().Add(delay)})
}

// redeliver sends again what is due, once each.
func (l *load) redeliver() {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.stopping:
			return
		}
		l.mu.Lock()
		var due, rest []redelivery
		for _, again := range l.later {
			if again.due.Before(time.Now()) {
				due = append(due, again)
			} else {
				rest = append(rest, again)
			}
		}
		l.later = rest
		l.mu.Unlock()
		for _, again := range due {
			l.try(again.id, again.body)
		}
	}
}

// try posts a webhook once, and tells whether it was answered with 2xx.
func (l *load) try(id string, body []byte) bool {
	if !l.gate.enter(l.aborted) {
		return false
	}
	defer l.gate.leave()
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(l.timeout.Load()))
	defer cancel()
	req, err := l.request(ctx, id, body)
	if err != nil {
		l.failf("a webhook cannot be signed: %v", err)
		return true
	}
	resp, err := l.http.Do(req)
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		_ = resp.Body.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Tries++
	if err != nil {
		l.counts.Unanswered++ // it may be stored or not
		return false
	}
	return l.answered(id, body, resp, text)
}

func (l *load) request(ctx context.Context, id string, body []byte) (*http.Request, error) {
	now := time.Now()
	signature, err := l.signer.Sign(id, now, body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Svix-Id", id)
	req.Header.Set("Svix-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Svix-Signature", signature)
	return req, nil
}

// answered judges an answer, and tells whether it is 2xx. The lock is held.
func (l *load) answered(id string, body []byte, resp *http.Response, text []byte) bool {
	switch resp.StatusCode {
	case http.StatusAccepted, http.StatusOK:
	case http.StatusServiceUnavailable:
		l.counts.Refused++
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || seconds < 1 {
			l.failf("webhook %s: 503 with the Retry-After %q: %s", id, resp.Header.Get("Retry-After"), text)
		}
		return false
	default:
		l.failf("webhook %s is refused with %s: %s\n%.500s", id, resp.Status, text, body)
		return false
	}
	var answer struct {
		WebhookID string `json:"webhook_id"`
		Events    int    `json:"events"`
		Duplicate bool   `json:"duplicate"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.WebhookID != id ||
		(!l.stateless && answer.Duplicate != (resp.StatusCode == http.StatusOK)) ||
		(l.stateless && resp.StatusCode != http.StatusOK) {
		l.failf("webhook %s: %s with the answer %q", id, resp.Status, text)
	}
	known := l.answers[id]
	if known == nil {
		known = &answers{accepted: time.Now()}
		l.answers[id] = known
		l.counts.Accepted++
		l.ledger.accept(id)
	}
	if answer.Duplicate {
		l.counts.Duplicates++
		return true
	}
	l.counts.New++
	if known.asNew++; !l.stateless && known.asNew > 1 && known.accepted.After(l.memoryFrom) {
		l.failf("webhook %s was answered as new for the second time: the first time it was not stored", id)
	}
	if payload, err := tensorlake.Parse(body); err == nil && payload.Len(tensorlake.Options{}) != answer.Events {
		l.failf("webhook %s has %d events, and the answer says %d", id, payload.Len(tensorlake.Options{}), answer.Events)
	}
	return true
}
