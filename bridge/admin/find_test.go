package admin_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks"
	"github.com/fnbridge/fnbridge/sinks/sinktest/memory"
)

// requestBody is a payload of the given request.
func requestBody(request, more string) []byte {
	return fmt.Appendf(nil, `{"event_id":"evt_%[1]s","event_type":"tensorlake.application.request.completed",`+
		`"event_version":"1","occurred_at":"2026-01-31T08:00:00Z","project_id":"p1","source_id":"s1",`+
		`"source_revision":"7","source_ordinal":0,"data":{"application":{"name":"invoices"},"request":{"id":"%[1]s"}%[2]s}}`,
		request, more)
}

// sought is a journal to search.
type sought struct {
	*journal.Journal
	t     *testing.T
	dir   string
	began time.Time
	sinks []admin.Sink
}

func newSought(t *testing.T, configured ...string) *sought {
	t.Helper()
	s := &sought{t: t, dir: t.TempDir(), began: time.Now().Add(-time.Hour).UTC()}
	s.open(configured...)
	t.Cleanup(func() { require.NoError(t, s.Close(context.WithoutCancel(t.Context()))) })
	return s
}

// open opens the journal, anew if it is open, for sinks of these names. The one called failures wants those alone.
func (s *sought) open(configured ...string) {
	s.t.Helper()
	if s.Journal != nil {
		require.NoError(s.t, s.Close(s.t.Context()))
	}
	j, err := journal.Open(s.t.Context(), journal.Options{Dir: s.dir, Sinks: configured})
	require.NoError(s.t, err)
	s.Journal, s.sinks = j, nil
	for _, name := range configured {
		sink := admin.Sink{Name: name, Options: sinks.Options{Settings: &memory.Settings{Place: name + "'s place"}}}
		if name == "failures" {
			sink.Routes = "application.*.request.failed,workflow.*.*.failure"
		}
		s.sinks = append(s.sinks, sink)
	}
}

func (s *sought) append(id string, body []byte) {
	s.t.Helper()
	s.began = s.began.Add(time.Second)
	_, err := s.Append(s.t.Context(), bridge.Webhook{ID: id, Timestamp: s.began, ReceivedAt: s.began, Body: body})
	require.NoError(s.t, err)
}

func (s *sought) cursor(sink string, cursor int64) {
	s.t.Helper()
	require.NoError(s.t, s.Move(s.t.Context(),
		[]journal.Move{{Stream: journal.Stream{Kind: journal.Live, Sink: sink, Cursor: cursor}}}, nil))
}

func (s *sought) deadLetter(sink string, seq int64, index int) {
	s.t.Helper()
	require.NoError(s.t, s.AddDeadLetters(s.t.Context(), []journal.DeadLetter{{
		Sink: sink, WebhookSeq: seq, FirstAt: s.began, LastAt: s.began, DeadLetter: bridge.DeadLetter{
			Reason: "too large", Attempts: 1, Event: bridge.Event{Origin: bridge.Origin{Index: index}, Data: []byte("{}")},
		},
	}}))
}

// find returns what a search finds, through the data directory as it is.
func (s *sought) find(r admin.FindRequest) (found []*admin.Found) {
	s.t.Helper()
	f, err := admin.NewFinder(s.Journal, tensorlake.Options{}, s.sinks)
	require.NoError(s.t, err)
	require.NoError(s.t, f.Find(s.t.Context(), r, nil, func(w *admin.Found) error {
		found = append(found, w)
		return nil
	}))
	alone := []*admin.Found{}
	require.NoError(s.t, admin.Find(s.t.Context(), s.dir, r, tensorlake.Options{}, s.sinks, nil,
		func(w *admin.Found) error {
			alone = append(alone, w)
			return nil
		}))
	require.Len(s.t, alone, len(found), "it is the same without the bridge")
	return found
}

func (s *sought) numbers(r admin.FindRequest) (numbers []int64) {
	s.t.Helper()
	for _, w := range s.find(r) {
		numbers = append(numbers, w.Number)
	}
	return numbers
}

func TestFindKnowsWebhooksByTheirIDsAndTexts(t *testing.T) {
	s := newSought(t, "nats")
	s.append("msg_1", requestBody("req_1", ""))
	s.append("msg_2", requestBody("req_2", `,"note":"a \"quoted\" M\u00fcller/said"`))
	s.append("msg_3", requestBody("req_1", `,"sandbox":{"id":"sbx_9"}`))
	s.append("msg_4", []byte(`{"workflow_name":"w","invocation_id":"inv_1","fn_status":{"f":"success","g":"failure"}}`))
	s.append("msg_4", requestBody("req_11", "")) // another body under the same id

	for want, r := range map[string]admin.FindRequest{
		"[1]":     {ID: "msg_1"},
		"[5 4]":   {ID: "msg_4"},
		"[3 1]":   {ID: "req_1"},
		"[2]":     {ID: "evt_req_2"},
		"[3]":     {ID: "sbx_9"},
		"[4]":     {ID: "inv_1"},
		"[]":      {ID: "req_"},
		"[5 3 1]": {Text: "req_1"},
	} {
		require.Equal(t, want, fmt.Sprint(s.numbers(r)), "%+v", r)
	}
	require.Equal(t, []int64{3}, s.numbers(admin.FindRequest{ID: "req_1", Limit: 1}))
	require.Equal(t, []int64{1}, s.numbers(admin.FindRequest{ID: "req_1", Before: 3}))
	require.Equal(t, []int64{3}, s.numbers(admin.FindRequest{ID: "req_1", Since: s.began.Add(-2 * time.Second)}))
	require.Equal(t, []int64{5, 4}, s.numbers(admin.FindRequest{Limit: 2}))
	for _, text := range []string{`a "quoted" M`, "Müller", "Müller/said", `\"quoted\"`} {
		require.Equal(t, []int64{2}, s.numbers(admin.FindRequest{Text: text}), text)
	}

	// The id of a function's event is a digest, which no body has.
	event := s.find(admin.FindRequest{ID: "inv_1"})[0].Events[1]
	require.Equal(t, "tensorlake.workflow.function.failure", event.Type)
	require.Equal(t, []int64{4}, s.numbers(admin.FindRequest{ID: event.ID}))
}

func TestFindTellsWhatBecameOfEachEventAtEachSink(t *testing.T) {
	s := newSought(t, "nats", "failures")
	s.append("msg_1", requestBody("req_1", "")) // "late" is not there yet
	s.open("nats", "failures", "late")
	s.append("msg_2", []byte(`{"workflow_name":"w","invocation_id":"i",`+
		`"fn_status":{"f":"success","g":"failure","h":"failure"}}`))
	s.append("msg_3", requestBody("req_3", ""))
	s.cursor("nats", 3)
	s.cursor("failures", 1)
	s.deadLetter("nats", 2, 0)
	s.deadLetter("nats", 2, 1)
	letters, err := s.DeadLetters(t.Context(), journal.DeadLetterFilter{})
	require.NoError(t, err)
	dropped, err := s.DropDeadLetters(t.Context(), journal.DeadLetterFilter{IDs: []int64{letters[1].ID}})
	require.NoError(t, err)
	require.EqualValues(t, 1, dropped)
	s.open("nats", "failures") // and "late" leaves
	s.append("msg_4", requestBody("req_4", ""))
	s.open("nats", "failures", "late")

	fates := func(id string) (all []string) {
		found := s.find(admin.FindRequest{ID: id})
		require.Len(t, found, 1)
		for _, e := range found[0].Events {
			for _, k := range e.Sinks {
				text := fmt.Sprintf("%d %s %s", e.Index, k.Sink, k.Fate)
				if k.DeadLetter != nil {
					text += fmt.Sprintf(" %d %s", k.DeadLetter.ID, k.DeadLetter.Reason)
				}
				all = append(all, text)
			}
		}
		return all
	}
	require.Equal(t, []string{"0 failures not_wanted", "0 late before_sink", "0 nats acknowledged"}, fates("msg_1"))
	require.Equal(t, []string{
		"0 failures not_wanted", "0 late waiting", "0 nats dead_letter 1 too large",
		"1 failures waiting", "1 late waiting", "1 nats dropped 2 too large",
		"2 failures waiting", "2 late waiting", "2 nats acknowledged",
	}, fates("msg_2"))
	require.Equal(t, []string{"0 failures not_wanted", "0 late waiting", "0 nats acknowledged"}, fates("msg_3"))
	require.Equal(t, []string{"0 failures not_wanted", "0 late sink_absent", "0 nats waiting"}, fates("msg_4"))

	found := s.find(admin.FindRequest{ID: "msg_3"})[0]
	require.EqualValues(t, 1, found.Sinks[1].Ahead, "msg_2 waits before it")
	require.Equal(t, map[admin.Fate]int{admin.Waiting: 1}, found.Sinks[1].Events)
	require.Equal(t, "nats's place", found.Events[0].Sinks[2].Address)

	// What a replay has brought to a sink that came later is there; the routes stand before that.
	s.open("nats", "failures", "late", "new")
	require.Contains(t, fates("msg_4"), "0 new before_sink")
	for sink, f := range map[string]bridge.Filter{"late": {}, "new": {Type: "tensorlake.workflow.*"}} {
		s.cursor(sink, 4)
		replay, err := s.AddReplay(t.Context(), journal.Stream{Sink: sink, Events: f})
		require.NoError(t, err)
		require.Contains(t, fates("msg_1"), "0 "+sink+" before_sink", "it has not begun")
		replay.End = journal.StreamDone
		require.NoError(t, s.Move(t.Context(), []journal.Move{{Stream: replay}}, nil))
	}
	require.Equal(t, []string{
		"0 failures not_wanted", "0 late acknowledged", "0 nats acknowledged", "0 new before_sink",
	}, fates("msg_1"))
	require.Contains(t, fates("msg_2"), "1 new acknowledged")
	require.Contains(t, fates("msg_4"), "0 late acknowledged")
	s.open("nats", "late", "new")
	s.append("msg_5", requestBody("req_5", ""))
	s.open("nats", "late", "new", "failures")
	require.Contains(t, fates("msg_5"), "0 failures not_wanted", "nor would it be, had the sink been there")

	// What a replay brings to the sink after all was not dropped.
	require.NoError(t, s.Move(t.Context(), []journal.Move{{
		Stream: journal.Stream{Kind: journal.Live, Sink: "nats", Cursor: 3},
		Stored: []journal.Event{{WebhookSeq: 2, Index: 1}},
	}}, nil))
	require.Contains(t, fates("msg_2"), "1 nats acknowledged")
}
