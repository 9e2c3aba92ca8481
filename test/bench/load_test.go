//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	// patience is how long anything may take that is not measured, on a machine that does much else.
	patience = time.Minute
	// openWorkers is how many webhooks the open loop can have under way. More would say no more: all would be late.
	openWorkers = 256
	// What a histogram tells apart: from a microsecond to a minute, to three digits.
	histogramLow, histogramHigh, histogramDigits = 1, int64(time.Minute / time.Microsecond), 3
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(histogramLow, histogramHigh, histogramDigits)
}

// record notes d in microseconds.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), histogramLow), histogramHigh))
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// webhookID makes an id of the length and order of Svix's, which are KSUIDs: the second first, then chance. It ends in
// number, by which a consumer knows the webhook again.
func webhookID(number int, now time.Time) string {
	id := make([]byte, 0, 32)
	id = append(id, "msg_"...)
	seconds := now.Unix()
	for divisor := int64(62 * 62 * 62 * 62 * 62); divisor > 0; divisor /= 62 {
		id = append(id, base62[seconds/divisor%62])
	}
	for range 12 {
		id = append(id, base62[rand.IntN(len(base62))])
	}
	return string(fmt.Appendf(id, "%09d", number))
}

// numberOf finds the number in an id.
func numberOf(id string) (int, bool) {
	if len(id) < 9 {
		return 0, false
	}
	n, err := strconv.Atoi(id[len(id)-9:])
	return n, err == nil
}

// payload makes a workflow's webhook with so many functions, without spaces, as Tensorlake sends it. Each has an
// invocation of its own, so that keys, ids and digests differ.
func payload(number, functions int) []byte {
	var b bytes.Buffer
	b.Grow(100 + 24*functions)
	fmt.Fprintf(&b, `{"workflow_name":"order_fulfilment","invocation_id":"inv_%016x%08x","fn_status":{`,
		rand.Uint64(), number)
	for i := range functions {
		if i > 0 {
			b.WriteByte(',')
		}
		status := "success"
		if i%2 == 1 {
			status = "failure"
		}
		fmt.Fprintf(&b, `"fn_%04d":"%s"`, i, status)
	}
	b.WriteString("}}")
	return b.Bytes()
}

// sender posts signed webhooks. It is safe for concurrent use.
type sender struct {
	url       string
	functions int
	client    *http.Client
	numbers   atomic.Int64
}

func newSender(t *testing.T, url string, connections, functions int) *sender {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	t.Cleanup(transport.CloseIdleConnections)
	return &sender{url: url, functions: functions, client: &http.Client{Transport: transport, Timeout: patience}}
}

// post makes, signs and sends a webhook, and waits for its 202, or 200 from a bridge that answers for its sinks.
func (s *sender) post(number int) error {
	now := time.Now()
	id, body := webhookID(number, now), payload(number, s.functions)
	header, err := tensorlake.Sign(secret, id, now, body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	// Nothing is sent for this; it lets net/http send a webhook again that met a connection which the server had just
	// closed for having been idle. The bridge knows a webhook again by its id and body.
	req.Header["Idempotency-Key"] = []string{}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %d: %s", resp.StatusCode, text)
	}
	return nil
}

// gate holds the closed loop back while more than so many webhooks are accepted and not delivered. Nil holds nothing
// back.
type gate struct {
	mu                  sync.Mutex
	moved               *sync.Cond
	accepted, delivered int
	most                int
	open                bool // for good
}

func newGate(most int) *gate {
	g := &gate{most: most}
	g.moved = sync.NewCond(&g.mu)
	return g
}

// enter waits until one more webhook may be accepted.
func (g *gate) enter() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.open && g.accepted-g.delivered >= g.most {
		g.moved.Wait()
	}
	g.accepted++
}

func (g *gate) deliver(webhooks int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.delivered = webhooks
	g.moved.Broadcast()
}

func (g *gate) release() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	g.moved.Broadcast()
}

// closedLoop is so many senders, each of which posts its next webhook when it has the answer to the last.
type closedLoop struct {
	sender   *sender
	gate     *gate
	accepted atomic.Int64
	stop     chan struct{}
	all      sync.WaitGroup
	mu       sync.Mutex
	err      error // the first
}

func startClosedLoop(s *sender, connections int, g *gate) *closedLoop {
	l := &closedLoop{sender: s, gate: g, stop: make(chan struct{})}
	for range connections {
		l.all.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				g.enter()
				if err := s.post(int(s.numbers.Add(1))); err != nil {
					l.fail(err)
					return
				}
				l.accepted.Add(1)
			}
		})
	}
	return l
}

func (l *closedLoop) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// end returns how many webhooks were accepted, once all senders have ended.
func (l *closedLoop) end(t *testing.T) int {
	t.Helper()
	close(l.stop)
	l.gate.release()
	l.all.Wait()
	require.NoError(t, l.err, "a webhook was not accepted")
	return int(l.accepted.Load())
}

// rate is how many webhooks a second are accepted in a round of the closed loop.
func (b *bench) rate(t *testing.T, s *sender) float64 {
	t.Helper()
	l := startClosedLoop(s, b.Connections, nil)
	last(t, b.Warm)
	before, began := l.accepted.Load(), time.Now()
	last(t, b.Round)
	after, took := l.accepted.Load(), time.Since(began)
	l.end(t)
	return float64(after-before) / took.Seconds()
}

// last lets d pass.
func last(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// openLoop posts webhooks at a fixed rate, whatever the bridge does. Each is due at its own time, from which all is
// measured, also when it is sent late: what the bridge delays must not be hidden by the load that waits for it.
type openLoop struct {
	due      []time.Time // by number
	answered *hdrhistogram.Histogram
	late     *hdrhistogram.Histogram // how late a webhook was sent
	refused  []string
}

// runOpenLoop posts rate webhooks a second for d and returns when all are answered. began is told the times at which
// the webhooks are due, before the first is.
func runOpenLoop(s *sender, rate int, d time.Duration, began func(due []time.Time)) *openLoop {
	count := max(1, int(d.Seconds()*float64(rate)))
	l := &openLoop{due: make([]time.Time, count), answered: newHistogram(), late: newHistogram()}
	interval := time.Second / time.Duration(rate)
	first := time.Now().Add(10 * time.Millisecond)
	for n := range l.due {
		l.due[n] = first.Add(time.Duration(n) * interval)
	}
	if began != nil {
		began(l.due)
	}
	var mu sync.Mutex
	due := make(chan int, count) // never full: the schedule does not wait for the senders
	var senders sync.WaitGroup
	for range min(openWorkers, count) {
		senders.Go(func() {
			for n := range due {
				sent := time.Now()
				err := s.post(n)
				took := time.Since(l.due[n])
				mu.Lock()
				record(l.answered, took)
				record(l.late, sent.Sub(l.due[n]))
				if err != nil {
					l.refused = append(l.refused, err.Error())
				}
				mu.Unlock()
			}
		})
	}
	senders.Go(func() {
		defer close(due)
		// Go's timers are late by up to a millisecond, the kernel's by a few microseconds.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for n, at := range l.due {
			for wait := time.Until(at); wait > 0; wait = time.Until(at) {
				pause := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&pause, nil) // a signal ends it early
			}
			due <- n
		}
	})
	senders.Wait()
	return l
}

// mustBeTaken fails the test if a webhook was refused.
func (l *openLoop) mustBeTaken(t *testing.T) {
	t.Helper()
	require.Empty(t, strings.Join(l.refused, "\n"), "webhooks were refused")
}
