package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bound = deliverytest.Bound

// fixture is a real journal with dead letters, and a running Forwarder.
type fixture struct {
	t       *testing.T
	journal *journal.Journal
	log     *deliverytest.Records
	metrics *prometheus.Registry
	stop    func()
	n       int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Options{Dir: t.TempDir(), Sinks: []string{"scripted"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close(context.WithoutCancel(t.Context()))) })
	return &fixture{t: t, journal: j, log: &deliverytest.Records{}}
}

// run starts a Forwarder; stop ends it, as often as it is called.
func (f *fixture) run(sink bridge.Sink, j Journal) {
	f.t.Helper()
	f.metrics = prometheus.NewRegistry()
	w, err := New(Options{
		Journal: j, Sink: sink, MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond,
		Logger: slog.New(f.log), Registerer: f.metrics,
	})
	require.NoError(f.t, err)
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, context.WithoutCancel(ctx))
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	f.t.Cleanup(f.stop)
}

// letter is the dead letter of the function of a key, which was tried once.
func (f *fixture) letter(seq int64, key, function string) journal.DeadLetter {
	now := time.Now()
	return journal.DeadLetter{
		Sink: "scripted", WebhookSeq: seq, FirstAt: now, LastAt: now,
		DeadLetter: bridge.DeadLetter{Reason: "too large for the broker", Attempts: 1, Event: bridge.Event{
			ID: key + function, Type: "t", Source: "s", Subject: key + "/" + function, PartitionKey: key,
			About: bridge.About{Function: function}, Time: now,
			Data: []byte("{}"),
		}},
	}
}

// add stores a new dead letter and returns its webhook's number.
func (f *fixture) add(key, function string) int64 {
	f.t.Helper()
	f.n++
	require.NoError(f.t, f.journal.AddDeadLetters(f.t.Context(), []journal.DeadLetter{f.letter(f.n, key, function)}))
	return f.n
}

func (f *fixture) letters() []journal.DeadLetter {
	f.t.Helper()
	letters, err := f.journal.DeadLetters(f.t.Context(), journal.DeadLetterFilter{})
	require.NoError(f.t, err)
	return letters
}

func (f *fixture) counter(result string) (n float64) {
	f.t.Helper()
	families, err := f.metrics.Gather()
	require.NoError(f.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if family.GetName() == "fnbridge_sink_dead_letters_published_total" && l.GetValue() == result {
					n = m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// addressSink has an address for dead letters, and fails there as a test tells it to.
type addressSink struct {
	*deliverytest.ScriptedSink
	mu         sync.Mutex
	failLetter func(bridge.DeadLetter) error
	letters    []bridge.DeadLetter
}

func newAddressSink() *addressSink { return &addressSink{ScriptedSink: deliverytest.NewScriptedSink()} }

func (s *addressSink) DeadLetterAddress() string { return "dead-letters" }

func (s *addressSink) PublishDeadLetters(_ context.Context, letters []bridge.DeadLetter) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(letters))
	for i, l := range letters {
		if s.failLetter != nil {
			errs[i] = s.failLetter(l)
		}
		if errs[i] == nil {
			s.letters = append(s.letters, l)
		}
	}
	return errs
}

func (s *addressSink) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (f *fixture) awaitPublished(n int) []journal.DeadLetter {
	f.t.Helper()
	var letters []journal.DeadLetter
	require.Eventually(f.t, func() bool {
		letters = f.letters()
		published := 0
		for i := range letters {
			if !letters[i].PublishedAt.IsZero() {
				published++
			}
		}
		return published == n
	}, bound, time.Millisecond)
	return letters
}

func TestDeadLettersGoToTheirAddressOnce(t *testing.T) {
	f, sink := newFixture(t), newAddressSink()
	const before, after = 100, 20
	for i := range before { // when there was no address yet
		f.add(fmt.Sprintf("k%d", i), "a")
	}
	f.run(sink, f.journal)
	for i := range after {
		f.add(fmt.Sprintf("l%d", i), "a")
	}
	f.awaitPublished(before + after)
	f.stop()
	f.run(sink, f.journal)
	f.add("last", "a")
	f.awaitPublished(before + after + 1)
	f.stop()
	require.Len(t, sink.letters, before+after+1)
	first := sink.letters[0]
	require.Equal(t, "k0/a", first.Event.Subject)
	require.Equal(t, "{}", string(first.Event.Data))
	require.Equal(t, "too large for the broker", first.Reason)
	require.Equal(t, 1, first.Attempts)
	require.InDelta(t, 1, f.counter("published"), 0)
}

func TestASinkWithoutAnAddressPublishesNone(t *testing.T) {
	f := newFixture(t)
	f.add("k", "a")
	f.run(deliverytest.NewScriptedSink(), f.journal)
	f.stop()
	require.Zero(t, f.letters()[0].PublishedAt)
}

func TestADeadLetterAddressInTroubleIsTriedOn(t *testing.T) {
	f, sink := newFixture(t), newAddressSink()
	sink.failLetter = func(bridge.DeadLetter) error {
		return bridge.Blocked(errors.New("no stream captures dead-letters"))
	}
	f.run(sink, f.journal)
	for i := range 50 {
		f.add(fmt.Sprintf("k%d", i), "a")
	}
	require.Eventually(t, func() bool { return f.counter("retried") > 50 }, bound, time.Millisecond)
	require.Equal(t, 1, f.log.Count("cannot be published to the sink's dead-letter address"))
	sink.set(func() { sink.failLetter = nil })
	f.awaitPublished(50)
	require.Eventually(t, func() bool { return f.log.Count("dead-letter address again") == 1 },
		bound, time.Millisecond)
	f.stop()
	require.Len(t, sink.letters, 50)
	require.Equal(t, 1, f.log.Count("cannot be published to the sink's dead-letter address"))
}

func TestADeadLetterThatItsAddressRejectsIsLeftAloneUntilItComesBack(t *testing.T) {
	f, sink := newFixture(t), newAddressSink()
	tries := 0
	sink.failLetter = func(l bridge.DeadLetter) error {
		if l.Event.PartitionKey == "k1" {
			tries++
			return bridge.Reject(errors.New("a header is too large"))
		}
		return nil
	}
	f.run(sink, f.journal)
	rejected := f.add("k1", "a")
	f.add("k2", "a")
	letters := f.awaitPublished(1)
	require.True(t, letters[0].PublishedAt.IsZero())
	f.add("k3", "a")
	f.awaitPublished(2)
	sink.set(func() { require.Equal(t, 1, tries) })
	require.Equal(t, 1, f.log.Count("was rejected at the sink's dead-letter address"))

	require.NoError(t, f.journal.AddDeadLetters(t.Context(), []journal.DeadLetter{f.letter(rejected, "k1", "a")}))
	require.Eventually(t, func() bool { return f.counter("rejected") == 2 }, bound, time.Millisecond,
		"it came back from another try at the sink")
	require.Len(t, f.letters(), 3)
}

func TestDeadLettersThatNeverReachTheirAddressHoldUpNoOther(t *testing.T) {
	f, sink := newFixture(t), newAddressSink()
	sink.failLetter = func(l bridge.DeadLetter) error {
		if l.Event.Function == "stuck" {
			return bridge.Retry(errors.New("unknown server error"))
		}
		return nil
	}
	f.run(sink, f.journal)
	for i := range 3 * page {
		f.add(fmt.Sprintf("k%d", i), "stuck")
	}
	f.add("last", "good")
	f.awaitPublished(1)
	sink.set(func() { sink.failLetter = nil })
	f.awaitPublished(3*page + 1)
}

func TestADeadLetterThatComesBackWhileItIsPublishedIsPublishedAsItIsThen(t *testing.T) {
	f, sink := newFixture(t), newAddressSink()
	publishing, cameBack := make(chan struct{}), make(chan struct{})
	sink.failLetter = func(l bridge.DeadLetter) error {
		if l.Attempts == 1 {
			close(publishing)
			<-cameBack
		}
		return nil
	}
	f.run(sink, f.journal)
	seq := f.add("k1", "a")
	<-publishing
	require.NoError(t, f.journal.AddDeadLetters(t.Context(), []journal.DeadLetter{f.letter(seq, "k1", "a")}))
	close(cameBack)
	f.awaitPublished(1)
	f.stop()
	require.Len(t, sink.letters, 2)
	require.Equal(t, 2, sink.letters[1].Attempts)
}

// forgetful is a journal that cannot note what was published.
type forgetful struct {
	*journal.Journal
	tries atomic.Int64
}

func (j *forgetful) DeadLettersPublished(context.Context, []journal.DeadLetter) error {
	j.tries.Add(1)
	return errors.New("disk full")
}

func TestADeadLetterIsPublishedAgainAfterACrashButNotBefore(t *testing.T) {
	f, sink := newFixture(t), newAddressSink()
	j := &forgetful{Journal: f.journal}
	f.run(sink, j)
	f.add("k1", "a")
	require.Eventually(t, func() bool { return j.tries.Load() > 1 }, bound, time.Millisecond)
	f.stop()
	require.Len(t, sink.letters, 1)
	f.run(sink, f.journal)
	f.awaitPublished(1)
	f.stop()
	require.Len(t, sink.letters, 2)
}

// pages is a journal that notes the most data that a read of dead letters returned.
type pages struct {
	*journal.Journal
	most int
}

func (p *pages) DeadLetters(ctx context.Context, f journal.DeadLetterFilter) ([]journal.DeadLetter, error) {
	letters, err := p.Journal.DeadLetters(ctx, f)
	read := 0
	for i := range letters {
		read += len(letters[i].Event.Data)
	}
	p.most = max(p.most, read)
	return letters, err
}

// Dead letters are often there because they are large: few of those are read at once, and the last one is, too.
func TestLargeDeadLettersAreReadFewAtATime(t *testing.T) {
	f := newFixture(t)
	for i := range 5 {
		l := f.letter(1, "k1", fmt.Sprint("large", i))
		l.Event.Origin.Index, l.Event.Data = i, bytes.Repeat([]byte("x"), batchBytes/2+i*batchBytes/4)
		require.NoError(t, f.journal.AddDeadLetters(t.Context(), []journal.DeadLetter{l}))
	}
	j := &pages{Journal: f.journal}
	f.run(newAddressSink(), j)
	f.awaitPublished(5)
	f.stop()
	require.Equal(t, batchBytes*3/2, j.most, "the largest one alone")
}

// unread is a journal that cannot be read at first.
type unread struct {
	*journal.Journal
	failed bool
}

func (j *unread) DeadLetters(ctx context.Context, f journal.DeadLetterFilter) ([]journal.DeadLetter, error) {
	if !j.failed {
		j.failed = true
		return nil, errors.New("disk away")
	}
	return j.Journal.DeadLetters(ctx, f)
}

func TestTheLogSaysThatDeadLettersCanBeReadAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.add("k1", "a")
	f.run(newAddressSink(), &unread{Journal: f.journal})
	f.awaitPublished(1)
	require.Equal(t, 1, f.log.Count("the journal cannot be read"))
	require.Equal(t, 1, f.log.Count("the journal can be read again"))
}
