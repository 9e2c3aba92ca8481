package sinktest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// Events makes count events of the given number of keys, in turns. name keeps the IDs of different calls apart.
func Events(name string, count, keys int) []bridge.Event {
	events := make([]bridge.Event, count)
	for i := range events {
		events[i] = Event(name, i, fmt.Sprintf("%s-invocation-%d", name, i%keys))
	}
	return events
}

// Event makes the i-th event of name, with the given key.
func Event(name string, i int, key string) bridge.Event {
	function := fmt.Sprintf("fn_%d", i)
	return bridge.Event{
		ID:           fmt.Sprintf("%s-%d", name, i),
		Type:         "tensorlake.workflow.function.success",
		Source:       "/tensorlake/workflows/" + name,
		Subject:      key + "/" + function,
		Time:         time.Date(2026, 7, 1, 12, 0, 0, i*1000, time.UTC),
		PartitionKey: key,
		WebhookID:    "msg_" + name,
		Data:         fmt.Appendf(nil, `{"workflow_name":%s,"invocation_id":%s,"function":%s,"big":12345678901234567890.10}`, quoted(name), quoted(key), quoted(function)),
		Route:        []string{"workflow", name, function, "success"},
		Workflow:     name,
		Function:     function,
		Status:       "success",
		Invocation:   key,
	}
}

func quoted(s string) []byte {
	text, _ := json.Marshal(s) // a string can always be written
	return text
}

// HostileEvents are events whose every name is something that could break out of a header, an address or a line.
func HostileEvents() []bridge.Event {
	names := []string{
		"",
		" ",
		".",
		"..",
		"*",
		">",
		"a.b",
		"a b",
		"$SYS",
		"$JS.API.STREAM.DELETE.TENSORLAKE",
		"_INBOX.x",
		"line\r\nbreak: yes\r\n\r\nPUB other 0\r\n",
		"tab\tand\vmore\f",
		"nul\x00nul",
		"bell\a escape\x1b[31m del\x7f c1\u0085\u009b",
		"not utf-8 \xff\xfe\xc3",
		"\u2028\u2029\ufeff\ufffe",
		"Ünïcödé 漢字 🚀",
		"100% %41 %00 %",
		`quote " backslash \ 'single'`,
		"{route} {type} ${HOME} `id`",
		"../../../etc/passwd",
		strings.Repeat("long", 2500),
		strings.Repeat("漢", 1000),
		strings.Repeat(".", 300),
		strings.Repeat("a.", 2000),
	}
	events := make([]bridge.Event, 0, 2*len(names))
	for i, name := range names {
		e := Event("hostile", i, name)
		e.Workflow, e.Function, e.Status, e.Invocation, e.Project = name, name, name, name, name
		e.Route = []string{"workflow", name, name, name}
		e.WebhookID = name
		// Whoever makes events percent-encodes these two. Headers have a limit of 64 kB together, on some brokers.
		e.Subject = "subject/" + url.PathEscape(name[:min(len(name), 1000)])
		e.Source = "/source/" + url.PathEscape(name[:min(len(name), 1000)])
		events = append(events, e)

		// The same in the two attributes that must not be empty.
		e.PartitionKey = "plain"
		e.Route = nil
		e.ID = fmt.Sprintf("hostile id %d %s", i, name)
		e.Type = fmt.Sprintf("hostile type %d %s", i, name)
		events = append(events, e)
	}
	return events
}

// requireAtLeastOnce checks that everything sent is stored as it was sent and nothing else is, and that the first
// occurrences of each key's events are in the order in which they were sent.
func requireAtLeastOnce(t *testing.T, sent []bridge.Event, stored []Record) {
	t.Helper()
	requireStored(t, sent, stored, false)
}

// requireExactlyOnce is requireAtLeastOnce without duplicates: what a server without faults has to hold.
func requireExactlyOnce(t *testing.T, sent []bridge.Event, stored []Record) {
	t.Helper()
	requireStored(t, sent, stored, true)
	require.Len(t, stored, len(sent))
}

func requireStored(t *testing.T, sent []bridge.Event, stored []Record, once bool) {
	t.Helper()
	wanted := make(map[string]bridge.Event, len(sent))
	order := make(map[string][]string)
	for _, e := range sent {
		e = onTheWire(t, e)
		_, twice := wanted[e.ID] // not require.NotContains, which looks at every key
		require.False(t, twice, "the test sends two events with the ID %q", e.ID)
		wanted[e.ID] = e
		order[e.PartitionKey] = append(order[e.PartitionKey], e.ID)
	}
	partition := make(map[string]int)
	seen := make(map[string]bool)
	firsts := make(map[string][]string)
	for _, r := range stored {
		want, ok := wanted[r.Event.ID]
		require.True(t, ok, "the broker holds an event with the ID %q, which was not sent", r.Event.ID)
		requireSame(t, want, r.Event)
		key := r.Event.PartitionKey
		if p, ok := partition[key]; ok {
			require.Equal(t, p, r.Partition, "the events of key %q are in two partitions", key)
		}
		partition[key] = r.Partition
		if seen[r.Event.ID] {
			require.False(t, once, "event %q is stored twice, although nothing failed", r.Event.ID)
			continue
		}
		seen[r.Event.ID] = true
		firsts[key] = append(firsts[key], r.Event.ID)
	}
	var missing []string
	for id := range wanted {
		if !seen[id] {
			missing = append(missing, id)
		}
	}
	slices.Sort(missing)
	require.Empty(t, missing, "the broker lacks events that it has acknowledged")
	for key, want := range order {
		require.Equal(t, want, firsts[key], "the events of key %q are out of order", key)
	}
}

// requireSame compares what CloudEvents carries.
func requireSame(t *testing.T, want, got bridge.Event) {
	t.Helper()
	require.Equal(t, want.ID, got.ID)
	require.Equal(t, want.Type, got.Type, "type of %q", want.ID)
	require.Equal(t, want.Source, got.Source, "source of %q", want.ID)
	require.Equal(t, want.Subject, got.Subject, "subject of %q", want.ID)
	require.True(t, want.Time.Equal(got.Time), "time of %q: want %s, got %s", want.ID, want.Time, got.Time)
	require.Equal(t, want.PartitionKey, got.PartitionKey, "partition key of %q", want.ID)
	require.Equal(t, want.WebhookID, got.WebhookID, "webhook ID of %q", want.ID)
	require.Equal(t, string(want.Data), string(got.Data), "data of %q", want.ID)
}

// onTheWire returns e with attributes as CloudEvents can carry them: it has no control characters in strings.
func onTheWire(t *testing.T, e bridge.Event) bridge.Event {
	t.Helper()
	headers, body, err := cloudevents.Structured.Encode(e, "")
	require.NoError(t, err)
	e, err = cloudevents.Decode(headers, "", body)
	require.NoError(t, err)
	return e
}
