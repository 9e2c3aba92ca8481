package delivery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
)

// A broker can refuse some events for as long as nobody mends it, such as those to one subject. They must not stand in
// the way of the others, however many they are and wherever they stand.
func TestEventsThatNeverGetThroughHoldUpNoOtherKey(t *testing.T) {
	const refused, accepted = 40, 40 // each more than a probe and a batch take
	options := func(o *Options) { o.BatchEvents, o.ProbeEvents = 8, 4 }
	forbidden := func(e bridge.Event) bool { return strings.HasPrefix(e.PartitionKey, "no") }
	refuse := func(e bridge.Event) error {
		if forbidden(e) {
			return bridge.Blocked(errors.New("no permission for this subject"))
		}
		return nil
	}

	t.Run("new events behind refused ones", func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Fail = refuse
		f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
		for i := range refused {
			f.accept(fmt.Sprintf("no%d", i), "a")
		}
		for i := range accepted {
			f.accept(fmt.Sprintf("yes%d", i), "a")
		}
		f.run(options)
		f.sink.Await(t, count(accepted))
	})
	t.Run("events held by an outage behind refused ones", func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Fail = func(bridge.Event) error { return bridge.Retry(errors.New("connection refused")) }
		f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
		for i := range refused {
			f.accept(fmt.Sprintf("no%d", i), "a", "b")
		}
		for i := range accepted {
			f.accept(fmt.Sprintf("yes%d", i), "a", "b")
		}
		f.run(func(o *Options) { o.BatchEvents, o.ProbeEvents = 2*(refused+accepted), 4 })
		require.Eventually(t, func() (ok bool) {
			f.sink.Set(func() { ok = len(f.sink.Batches) > 3 })
			return ok
		}, bound, time.Millisecond)
		f.sink.Set(func() { sink.Fail = refuse })
		last := map[string]string{}
		for _, e := range f.sink.Await(t, count(2*accepted)) {
			require.Equal(t, map[string]string{"": "a", "a": "b"}[last[e.PartitionKey]], e.Function, e.PartitionKey)
			last[e.PartitionKey] = e.Function
		}
	})
}

// So many events that the broker refuses stand ahead of all others that the window has no room for any more: it is the
// events that are refused, since the sink passes its check, and what comes behind them goes on.
func TestAWindowFullOfRefusedEventsDoesNotStopTheOthers(t *testing.T) {
	refused := func(e bridge.Event) bool { return strings.HasPrefix(e.PartitionKey, "no") }
	for name, accept := range map[string]func(f *fixture){
		"many keys": func(f *fixture) {
			for i := range 500 {
				f.accept(fmt.Sprintf("no%d", i), "a")
			}
		},
		"one key": func(f *fixture) { f.accept("no", functions(500)...) },
	} {
		t.Run(name, func(t *testing.T) {
			sink := deliverytest.NewScriptedSink()
			sink.Fail = func(e bridge.Event) error {
				if refused(e) {
					return bridge.Blocked(errors.New("no permission for this subject"))
				}
				return nil
			}
			f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
			options := func(o *Options) { smallWindow(o); o.ReturnInterval = time.Millisecond }
			accept(f)
			f.accept("yes1", "a", "b")
			f.run(options)
			f.sink.Await(t, count(2))
			f.stop()
			f.run(options) // it reads again what is refused, and nothing else
			f.accept("yes2", "a", "b")
			f.sink.Await(t, count(4))
			f.sink.Set(func() { sink.Fail = nil })
			f.awaitCursor(int64(f.n))
			stored := f.sink.Await(t, count(504))
			require.Len(t, stored, 504, "everything once")
			require.Equal(t, []string{"yes1/a", "yes1/b", "yes2/a", "yes2/b"}, deliverytest.Subjects(stored[:4]))
		})
	}
}

// Whoever waits for a small webhook must not wait for all of the large one that came just before it.
func TestAPayloadOfManyFunctionsHoldsUpNoOtherKey(t *testing.T) {
	const window = 128
	functions := make([]string, 1000)
	for i := range functions {
		functions[i] = fmt.Sprintf("fn%04d", i)
	}
	f := &fixture{
		t: t, journal: openJournal(t, t.TempDir()), sink: deliverytest.NewScriptedSink(), log: &deliverytest.Records{},
	}
	f.accept("large", functions...)
	f.accept("small", "a", "b")
	f.accept("large", "again")
	f.accept("alike", functions...)
	const more = 2000
	for i := range more {
		f.accept(fmt.Sprintf("later%d", i), "a")
	}
	f.run(func(o *Options) { o.WindowEvents = window })
	events := f.sink.Await(t, count(2*len(functions)+3+more))

	var order []string
	byKey := map[string][]string{}
	for _, e := range events {
		order = append(order, e.PartitionKey)
		byKey[e.PartitionKey] = append(byKey[e.PartitionKey], e.Function)
	}
	require.Equal(t, append(slices.Clone(functions), "again"), byKey["large"])
	require.Equal(t, functions, byKey["alike"])
	require.Equal(t, []string{"a", "b"}, byKey["small"])
	require.Less(t, slices.Index(order, "small"), window)
	require.Less(t, slices.Index(order, "alike"), window)
	require.Equal(t, fmt.Sprintf("later%d", more-1), order[len(order)-1],
		"those that come later do not hold up the large ones either")
}

// A request costs a broker much more than a partition of it.
func TestWhatIsReadyForPartitionsOfOneBrokerGoesTogether(t *testing.T) {
	const partitions = 4
	sink := deliverytest.NewScriptedSink()
	sink.Partitions, sink.OneBroker = partitions, true
	inTrouble := func(e bridge.Event) error {
		if e.PartitionKey == "k3" {
			return bridge.Retry(errors.New("not enough replicas"))
		}
		return nil
	}
	sink.Fail = inTrouble
	f := &fixture{t: t, journal: openJournal(t, t.TempDir()), sink: sink, log: &deliverytest.Records{}}
	for i := range partitions {
		f.accept(fmt.Sprintf("k%d", i), "a", "b")
	}
	f.run(nil)
	f.sink.Await(t, count(2*(partitions-1)))
	f.sink.Set(func() { require.Equal(t, 2*partitions, sink.Batches[0], "all in one call") })

	// The one in trouble goes alone from then on, so that no other waits for it.
	release := sink.Release
	alone := make(chan struct{})
	var once sync.Once
	f.sink.Set(func() {
		sink.Hang = func(e bridge.Event) bool {
			if e.PartitionKey == "k3" {
				once.Do(func() { close(alone) })
				return true
			}
			return false
		}
	})
	<-alone
	for i := range partitions - 1 {
		f.accept(fmt.Sprintf("k%d", i), "c")
	}
	f.sink.Await(t, count(3*(partitions-1)))
	f.sink.Set(func() { sink.Hang, sink.Fail = nil, nil })
	close(release)
	f.sink.Await(t, count(3*(partitions-1)+2))
}
