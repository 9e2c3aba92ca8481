package sinktest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// DeadLetterTest is what the suite needs to look at a sink's dead letters.
type DeadLetterTest struct {
	// NewSink is Broker.NewSink for a sink that has a place for dead letters beside that of the events. Broker.Stored
	// leaves out what that place holds.
	NewSink func(t *testing.T) bridge.DeadLetterPublisher
	// Stored returns everything that the place of the dead letters holds, under the conditions of Broker.Stored.
	Stored func(t *testing.T) []Letter
	// AddressOf returns the subject or topic of the event, which is none of HostileEvents.
	AddressOf func(e bridge.Event) string
}

// Letter is one message of the place of the dead letters.
type Letter struct {
	Event bridge.Event
	// Headers are all of the message's, the attributes' included.
	Headers map[string]string
}

// ReadLetter reads a message of the given headers and body.
func ReadLetter(t *testing.T, headers []cloudevents.Header, prefix string, body []byte) Letter {
	t.Helper()
	l := Letter{Headers: make(map[string]string, len(headers))}
	for _, h := range headers {
		require.NotContains(t, l.Headers, h.Name, "a header is there twice")
		l.Headers[h.Name] = h.Value
	}
	var err error
	l.Event, err = cloudevents.Decode(headers, prefix, body)
	require.NoError(t, err)
	return l
}

// lettersOf makes a dead letter of each event.
func lettersOf(events []bridge.Event) []bridge.DeadLetter {
	letters := make([]bridge.DeadLetter, len(events))
	for i, e := range events {
		letters[i] = bridge.DeadLetter{
			Event: e, Reason: fmt.Sprintf("reason %d: the message is too large", i), Attempts: i + 1,
		}
	}
	return letters
}

// bury publishes letters until all are acknowledged.
func bury(t *testing.T, b *Broker, sink bridge.DeadLetterPublisher, letters []bridge.DeadLetter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), b.RecoverBound)
	defer cancel()
	require.NoError(t, tryToBury(ctx, sink, letters))
}

func tryToBury(ctx context.Context, sink bridge.DeadLetterPublisher, letters []bridge.DeadLetter) error {
	for len(letters) > 0 {
		results := sink.PublishDeadLetters(ctx, letters)
		if len(results) != len(letters) {
			return fmt.Errorf("PublishDeadLetters returned %d results for %d letters", len(results), len(letters))
		}
		var again []bridge.DeadLetter
		for i, err := range results {
			if err == nil {
				continue
			}
			if bridge.KindOf(err) == bridge.FailureReject {
				return fmt.Errorf("the letter of %q is rejected: %w", letters[i].Event.ID, err)
			}
			again = append(again, letters[i])
		}
		letters = again
		pause := time.NewTimer(retryPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(append(results, ctx.Err())...)
		case <-pause.C:
		}
	}
	return nil
}

// requireBuried checks that the place holds each letter, and nothing else, and none twice unless that is allowed. The
// letters of the IDs in withoutData have lost their data.
func requireBuried(t *testing.T, b *Broker, letters []bridge.DeadLetter, twice bool, withoutData ...string) {
	t.Helper()
	wanted := make(map[string]bridge.DeadLetter, len(letters))
	for _, l := range letters {
		e, err := onTheWire(l.Event)
		require.NoError(t, err)
		require.NotContains(t, wanted, e.ID)
		for _, id := range withoutData {
			if e.ID == id {
				e.Data = nil
			}
		}
		e.Route = l.Event.Route
		l.Event = e
		wanted[e.ID] = l
	}
	seen := make(map[string]bool)
	for _, got := range b.DeadLetters.Stored(t) {
		want, ok := wanted[got.Event.ID]
		require.True(t, ok, "nobody sent a letter of %q", got.Event.ID)
		require.False(t, seen[want.Event.ID] && !twice, "the letter of %q is there twice", want.Event.ID)
		seen[want.Event.ID] = true
		require.Empty(t, difference(want.Event, got.Event), "the letter of %q", want.Event.ID)

		reason := got.Headers[cloudevents.HeaderReason]
		require.LessOrEqual(t, len(reason), 1024)
		require.True(t, plainASCII(reason), "%q", reason)
		if plainASCII(want.Reason) && len(want.Reason) <= 1024 {
			require.Equal(t, want.Reason, reason)
		} else {
			require.NotEmpty(t, reason)
		}
		require.Equal(t, strconv.Itoa(want.Attempts), got.Headers[cloudevents.HeaderAttempts])
		address := got.Headers[cloudevents.HeaderAddress]
		require.NotEmpty(t, address)
		if !strings.HasPrefix(want.Event.ID, "hostile") {
			require.Equal(t, b.DeadLetters.AddressOf(want.Event), address)
		}
		omitted := ""
		if len(want.Event.Data) == 0 {
			omitted = cloudevents.DataOmitted
		}
		require.Equal(t, omitted, got.Headers[cloudevents.HeaderData])
	}
	require.Len(t, seen, len(wanted), "the place lacks letters that were acknowledged")
}

func plainASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '%' }) &&
		strings.TrimSpace(s) == s
}

func testDeadLetters(t *testing.T, b *Broker) {
	sink := openForLetters(t, b)
	require.NotEmpty(t, sink.DeadLetterAddress())
	require.Empty(t, sink.PublishDeadLetters(t.Context(), nil))
	letters := append(lettersOf(Events("letters", 100, 10)), lettersOf(HostileEvents())...)
	for i, reason := range []string{
		"two\r\nlines", "fnbridge-reason: forged\r\nce-id: forged\r\n\r\n",
		"nul\x00 esc\x1b[31m \u2028 漢字 🚀", "not utf-8 \xff",
		strings.Repeat("long ", 1000), strings.Repeat("漢", 1000), "  outer  ", "",
	} {
		if reason != "" {
			letters[i].Reason = reason
		}
	}
	// Events go on meanwhile, and none of the letters gets among them.
	events := Events("beside", 100, 10)
	published := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), b.RecoverBound)
		defer cancel()
		published <- (&publisher{sink: sink, batch: 20}).run(ctx, events)
	}()
	bury(t, b, sink, letters)
	require.NoError(t, <-published)
	requireBuried(t, b, letters, false)
	requireExactlyOnce(t, events, b.Stored(t))
}

func testDeadLetterTooLarge(t *testing.T, b *Broker) {
	sink := openForLetters(t, b)
	events := Events("bury", 9, 3)
	for _, i := range []int{2, 5, 8} {
		events[i].Data = jsonOfSize(b.TooLarge)
	}
	letters := lettersOf(events)
	bury(t, b, sink, letters)
	requireBuried(t, b, letters, false, events[2].ID, events[5].ID, events[8].ID)
	require.Empty(t, b.Stored(t))
}

func testDeadLettersCalls(t *testing.T, b *Broker) {
	sink := openForLetters(t, b)
	letters := lettersOf(Events("calls", 20, 4))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	results := sink.PublishDeadLetters(ctx, letters)
	require.Less(t, time.Since(began), soon, "with a context that has ended")
	require.Len(t, results, len(letters))
	for _, err := range results {
		if err != nil {
			require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
		}
	}
	bury(t, b, sink, letters)
	requireBuried(t, b, letters, true)

	require.NoError(t, closeSink(sink))
	began = time.Now()
	results = sink.PublishDeadLetters(t.Context(), letters)
	require.Less(t, time.Since(began), soon, "after Close")
	require.Len(t, results, len(letters))
	for _, err := range results {
		require.Error(t, err, "after Close")
		require.NotEqual(t, bridge.FailureReject, bridge.KindOf(err), "%v", err)
	}
}

func testDeadLettersWithoutServer(t *testing.T, b *Broker) {
	sink := openForLetters(t, b)
	letters := lettersOf(Events("away", 20, 4))
	bury(t, b, sink, letters[:5])
	b.Faults.Stop(t)
	began := time.Now()
	results := sink.PublishDeadLetters(t.Context(), letters[5:])
	require.LessOrEqual(t, time.Since(began), b.PublishBound+slack)
	require.Len(t, results, 15)
	for _, err := range results {
		require.Error(t, err)
		require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	}
	b.Faults.Start(t)
	bury(t, b, sink, letters[5:])
	requireBuried(t, b, letters, true)
}
