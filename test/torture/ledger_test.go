package torture

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// record is an event as a consumer has found it at a broker.
type record struct {
	id, webhookID, key string
	data               []byte
	address            string // where it was found, for people
}

// maxViolations bounds how many violations are kept in words: one cause can make thousands.
const maxViolations = 50

// ledger knows every webhook that was sent and every event that has arrived. It is safe for concurrent use.
//
// It holds hashes of 64 bits in place of ids and data, so that an hour's run fits into memory.
type ledger struct {
	seed  maphash.Seed
	sinks []string

	mu       sync.Mutex
	webhooks map[string]*sentWebhook
	events   map[uint64]*expectedEvent
	keys     map[uint64]*sequence
	// generation counts the marks. missing has, for each, how many events of webhooks accepted in it each sink lacks.
	generation int
	missing    map[int][]int
	counts     ledgerCounts
	violations []string
	violated   int
}

type ledgerCounts struct {
	sent, accepted int
	expected       int   // events of accepted webhooks, each fact once
	received       []int // messages at each sink
	distinct       []int // events at each sink, each fact once
	repeated       []int // webhooks of which each sink has something twice
}

// sinkSet is a set of sinks, by their place in the ledger.
type sinkSet uint8

func (s sinkSet) has(sink int) bool { return s&(1<<sink) != 0 }
func (s *sinkSet) add(sink int)     { *s |= 1 << sink }

// sentWebhook is a webhook that was sent at least once.
type sentWebhook struct {
	accepted   bool
	generation int
	repeated   sinkSet // which have something of it twice
	deliveries []*eventDelivery
}

// expectedEvent is a fact: what makes one event id.
type expectedEvent struct {
	dataHash   uint64
	sequence   *sequence
	share      int     // of its key
	seen       sinkSet // where it has arrived
	counted    bool    // as expected, once a webhook with it has been accepted
	deliveries []*eventDelivery
}

// eventDelivery is a fact as one webhook carries it.
type eventDelivery struct {
	webhook   *sentWebhook
	webhookID string
	event     *expectedEvent
	keyHash   uint64 // where a payload has no key, that is its webhook's id
	seen      sinkSet
}

// sequence is a partition key: the shares that webhooks have in it, one after the other, and how far each sink has
// come. The facts of one share have no order.
type sequence struct {
	newest string // the webhook of the last share
	facts  []int  // of each share
	at     []place
}

// place is the share whose facts a sink gets for the first time, and how many of them it has.
type place struct{ share, facts int }

func newLedger(sinks ...string) *ledger {
	l := &ledger{
		seed: maphash.MakeSeed(), webhooks: make(map[string]*sentWebhook), events: make(map[uint64]*expectedEvent),
		keys: make(map[uint64]*sequence), missing: make(map[int][]int),
	}
	l.sinks = sinks
	l.counts.received, l.counts.distinct = make([]int, len(sinks)), make([]int, len(sinks))
	l.counts.repeated = make([]int, len(sinks))
	return l
}

// sending notes a webhook before its first try. The webhooks of one key have to be sent one after the other, each after
// the former's acceptance: the order in which they come here is the order that their events must have.
func (l *ledger) sending(id string, body []byte) error {
	payload, err := tensorlake.Parse(body)
	if err != nil {
		return fmt.Errorf("the load made a webhook that is no payload: %w", err)
	}
	webhook := bridge.Webhook{ID: id, Timestamp: time.Unix(0, 0), Body: body}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.webhooks[id] != nil {
		return fmt.Errorf("the load sends the webhook id %s for two webhooks", id)
	}
	w := &sentWebhook{}
	l.webhooks[id] = w
	l.counts.sent++
	for e := range payload.Events(webhook, tensorlake.Options{}) {
		event := l.event(e)
		d := &eventDelivery{webhook: w, webhookID: e.WebhookID, event: event, keyHash: maphash.String(l.seed, e.PartitionKey)}
		if slices.ContainsFunc(w.deliveries, func(other *eventDelivery) bool { return other.event == event }) {
			continue
		}
		event.deliveries = append(event.deliveries, d)
		w.deliveries = append(w.deliveries, d)
	}
	return nil
}

// event returns the fact that e tells of, new or known.
func (l *ledger) event(e bridge.Event) *expectedEvent {
	id := maphash.String(l.seed, e.ID)
	if known := l.events[id]; known != nil {
		return known
	}
	key := maphash.String(l.seed, e.PartitionKey)
	s := l.keys[key]
	if s == nil {
		s = &sequence{at: make([]place, len(l.sinks))}
		l.keys[key] = s
	}
	if s.newest != e.WebhookID {
		s.newest, s.facts = e.WebhookID, append(s.facts, 0)
	}
	last := len(s.facts) - 1
	event := &expectedEvent{dataHash: maphash.Bytes(l.seed, e.Data), sequence: s, share: last}
	s.facts[last]++
	l.events[id] = event
	return event
}

// accept notes that the webhook was answered with 2xx.
func (l *ledger) accept(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.webhooks[id]
	if w == nil || w.accepted {
		return
	}
	w.accepted, w.generation = true, l.generation
	l.counts.accepted++
	for _, d := range w.deliveries {
		if !d.event.counted {
			d.event.counted = true
			l.counts.expected++
		}
		for sink := range l.sinks {
			if !d.seen.has(sink) {
				l.miss(w.generation, sink, 1)
			}
		}
	}
}

func (l *ledger) miss(generation, sink, n int) {
	m := l.missing[generation]
	if m == nil {
		m = make([]int, len(l.sinks))
		l.missing[generation] = m
	}
	m[sink] += n
}

// received notes a message that the sink's broker holds. It may be told of one more than once.
func (l *ledger) received(sinkName string, r record) {
	sink := slices.Index(l.sinks, sinkName)
	l.mu.Lock()
	defer l.mu.Unlock()
	if sink < 0 {
		l.violate("a consumer reads for %q, which is no sink", sinkName)
		return
	}
	l.counts.received[sink]++
	event := l.events[maphash.String(l.seed, r.id)]
	if event == nil {
		l.violate("%s: an event that nobody sent: id %s of webhook %s at %s", sinkName, r.id, r.webhookID, r.address)
		return
	}
	at := slices.IndexFunc(event.deliveries, func(d *eventDelivery) bool { return d.webhookID == r.webhookID })
	if at < 0 {
		l.violate("%s: event %s claims to come from webhook %s, which has no such event (%s)",
			sinkName, r.id, r.webhookID, r.address)
		return
	}
	if event.deliveries[at].keyHash != maphash.String(l.seed, r.key) {
		l.violate("%s: event %s of webhook %s has the wrong key %.100q (%s)", sinkName, r.id, r.webhookID, r.key, r.address)
	}
	if event.dataHash != maphash.Bytes(l.seed, r.data) {
		l.violate("%s: event %s of webhook %s has other data than its payload says: %.200q (%s)",
			sinkName, r.id, r.webhookID, r.data, r.address)
	}
	if !event.seen.has(sink) {
		l.first(event, sink, r)
	}
	switch d := event.deliveries[at]; {
	case !d.seen.has(sink):
		if d.webhook.accepted {
			l.miss(d.webhook.generation, sink, -1)
		}
		d.seen.add(sink)
	case !d.webhook.repeated.has(sink):
		d.webhook.repeated.add(sink)
		l.counts.repeated[sink]++
	}
}

// first notes the first appearance of a fact at a sink.
func (l *ledger) first(event *expectedEvent, sink int, r record) {
	event.seen.add(sink)
	l.counts.distinct[sink]++
	at := &event.sequence.at[sink]
	if at.facts == event.sequence.facts[at.share] && event.share > at.share {
		*at = place{share: at.share + 1}
	}
	if event.share != at.share {
		l.violate("%s: wrong order in key %.100q: event %s of webhook %s, the key's number %d, first appears when one of "+
			"number %d was to come (%s)",
			l.sinks[sink], r.key, r.id, r.webhookID, event.share+1, at.share+1, r.address)
		*at = place{share: max(at.share, event.share)}
	}
	at.facts++
}

// violate notes that something happened that must not. The lock is held.
func (l *ledger) violate(format string, args ...any) {
	l.violated++
	if len(l.violations) < maxViolations {
		l.violations = append(l.violations, fmt.Sprintf(format, args...))
	}
}

// takeViolations returns the violations since the last call, and how many there are in all.
func (l *ledger) takeViolations() (news []string, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	news, l.violations = l.violations, nil
	return news, l.violated
}

// lacking returns, for the sinks asked about, what they lack of what was accepted up to the generation, in words and in
// all.
func (l *ledger) lacking(generation int, sinks []string) (lacking []string, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sums := make([]int, len(l.sinks))
	for g, missing := range l.missing {
		if g > generation {
			continue
		}
		sum := 0
		for sink, n := range missing {
			sums[sink] += n
			sum += n
		}
		if sum == 0 && g < l.generation {
			delete(l.missing, g)
		}
	}
	for sink, n := range sums {
		if n != 0 && (len(sinks) == 0 || slices.Contains(sinks, l.sinks[sink])) {
			lacking = append(lacking, fmt.Sprintf("%s lacks %d events", l.sinks[sink], n))
			total += n
		}
	}
	return lacking, total
}

// awaitDelivered waits until every event of every webhook that has been accepted so far is at the sinks; without sinks,
// at all of them. Its error says what is missing, when ctx has ended or nothing of it has arrived for hangLimit: how
// long a backlog takes is the machine's affair.
func (l *ledger) awaitDelivered(ctx context.Context, sinks ...string) error {
	_, err := l.awaitLast(ctx, sinks...)
	return err
}

// awaitLast is awaitDelivered, and tells what was missing last.
func (l *ledger) awaitLast(ctx context.Context, sinks ...string) (last string, err error) {
	l.mu.Lock()
	generation := l.generation
	l.generation++
	l.mu.Unlock()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last = "nothing was missing"
	least, arrived := math.MaxInt, time.Now()
	for {
		lacking, total := l.lacking(generation, sinks)
		if len(lacking) == 0 {
			return last, nil
		}
		last = strings.Join(lacking, ", ")
		if total < least {
			least, arrived = total, time.Now()
		}
		if time.Since(arrived) > hangLimit {
			return last, fmt.Errorf("%s of what was accepted, and nothing has arrived for %s", last, hangLimit)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last, fmt.Errorf("%s of what was accepted: %w", last, ctx.Err())
		}
	}
}

// report gives failf the violations since the last call.
func (l *ledger) report(failf func(string, ...any)) {
	news, _ := l.takeViolations()
	for _, violation := range news {
		failf("%s", violation)
	}
}

// judge gives failf all that is wrong at the end, and returns how many events are lost.
func (l *ledger) judge(failf func(string, ...any)) (losses int) {
	examples, losses := l.lost()
	for _, example := range examples {
		failf("%s", example)
	}
	l.report(failf)
	return losses
}

// lost lists what was accepted and is at no place where it has to be.
func (l *ledger) lost() (examples []string, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, w := range l.webhooks {
		if !w.accepted {
			continue
		}
		for i, d := range w.deliveries {
			for sink, name := range l.sinks {
				if d.seen.has(sink) {
					continue
				}
				total++
				if len(examples) < maxViolations {
					examples = append(examples, fmt.Sprintf("%s: event %d of %d of webhook %s is lost",
						name, i+1, len(w.deliveries), id))
				}
			}
		}
	}
	return examples, total
}

func (l *ledger) count() ledgerCounts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	c.received, c.distinct, c.repeated = slices.Clone(c.received), slices.Clone(c.distinct), slices.Clone(c.repeated)
	return c
}

// repeats counts the webhooks of which a sink has something twice. What the load tells again under another id is none.
func (l *ledger) repeats(sink string) int { return l.count().repeated[slices.Index(l.sinks, sink)] }

// The ledger's own tests: what it is there to find, it has to find.

const (
	firstBody  = `{"workflow_name":"w","invocation_id":"i","fn_status":{"a":"success","b":"failure"}}`
	secondBody = `{"workflow_name":"w","invocation_id":"i","fn_status":{"c":"success"}}`
)

// recordsOf are the messages that a webhook becomes.
func recordsOf(t *testing.T, id, body string) []record {
	t.Helper()
	payload, err := tensorlake.Parse([]byte(body))
	require.NoError(t, err)
	var records []record
	for e := range payload.Events(bridge.Webhook{ID: id, Timestamp: time.Now()}, tensorlake.Options{}) {
		records = append(records, record{
			id: e.ID, webhookID: e.WebhookID, key: e.PartitionKey, data: e.Data,
			address: "here",
		})
	}
	return records
}

// sentLedger has two webhooks of one key, both accepted, and two sinks.
func sentLedger(t *testing.T) *ledger {
	t.Helper()
	l := newLedger("first", "second")
	for _, webhook := range [][2]string{{"msg_1", firstBody}, {"msg_2", secondBody}} {
		require.NoError(t, l.sending(webhook[0], []byte(webhook[1])))
		l.accept(webhook[0])
	}
	return l
}

// deliver has both sinks receive the records.
func deliver(l *ledger, records ...record) {
	for _, sink := range l.sinks {
		for _, r := range records {
			l.received(sink, r)
		}
	}
}

func requireViolation(t *testing.T, l *ledger, text string) {
	t.Helper()
	found, total := l.takeViolations()
	require.Positive(t, total)
	require.Contains(t, strings.Join(found, "\n"), text)
}

func TestLedgerIsContentWhenEverythingArrives(t *testing.T) {
	l := sentLedger(t)
	deliver(l, recordsOf(t, "msg_1", firstBody)...)
	deliver(l, recordsOf(t, "msg_1", firstBody)...) // a repeat
	deliver(l, recordsOf(t, "msg_2", secondBody)...)
	deliver(l, recordsOf(t, "msg_1", firstBody)...) // a late one
	require.NoError(t, l.awaitDelivered(t.Context()))
	_, total := l.takeViolations()
	require.Zero(t, total)
	_, lost := l.lost()
	require.Zero(t, lost)
	require.Equal(t, ledgerCounts{
		sent: 2, accepted: 2, expected: 3, received: []int{7, 7}, distinct: []int{3, 3}, repeated: []int{1, 1},
	}, l.count())
}

func TestLedgerFindsALoss(t *testing.T) {
	l := sentLedger(t)
	deliver(l, recordsOf(t, "msg_1", firstBody)...)
	l.received("first", recordsOf(t, "msg_2", secondBody)[0])
	examples, total := l.lost()
	require.Equal(t, 1, total)
	require.Equal(t, []string{"second: event 1 of 1 of webhook msg_2 is lost"}, examples)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	require.NoError(t, l.awaitDelivered(ctx, "first"))
	require.ErrorContains(t, l.awaitDelivered(ctx), "second lacks 1 events")
}

func TestLedgerWaitsAsLongAsSomethingArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := sentLedger(t)
		records := append(recordsOf(t, "msg_1", firstBody), recordsOf(t, "msg_2", secondBody)...)
		var arriving sync.WaitGroup
		arriving.Go(func() {
			for _, r := range records[:len(records)-1] {
				<-time.After(hangLimit - time.Second)
				deliver(l, r)
			}
		})
		err := l.awaitDelivered(t.Context())
		require.ErrorContains(t, err, "second lacks 1 events")
		require.ErrorContains(t, err, "nothing has arrived for "+hangLimit.String())
		arriving.Wait()
	})
}

func TestLedgerFindsALossWhereAnotherWebhookToldTheSame(t *testing.T) {
	l := sentLedger(t)
	require.NoError(t, l.sending("msg_again", []byte(firstBody)))
	l.accept("msg_again")
	deliver(l, recordsOf(t, "msg_1", firstBody)...)
	deliver(l, recordsOf(t, "msg_2", secondBody)...)
	examples, total := l.lost()
	require.Equal(t, 4, total, "each webhook's events have to be there: %v", examples)

	deliver(l, recordsOf(t, "msg_again", firstBody)...)
	require.NoError(t, l.awaitDelivered(t.Context()))
	_, total = l.takeViolations()
	require.Zero(t, total, "a repeat is no disorder")
}

func TestLedgerKnowsThatSomeKeysAreTheWebhooks(t *testing.T) {
	const unrecognized = `{"something":"else"}`
	l := newLedger("second")
	for _, id := range []string{"msg_1", "msg_2"} {
		require.NoError(t, l.sending(id, []byte(unrecognized)))
		l.accept(id)
	}
	deliver(l, append(recordsOf(t, "msg_2", unrecognized), recordsOf(t, "msg_1", unrecognized)...)...)
	require.NoError(t, l.awaitDelivered(t.Context()))
	_, total := l.takeViolations()
	require.Zero(t, total)
}

func TestLedgerOwesNothingOfAWebhookWithoutAnAnswer(t *testing.T) {
	l := sentLedger(t)
	deliver(l, recordsOf(t, "msg_1", firstBody)...)
	deliver(l, recordsOf(t, "msg_2", secondBody)...)
	unanswered := strings.ReplaceAll(firstBody, `"i"`, `"other"`)
	require.NoError(t, l.sending("msg_3", []byte(unanswered)))
	require.NoError(t, l.awaitDelivered(t.Context()))
	l.received("first", recordsOf(t, "msg_3", unanswered)[0])
	_, total := l.takeViolations()
	require.Zero(t, total, "it may have been stored all the same")
	l.accept("msg_3")
	_, total = l.lost()
	require.Equal(t, 3, total, "one has arrived at one of two sinks")
	deliver(l, recordsOf(t, "msg_3", unanswered)...)
	require.NoError(t, l.awaitDelivered(t.Context()))
}

func TestLedgerFindsDisorder(t *testing.T) {
	l := sentLedger(t)
	first := recordsOf(t, "msg_1", firstBody)
	deliver(l, first[0])
	deliver(l, recordsOf(t, "msg_2", secondBody)...)
	requireViolation(t, l, `first: wrong order in key "i"`)
}

func TestLedgerFindsAnEventThatNobodySent(t *testing.T) {
	l := sentLedger(t)
	l.received("second", recordsOf(t, "msg_9", strings.ReplaceAll(firstBody, `"i"`, `"nobody's"`))[0])
	requireViolation(t, l, "second: an event that nobody sent")
	l.received("second", recordsOf(t, "msg_2", firstBody)[0])
	requireViolation(t, l, "claims to come from webhook msg_2, which has no such event")
}

func TestLedgerFindsAnEventThatWasChanged(t *testing.T) {
	l := sentLedger(t)
	r := recordsOf(t, "msg_1", firstBody)[0]
	r.data = append([]byte(" "), r.data...)
	l.received("second", r)
	requireViolation(t, l, "has other data than its payload says")
	r = recordsOf(t, "msg_1", firstBody)[1]
	r.key = "j"
	l.received("second", r)
	requireViolation(t, l, "has the wrong key")
}
