package sinktest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCheckStored shows that the suite sees what may go wrong.
func TestCheckStored(t *testing.T) {
	sent := append(Events("sent", 6, 2), HostileEvents()...)
	store := func() []Record {
		stored := make([]Record, 0, len(sent))
		for _, e := range sent {
			e, err := onTheWire(e)
			require.NoError(t, err)
			stored = append(stored, Record{Event: e})
		}
		return stored
	}
	tests := map[string]struct {
		change func([]Record) []Record
		once   string // the complaint if nothing failed
		atLeas string // the complaint if something did
	}{
		"all":          {func(r []Record) []Record { return r }, "", ""},
		"another turn": {func(r []Record) []Record { r[0], r[1] = r[1], r[0]; return r }, "", ""},
		"lost":         {func(r []Record) []Record { return r[1:] }, "lacks 1 of", "lacks 1 of"},
		"nothing":      {func([]Record) []Record { return nil }, "lacks", "lacks"},
		"twice":        {func(r []Record) []Record { return append(r, r[0]) }, "stored twice", ""},
		"overtaken":    {func(r []Record) []Record { r[0], r[2] = r[2], r[0]; return r }, "out of order", "out of order"},
		"overtaken by its repetition": {func(r []Record) []Record {
			return slices.Concat([]Record{r[2]}, r)
		}, "stored twice", "out of order"},
		"never sent": {
			func(r []Record) []Record { return append(r, Record{Event: Event("other", 0, "key")}) }, "not sent", "not sent",
		},
		"changed data": {
			func(r []Record) []Record { r[0].Event.Data = []byte("{}"); return r }, "its data is", "its data is",
		},
		"changed header": {
			func(r []Record) []Record { r[0].Event.WebhookID = "x"; return r }, "its webhook ID is", "its webhook ID is",
		},
		"two partitions": {
			func(r []Record) []Record { r[2].Partition = 1; return r }, "in the partitions", "in the partitions",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for once, want := range map[bool]string{true: tt.once, false: tt.atLeas} {
				err := checkStored(sent, tt.change(store()), once)
				if want == "" {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// scripted answers each call with the next of its scripts, and with success after the last.
type scripted struct {
	mu      sync.Mutex
	scripts [][]error
	stored  []Record
}

var errScripted = errors.New("scripted")

func (s *scripted) Name() string { return "scripted" }

func (s *scripted) Publish(ctx context.Context, events []bridge.Event) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]error, len(events))
	if err := ctx.Err(); err != nil {
		for i := range results {
			results[i] = err
		}
		return results
	}
	if len(s.scripts) > 0 {
		results, s.scripts = s.scripts[0], s.scripts[1:]
	}
	for i, e := range events {
		if i < len(results) && results[i] == nil {
			e, err := onTheWire(e)
			results[i] = err
			s.stored = append(s.stored, Record{Event: e})
		}
	}
	return results
}

func (s *scripted) Check(context.Context) error { return nil }

func (s *scripted) Close(context.Context) error { return nil }

func TestPublisher(t *testing.T) {
	retry := bridge.Retry(errScripted)
	tests := map[string]struct {
		scripts [][]error
		want    string
	}{
		"all at once":        {nil, ""},
		"one again":          {[][]error{{nil, nil, retry, nil}}, ""},
		"all of a key again": {[][]error{{retry, nil, retry, nil}, {retry, retry}, {nil, retry}}, ""},
		"too few results":    {[][]error{{nil, nil}}, "2 results for 4 events"},
		"overtaking":         {[][]error{{retry, nil, nil, nil}}, "was acknowledged although"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			sink := &scripted{scripts: tt.scripts}
			p := &publisher{sink: sink, batch: 4}
			events := Events("publisher", 4, 2)
			err := p.run(t.Context(), events)
			if tt.want != "" {
				require.ErrorContains(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			require.NoError(t, checkStored(events, sink.stored, true))
			require.Len(t, p.sent(), 4)
		})
	}
}

func TestPublisherEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	sink := &scripted{}
	for range 3 {
		sink.scripts = append(sink.scripts, []error{errScripted})
	}
	p := &publisher{sink: sink, batch: 1, attempts: make(chan attempt, 10)}
	done := make(chan error)
	go func() { done <- p.run(ctx, append(Events("ends", 1, 1), Events("more", 100_000, 1)...)) }()
	a := <-p.attempts
	require.Equal(t, 1, a.failed)
	cancel()
	err := <-done
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, fmt.Sprint("of ", 100_001))
}
