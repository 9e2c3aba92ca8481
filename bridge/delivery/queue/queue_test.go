package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/delivery/deliverytest"
)

// namedSink is a scriptedSink among others.
type namedSink struct {
	*deliverytest.ScriptedSink
	name string
}

func (s namedSink) Name() string { return s.name }

// deadLetterSink also has a dead-letter address.
type deadLetterSink struct {
	namedSink
	deadLettered *[]bridge.DeadLetter
	failure      *error
}

func (deadLetterSink) DeadLetterAddress() string { return "dead" }

func (s deadLetterSink) PublishDeadLetters(_ context.Context, letters []bridge.DeadLetter) []error {
	errs := make([]error, len(letters))
	for i := range errs {
		if errs[i] = *s.failure; errs[i] == nil {
			*s.deadLettered = append(*s.deadLettered, letters[i])
		}
	}
	return errs
}

// queued is a Queue with running dispatchers, in a bubble of synctest.
type queued struct {
	t       *testing.T
	queue   *Queue
	metrics *prometheus.Registry
	log     *deliverytest.Records
	end     func()
}

type sinkOf struct {
	sink     bridge.Sink
	optional bool
}

func startQueue(t *testing.T, o Options, change func(*delivery.Options), sinks ...sinkOf) *queued {
	t.Helper()
	f := &queued{t: t, metrics: prometheus.NewRegistry(), log: &deliverytest.Records{}}
	o.Registerer = f.metrics
	var err error
	f.queue, err = New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	publish, abandon := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, s := range sinks {
		o := delivery.Options{Sink: s.sink, Registerer: f.metrics, Logger: slog.New(f.log)}
		if change != nil {
			change(&o)
		}
		d, err := f.queue.NewDispatcher(SinkOptions{Optional: s.optional}, o)
		require.NoError(t, err)
		running.Go(func() {
			if err := d.Run(ctx, publish); err != nil {
				panic(err)
			}
		})
	}
	f.end = sync.OnceFunc(func() {
		cancel()
		abandon()
		running.Wait()
		f.queue.Close()
	})
	synctest.Wait() // the first check is through
	return f
}

// submit submits a workflow webhook, for at most 12 s.
func (f *queued) submit(id, invocation string, functions ...string) (bridge.Acceptance, error) {
	status := make([]string, len(functions))
	for i, fn := range functions {
		status[i] = fmt.Sprintf("%q:%q", fn, "success")
	}
	body := fmt.Sprintf(`{"workflow_name":"w","invocation_id":%q,"fn_status":{%s}}`, invocation, strings.Join(status, ","))
	ctx, cancel := context.WithTimeout(f.t.Context(), 12*time.Second)
	defer cancel()
	now := time.Now()
	return f.queue.Submit(ctx, bridge.Webhook{ID: id, Timestamp: now, ReceivedAt: now, Body: []byte(body)})
}

// later submits in a goroutine of its own.
func (f *queued) later(id, invocation string, functions ...string) <-chan error {
	answer := make(chan error, 1)
	go func() {
		_, err := f.submit(id, invocation, functions...)
		answer <- err
	}()
	return answer
}

func (f *queued) empty() {
	f.t.Helper()
	synctest.Wait()
	webhooks, bytes := f.queue.Size()
	require.Zero(f.t, webhooks, "a webhook that was answered has not left")
	require.Zero(f.t, bytes)
}

// inBubble runs a test whose time passes only when everything waits.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

func errDown() error { return bridge.Retry(errors.New("connection refused")) }

func failAll(s *deliverytest.ScriptedSink, err error) {
	s.Set(func() {
		s.Unwell = err
		s.Fail = nil
		if err != nil {
			s.Fail = func(bridge.Event) error { return err }
		}
	})
}

func TestAWebhookIsAnsweredWhenEveryRequiredSinkHasEveryEvent(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		one, two := namedSink{deliverytest.NewScriptedSink(), "one"}, namedSink{deliverytest.NewScriptedSink(), "two"}
		two.Hang = func(e bridge.Event) bool { return e.Subject == "k1/b" }
		f := startQueue(t, Options{}, nil, sinkOf{sink: one}, sinkOf{sink: two})
		defer f.end()
		answer := f.later("msg_1", "k1", "a", "b")
		synctest.Wait()
		require.Len(t, one.Stored, 2)
		require.Empty(t, answer, "it is answered although one sink has nothing yet")
		close(two.Release)
		require.NoError(t, <-answer)
		require.Equal(t, []string{"k1/a", "k1/b"}, deliverytest.Subjects(two.Stored))
		accepted, err := f.submit("msg_1", "k1", "a", "b")
		require.NoError(t, err)
		require.Equal(t, bridge.Duplicate, accepted)
		require.Len(t, one.Stored, 2, "a webhook that was published is not published again")
		f.empty()
	})
}

func TestConcurrentWebhooksShareBatches(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Hang = func(e bridge.Event) bool { return e.PartitionKey == "first" }
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		answers := []<-chan error{f.later("msg_0", "first", "a")}
		synctest.Wait()
		for i := range 500 {
			answers = append(answers, f.later(fmt.Sprintf("msg_%d", i+1), fmt.Sprintf("k%d", i), "a"))
		}
		synctest.Wait()
		close(sink.Release)
		for _, answer := range answers {
			require.NoError(t, <-answer)
		}
		require.Len(t, sink.Batches, 2,
			"501 requests: one that was alone, and 500 that came while it was under way: %v", sink.Batches)
	})
}

func TestTheSameWebhookTwiceAtOnceIsPublishedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Hang = func(bridge.Event) bool { return true }
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		duplicates := make(chan bool, 3)
		for range 3 {
			go func() {
				accepted, err := f.submit("msg_1", "k1", "a")
				duplicates <- accepted == bridge.Duplicate && err == nil
			}()
		}
		synctest.Wait()
		close(sink.Release)
		n := 0
		for range 3 {
			if <-duplicates {
				n++
			}
		}
		require.Equal(t, 2, n, "one publishes, the others hear of the duplicate")
		require.Len(t, sink.Stored, 1)
	})
}

func TestAWebhookThatIsNotStoredInTimeLeavesNothingBehind(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Fail = func(e bridge.Event) error {
			if e.PartitionKey == "k1" {
				return bridge.Retry(errors.New("not enough replicas"))
			}
			return nil
		}
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		start := time.Now()
		answer := f.later("msg_1", "k1", "a", "b")
		<-time.After(time.Second) // the retries go on
		_, err := f.submit("msg_2", "k2", "a")
		require.NoError(t, err, "another key is held up")
		err = <-answer
		var down *DownError
		require.ErrorAs(t, err, &down)
		require.True(t, down.InTime)
		require.Equal(t, 12*time.Second, time.Since(start))
		f.empty()
		// When it comes again, it is published: what was stored of it was not all.
		sink.Set(func() { sink.Fail = nil })
		accepted, err := f.submit("msg_1", "k1", "a", "b")
		require.NoError(t, err)
		require.Equal(t, bridge.Stored, accepted)
		require.Equal(t, []string{"k2/a", "k1/a", "k1/b"}, deliverytest.Subjects(sink.Stored))
		f.empty()
	})
}

func TestARejectedEventIsToldToTheSenderAndTheRestIsStored(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Fail = func(e bridge.Event) error {
			if strings.HasSuffix(e.Subject, "/large") {
				return bridge.Reject(errors.New("message size exceeds maximum"))
			}
			return nil
		}
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		_, err := f.submit("msg_1", "k1", "a", "large", "b")
		var rejected *RejectedError
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, 1, rejected.Events)
		require.Contains(t, err.Error(), "message size exceeds maximum")
		require.Equal(t, []string{"k1/a", "k1/b"}, deliverytest.Subjects(sink.Stored))
		require.Equal(t, 1, f.log.Count("their webhooks are refused"))
		_, err = f.submit("msg_1", "k1", "large")
		require.ErrorAs(t, err, &rejected, "a webhook that was refused is no duplicate when it comes again")
		f.empty()
	})
}

// A refusal is final to the sender. While a required sink has not stored the rest, nothing is.
func TestARejectedEventIsNoAnswerWhileAnotherSinkHasNotStoredTheRest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		rejects, hangs := deliverytest.NewScriptedSink(), deliverytest.NewScriptedSink()
		rejects.Fail = func(bridge.Event) error { return bridge.Reject(errors.New("too large")) }
		hangs.Fail = func(bridge.Event) error { return errDown() }
		f := startQueue(t, Options{}, nil,
			sinkOf{sink: namedSink{rejects, "rejects"}}, sinkOf{sink: namedSink{hangs, "hangs"}})
		defer f.end()
		_, err := f.submit("msg_1", "k1", "a")
		var down *DownError
		require.ErrorAs(t, err, &down, "the sender must come again")
		require.Equal(t, "hangs", down.Sink)
		hangs.Set(func() { hangs.Fail = nil })
		require.Eventually(t, func() bool {
			_, err = f.submit("msg_1", "k1", "a")
			_, rejected := errors.AsType[*RejectedError](err)
			return rejected
		}, time.Minute, time.Second, "and is refused for good when the rest is stored: %v", err)
		f.empty()
	})
}

func TestADeadLetterAtTheSinksAddressCountsAsHandled(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var failure error
		sink := deadLetterSink{namedSink{deliverytest.NewScriptedSink(), "one"}, new([]bridge.DeadLetter), &failure}
		sink.Set(func() { sink.Fail = func(bridge.Event) error { return bridge.Reject(errors.New("too large")) } })
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		_, err := f.submit("msg_1", "k1", "a")
		require.NoError(t, err)
		require.Len(t, *sink.deadLettered, 1)
		require.Equal(t, "too large", (*sink.deadLettered)[0].Reason)
		require.Equal(t, 1, (*sink.deadLettered)[0].Attempts)

		failure = errDown()
		start := time.Now()
		_, err = f.submit("msg_2", "k1", "a")
		var down *DownError
		require.ErrorAs(t, err, &down)
		require.Contains(t, err.Error(), "dead letter could not be published to dead")
		require.Zero(t, time.Since(start), "it waits although the answer is known")
		<-time.After(10 * time.Second)
		_, err = f.submit("msg_2", "k1", "a")
		require.ErrorAs(t, err, &down)
		require.NoError(t, f.queue.Ready(), "the address for dead letters says nothing of the sink")

		failure = bridge.Reject(errors.New("not even that"))
		_, err = f.submit("msg_3", "k1", "a")
		var rejected *RejectedError
		require.ErrorAs(t, err, &rejected)
		require.Contains(t, err.Error(), "not even that")
		require.Len(t, *sink.deadLettered, 1)
		f.empty()
	})
}

func TestASinkThatIsKnownToBeDownIsAnsweredAtOnceAndProbedByOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		require.NoError(t, f.queue.Ready())
		failAll(sink, errDown())

		// What comes before it is known waits for the sink to come back: a change of leader takes some seconds.
		start := time.Now()
		early := []<-chan error{f.later("msg_1", "k1", "a"), f.later("msg_2", "k2", "a"), f.later("msg_3", "k3", "a")}
		<-time.After(4 * time.Second)
		require.NoError(t, f.queue.Ready(), "not ready before it is known")
		require.Empty(t, early[0])
		<-time.After(4 * time.Second)
		require.ErrorContains(t, f.queue.Ready(), "sink scripted cannot be reached: connection refused")
		answered := 0
		for _, answer := range early {
			answered += len(answer)
		}
		require.Equal(t, 2, answered, "all but one, which asks on, are answered once it is known")

		// From now on a webhook is refused at once.
		for i := range 5 {
			at := time.Now()
			_, err := f.submit(fmt.Sprintf("msg_%d", 10+i), "k9", "a")
			var down *DownError
			require.ErrorAs(t, err, &down)
			require.Zero(t, time.Since(at))
		}
		published := func() (n int) {
			synctest.Wait()
			sink.Set(func() { n = sink.Published })
			return n
		}
		before := published()
		<-time.After(time.Second)
		require.LessOrEqual(t, published()-before, 2, "one event asks whether it works again")
		for _, answer := range early {
			require.Error(t, <-answer)
		}
		require.LessOrEqual(t, time.Since(start), 12*time.Second)

		// It is back, and the next webhook finds it out.
		failAll(sink, nil)
		_, err := f.submit("msg_20", "k1", "a")
		require.NoError(t, err)
		f.empty()
		require.NoError(t, f.queue.Ready(), "once the dispatcher is through with the batch")
	})
}

func TestABlockedSinkIsKnownToBeDownAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		failAll(sink, bridge.Blocked(errors.New("no such stream")))
		probe := f.later("msg_1", "k1", "a")
		synctest.Wait()
		_, err := f.submit("msg_2", "k2", "a")
		require.ErrorContains(t, err, "no such stream")
		require.Empty(t, probe)
		require.Error(t, <-probe)
		f.empty()
	})
}

func TestRecoveryIsFoundWithoutAnyWebhook(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Unwell = errDown()
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		require.ErrorContains(t, f.queue.Ready(), "connection refused",
			"a sink that was never reached is not ready from the start")
		failAll(sink, nil)
		<-time.After(1500 * time.Millisecond)
		require.NoError(t, f.queue.Ready())

		// A check that fails once changes nothing yet; one that goes on failing does.
		sink.Set(func() { sink.Unwell = errDown() })
		<-time.After(8 * time.Second)
		require.NoError(t, f.queue.Ready())
		<-time.After(4 * time.Second)
		require.Error(t, f.queue.Ready())
		failAll(sink, nil)
		<-time.After(2 * leastCoolDown)
		require.NoError(t, f.queue.Ready())
		_, err := f.submit("msg_1", "k1", "a")
		require.NoError(t, err)
	})
}

func TestReadinessDoesNotFlapWithChecksThatPassAndPublishingThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		sink.Set(func() { sink.Fail = func(bridge.Event) error { return errDown() } })
		changes, ready := 0, true
		for i := range 600 { // ten minutes, a webhook a second while it is ready, as a load balancer sends them
			if now := f.queue.Ready() == nil; now != ready {
				ready = now
				changes++
			}
			if ready {
				f.later(fmt.Sprintf("msg_%d", i), fmt.Sprintf("k%d", i), "a")
			}
			<-time.After(time.Second)
		}
		require.Greater(t, changes, 4, "it is tried again now and then")
		require.Less(t, changes, 30)
	})
}

func TestOnePartitionThatIsDownTakesNoPlaceFromTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Partitions = 4
		sink.Fail = func(e bridge.Event) error {
			if sink.Partition(e) == 3 {
				return errDown()
			}
			return nil
		}
		f := startQueue(t, Options{MaxWebhooks: 100}, nil, sinkOf{sink: sink})
		defer f.end()
		var good, bad []<-chan error
		for i := range 400 { // twenty a second, of which five are for the partition that is down
			answer := f.later(fmt.Sprintf("msg_%d", i), fmt.Sprintf("k%d", i), "a")
			if i%4 == 3 {
				bad = append(bad, answer)
			} else {
				good = append(good, answer)
			}
			<-time.After(50 * time.Millisecond)
		}
		for _, answer := range good {
			require.NoError(t, <-answer)
		}
		require.NoError(t, f.queue.Ready())
		for _, answer := range bad {
			err := <-answer
			require.Error(t, err)
			require.NotErrorIs(t, err, ErrFull)
		}
		sink.Set(func() { sink.Fail = nil })
		_, err := f.submit("msg_last", "k3", "a")
		require.NoError(t, err)
		f.empty()
	})
}

func TestAnOptionalSinkIsNotWaitedForAndItsMissesAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		required, optional := namedSink{deliverytest.NewScriptedSink(), "required"},
			namedSink{deliverytest.NewScriptedSink(), "optional"}
		f := startQueue(t, Options{}, nil, sinkOf{sink: required}, sinkOf{sink: optional, optional: true})
		defer f.end()
		_, err := f.submit("msg_0", "k1", "a")
		require.NoError(t, err)
		require.Len(t, optional.Stored, 1)
		missed := func() int {
			synctest.Wait()
			found, err := f.metrics.Gather()
			require.NoError(t, err)
			for _, m := range found {
				if m.GetName() == "fnbridge_sink_missed_events_total" {
					return int(m.GetMetric()[0].GetCounter().GetValue())
				}
			}
			return -1
		}
		require.Zero(t, missed())

		optional.Set(func() { optional.Fail = func(bridge.Event) error { return errDown() } })
		start := time.Now()
		_, err = f.submit("msg_1", "k1", "a", "b")
		require.NoError(t, err)
		require.Equal(t, 500*time.Millisecond, time.Since(start), "the grace")
		require.Equal(t, 2, missed())
		for i := range 20 {
			_, err = f.submit(fmt.Sprintf("msg_%d", 10+i), "k1", "a")
			require.NoError(t, err)
			<-time.After(500 * time.Millisecond)
		}
		require.Equal(t, 22, missed())
		// It is known to be down by now: one at a time asks, and the others do not wait for it.
		probe := f.later("msg_50", "k2", "a")
		synctest.Wait()
		start = time.Now()
		_, err = f.submit("msg_51", "k3", "a")
		require.NoError(t, err)
		require.Zero(t, time.Since(start))
		require.NoError(t, <-probe)
		require.NoError(t, f.queue.Ready(), "an optional sink takes no readiness away")
		// What is answered 503 comes again, and is no miss.
		failAll(required.ScriptedSink, errDown())
		before := missed()
		_, err = f.submit("msg_60", "k4", "a")
		require.Error(t, err)
		require.Equal(t, before, missed())
		failAll(required.ScriptedSink, nil)
		f.empty()
	})
}

func TestAQueueIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Hang = func(bridge.Event) bool { return true }
		f := startQueue(t, Options{MaxWebhooks: 10, MaxBytes: 1 << 20}, nil, sinkOf{sink: sink})
		defer f.end()
		for i := range 10 {
			f.later(fmt.Sprintf("msg_%d", i), "k", "a")
			synctest.Wait() // the sink's call has the first one alone
		}
		_, err := f.submit("msg_10", "k", "a")
		require.ErrorIs(t, err, ErrFull)
		// Their senders give up, but the sink's call still has one of them: that has its room until it returns.
		<-time.After(13 * time.Second)
		webhooks, _ := f.queue.Size()
		require.Equal(t, 1, webhooks)
		close(sink.Release)
		f.empty()
	})
}

func TestAnOptionalSinkThatHangsTakesNoRoomFromTheOthers(t *testing.T) {
	long := strings.Repeat("x", 30<<10)
	for name, tt := range map[string]struct {
		limits Options
		most   int // webhooks that the sink keeps
	}{
		"by number": {Options{MaxWebhooks: 4}, 4},
		"by bytes":  {Options{MaxBytes: 512 << 10}, 5}, // more than a quarter of them
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				required, optional := namedSink{deliverytest.NewScriptedSink(), "required"},
					namedSink{deliverytest.NewScriptedSink(), "optional"}
				optional.Hang = func(bridge.Event) bool { return true }
				optional.Partitions = 64 // each has a call of its own, which does not let go
				f := startQueue(t, tt.limits, nil, sinkOf{sink: required}, sinkOf{sink: optional, optional: true})
				defer f.end()
				for i := range 15 {
					start := time.Now()
					var answers []<-chan error
					for j := range 4 {
						n := 4*i + j
						answers = append(answers, f.later(fmt.Sprintf("msg_%d", n), fmt.Sprintf("k%d", n), "a"+long))
					}
					for _, answer := range answers {
						require.NoError(t, <-answer)
					}
					require.LessOrEqual(t, time.Since(start), 500*time.Millisecond)
					webhooks, _ := f.queue.Size()
					require.LessOrEqual(t, webhooks, tt.most+3, "the last four came together")
				}
				require.Len(t, required.Stored, 60)
				close(optional.Release)
				f.empty()
				_, err := f.submit("msg_last", "k1", "last")
				require.NoError(t, err)
				require.Contains(t, deliverytest.Subjects(optional.Stored), "k1/last", "it gets webhooks again")
				require.Zero(t, f.queue.left)
			})
		})
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		f := startQueue(t, Options{Remembered: 3}, nil, sinkOf{sink: deliverytest.NewScriptedSink()})
		defer f.end()
		submit := func(i int) bridge.Acceptance {
			accepted, err := f.submit(fmt.Sprintf("msg_%d", i/2), fmt.Sprintf("k%d", i), "a") // each id with two bodies
			require.NoError(t, err)
			return accepted
		}
		for i := range 10 {
			require.Equal(t, []bridge.Acceptance{bridge.Stored, bridge.StoredReusedID}[i%2], submit(i))
		}
		for _, i := range []int{7, 8, 9} {
			require.Equal(t, bridge.Duplicate, submit(i), "%d", i)
		}
		require.Equal(t, bridge.StoredReusedID, submit(6), "that one is forgotten, its id is not")
		require.Len(t, f.queue.recent.until, 3)
		require.Equal(t, map[string]int{"msg_3": 1, "msg_4": 2}, f.queue.bodies)
	})
}

func TestOneIDWithEightBodiesAtOnceIsEightWebhooks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Hang = func(bridge.Event) bool { return true }
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		const bodies = 8
		answers := make(chan bridge.Acceptance, 2*bodies)
		var want []string
		for i := range bodies {
			want = append(want, fmt.Sprintf("k%d/a", i))
			for range 2 {
				go func() {
					accepted, err := f.submit("msg_1", fmt.Sprintf("k%d", i), "a")
					if err != nil {
						t.Errorf("body %d: %v", i, err)
					}
					answers <- accepted
				}()
			}
		}
		synctest.Wait()
		close(sink.Release)
		came := map[bridge.Acceptance]int{}
		for range 2 * bodies {
			came[<-answers]++
		}
		require.Equal(t,
			map[bridge.Acceptance]int{bridge.Stored: 1, bridge.StoredReusedID: bodies - 1, bridge.Duplicate: bodies}, came)
		require.ElementsMatch(t, want, deliverytest.Subjects(sink.Stored))
		for _, e := range sink.Stored {
			require.Equal(t, "msg_1", e.WebhookID)
		}
		f.empty()
	})
}

func TestCloseAnswersWhoWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		sink.Hang = func(bridge.Event) bool { return true }
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		answer := f.later("msg_1", "k", "a")
		synctest.Wait()
		f.end()
		require.Error(t, <-answer)
		_, err := f.submit("msg_2", "k", "a")
		require.ErrorIs(t, err, ErrClosed)
	})
}

func TestEventsOfAKeyKeepTheirOrderInAQueue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		tries := map[string]int{}
		sink.Fail = func(e bridge.Event) error { // every third event fails twice
			if tries[e.ID]++; len(e.Subject)%3 == 0 && tries[e.ID] < 3 {
				return errDown()
			}
			return nil
		}
		f := startQueue(t, Options{}, nil, sinkOf{sink: sink})
		defer f.end()
		var answers []<-chan error
		var want []string
		for i := range 100 {
			name := strings.Repeat("x", 1+i%5) + fmt.Sprint(i)
			want = append(want, "k1/"+name)
			answers = append(answers, f.later(fmt.Sprintf("msg_%d", i), "k1", name))
			synctest.Wait()
		}
		for _, answer := range answers {
			require.NoError(t, <-answer)
		}
		require.Equal(t, want, deliverytest.Subjects(sink.Stored))
	})
}

// Senders with a key each send its webhooks one after the other, each again until it is answered, to any of three
// queues, which stand for processes. What was answered must be stored, in order by key, whatever fails: single events,
// everything for a while, longer than webhooks wait, or partitions that move.
func TestWhateverFailsQueuesKeepTheOrderOfWhatWasAnswered(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const keys, webhooks = 8, 40
				sink := deliverytest.NewScriptedSink()
				random := rand.New(rand.NewPCG(seed, 0)) // in fail alone, which is called with the sink's lock held
				until := time.Now()
				sink.Fail = func(bridge.Event) error {
					if time.Now().Before(until) {
						return errDown()
					}
					switch random.IntN(60) {
					case 0:
						until = time.Now().Add(time.Duration(random.Int64N(int64(20 * time.Second))))
						return errDown()
					case 1:
						return bridge.Blocked(errors.New("not permitted yet"))
					case 2:
						return errDown()
					}
					return nil
				}
				sink.Partitions = 3
				var processes []*queued
				for range 3 {
					processes = append(processes, startQueue(t, Options{}, func(o *delivery.Options) {
						o.BatchEvents, o.ProbeEvents, o.WindowEvents = 8, 3, 30
					}, sinkOf{sink: sink}))
				}
				want := make(map[string][]string)
				var senders sync.WaitGroup
				for k := range keys {
					key := fmt.Sprintf("k%d", k)
					choose := rand.New(rand.NewPCG(seed, uint64(k)+1))
					counts := make([]int, webhooks)
					for i := range counts {
						counts[i] = 1 + choose.IntN(3)
						for n := range counts[i] {
							want[key] = append(want[key], fmt.Sprintf("%s/f%d_%d", key, i, n))
						}
					}
					senders.Go(func() {
						for i, count := range counts {
							var functions []string
							for n := range count {
								functions = append(functions, fmt.Sprintf("f%d_%d", i, n))
							}
							for {
								p := processes[choose.IntN(len(processes))]
								if _, err := p.submit(fmt.Sprintf("msg_%s_%d", key, i), key, functions...); err == nil {
									break
								}
								<-time.After(time.Duration(choose.Int64N(int64(3 * time.Second))))
							}
						}
					})
				}
				senders.Wait()
				for _, p := range processes {
					p.empty()
					p.end()
				}
				require.Equal(t, want, deliverytest.ByKey(deliverytest.Firsts(sink.Stored)))
			})
		})
	}
}

func TestAHugeWebhookIsLetGoWhole(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		sink := deliverytest.NewScriptedSink()
		f := startQueue(t, Options{}, func(o *delivery.Options) { o.WindowEvents = 50 }, sinkOf{sink: sink})
		defer f.end()
		sink.Set(func() { sink.Fail = func(bridge.Event) error { return errDown() } })
		var functions []string
		for i := range 500 {
			functions = append(functions, fmt.Sprint("f", i))
		}
		_, err := f.submit("msg_1", "k1", functions...)
		require.Error(t, err)
		f.empty()
		sink.Set(func() { sink.Fail = nil })
		_, err = f.submit("msg_1", "k1", functions...)
		require.NoError(t, err)
		require.Len(t, sink.Stored, 500)
		f.empty()
	})
}
