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
		Sequence:     fmt.Sprintf("%020d.%010d", i, 0),
		SourceID:     "src_" + name,
		WebhookID:    "msg_" + name,
		Origin:       bridge.Origin{Webhook: bridge.WebhookDigest("msg_"+name, []byte(function))},
		Data: fmt.Appendf(nil,
			`{"workflow_name":%s,"invocation_id":%s,"function":%s,"big":12345678901234567890.10}`,
			quoted(name), quoted(key), quoted(function)),
		About: bridge.About{
			Route:       []string{"workflow", name, function, "success"},
			Application: name,
			Function:    function,
			Status:      "success",
			Request:     key,
		},
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
		e.Application, e.Function, e.Status, e.Request, e.Project = name, name, name, name, name
		e.Route = []string{"workflow", name, name, name}
		e.WebhookID = name
		e.Origin = bridge.Origin{Webhook: bridge.WebhookDigest("hostile", []byte(e.ID)), Index: len(events)}
		// Whoever makes events percent-encodes these two. Headers have a limit of 64 kB together, on some brokers.
		e.Subject = "subject/" + url.PathEscape(name[:min(len(name), 1000)])
		e.Source = "/source/" + url.PathEscape(name[:min(len(name), 1000)])
		e.SourceID, e.Sequence = e.Subject, name[:min(len(name), 100)]
		events = append(events, e)

		// The same in the two attributes that must not be empty.
		e.PartitionKey = "plain"
		e.Route = nil
		e.ID = fmt.Sprintf("hostile id %d %s", i, name)
		e.Type = fmt.Sprintf("hostile type %d %s", i, name)
		e.Origin.Index++
		events = append(events, e)
	}
	return events
}

// LegalEvents are CloudEvents as hostile as legal ones can be, by what is special about each. They are for one at a
// time: most have the same ID.
func LegalEvents() map[string]bridge.Event {
	hostile := map[string]string{
		"spaces inside":          "a b  c",
		"percent":                "100%",
		"looks encoded":          "a%20b",
		"looks encoded twice":    "a%2520b",
		"encoded control":        "a%00b",
		"half encoded":           "a%20b c",
		"lower case hex":         "%c3%a9",
		"needless encoding":      "%41",
		"quotes":                 `"\"\\" 'x'`,
		"not ASCII":              "é",
		"not ASCII and percent":  "é%C3%A9%",
		"beyond the basic plane": "\U0001F600\u202e\u2028\ufeff",
		"replacement character":  "\ufffd",
		"outer spaces":           "  x ",
		"only a space":           " ",
		"no-break space":         "\u00a0x\u00a0",
		"header look-alike":      "x: y; z=\"1\", <a&b>",
		"long":                   strings.Repeat("é%", 5_000),
		"JSON look-alike":        `","data":{"forged":true},"x":"`,
	}
	changed := func(change func(e *bridge.Event)) bridge.Event {
		e := bridge.Event{
			ID:           "c1be3cadc55d0759048bea7be538325a",
			Type:         "tensorlake.workflow.function.success",
			Source:       "/tensorlake/workflows/workflow_XXXX",
			Subject:      "invocation_ID/fn_A",
			Time:         time.Date(2026, 3, 14, 9, 26, 53, 120_000_000, time.UTC),
			PartitionKey: "invocation_ID",
			WebhookID:    "msg_2pQ5wL9aXkTzB7cVdEfGhJ",
			Data:         []byte(`{"workflow_name":"workflow_XXXX", "n":1.50e40,"a":"\ud800 é"}`),
		}
		change(&e)
		return e
	}
	all := map[string]bridge.Event{
		"nothing":    changed(func(*bridge.Event) {}),
		"no subject": changed(func(e *bridge.Event) { e.Subject = "" }),
		"no partition key and webhook id": changed(func(e *bridge.Event) {
			e.PartitionKey, e.WebhookID = "", ""
		}),
		"no time": changed(func(e *bridge.Event) { e.Time = time.Time{} }),
		"last nanosecond": changed(func(e *bridge.Event) {
			e.Time = time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
		}),
		"first year":           changed(func(e *bridge.Event) { e.Time = time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC) }),
		"encoded source":       changed(func(e *bridge.Event) { e.Source = "/tensorlake/workflows/a%2Fb%20c%00%C3%A9" }),
		"empty part of source": changed(func(e *bridge.Event) { e.Source, e.Subject = "/tensorlake/workflows/", "/" }),
		"encoded subject":      changed(func(e *bridge.Event) { e.Subject = "%C3%A9%20/%0D%0A" }),
		"array":                changed(func(e *bridge.Event) { e.Data = []byte(`[1,2]`) }),
		"null":                 changed(func(e *bridge.Event) { e.Data = []byte(`null`) }),
		"big": changed(func(e *bridge.Event) {
			e.Data = []byte(`{"a":"` + strings.Repeat("x", 1<<20) + `"}`)
		}),
	}
	for name, text := range hostile {
		all["partition key: "+name] = changed(func(e *bridge.Event) { e.PartitionKey = text })
		all["webhook id: "+name] = changed(func(e *bridge.Event) { e.WebhookID = text })
		if strings.TrimSpace(text) == text { // readers trim these
			all["id: "+name] = changed(func(e *bridge.Event) { e.ID = text })
			all["type: "+name] = changed(func(e *bridge.Event) { e.Type = text })
		}
	}
	return all
}

// requireAtLeastOnce checks that everything sent is stored as it was sent and nothing else is, and that the first
// occurrences of each key's events are in the order in which they were sent.
func requireAtLeastOnce(t *testing.T, sent []bridge.Event, stored []Record) {
	t.Helper()
	require.NoError(t, checkStored(sent, stored, false))
}

// requireExactlyOnce is requireAtLeastOnce without duplicates: what a server without faults has to hold.
func requireExactlyOnce(t *testing.T, sent []bridge.Event, stored []Record) {
	t.Helper()
	require.NoError(t, checkStored(sent, stored, true))
}

func checkStored(sent []bridge.Event, stored []Record, once bool) error {
	wanted := make(map[string]bridge.Event, len(sent))
	order := make(map[string][]string)
	for _, e := range sent {
		e, err := onTheWire(e)
		if err != nil {
			return err
		}
		if _, ok := wanted[e.ID]; ok {
			return fmt.Errorf("the test sends two events with the ID %q", e.ID)
		}
		wanted[e.ID] = e
		order[e.PartitionKey] = append(order[e.PartitionKey], e.ID)
	}
	partition := make(map[string]int)
	seen := make(map[string]bool)
	firsts := make(map[string][]string)
	for _, r := range stored {
		want, ok := wanted[r.Event.ID]
		if !ok {
			return fmt.Errorf("the broker holds an event with the ID %q, which was not sent", r.Event.ID)
		}
		if difference := difference(want, r.Event); difference != "" {
			return fmt.Errorf("event %q was not stored as it was sent: %s", want.ID, difference)
		}
		key := r.Event.PartitionKey
		if p, ok := partition[key]; ok && p != r.Partition {
			return fmt.Errorf("the events of key %q are in the partitions %d and %d", key, p, r.Partition)
		}
		partition[key] = r.Partition
		if seen[r.Event.ID] {
			if once {
				return fmt.Errorf("event %q is stored twice, although nothing failed", r.Event.ID)
			}
			continue
		}
		seen[r.Event.ID] = true
		firsts[key] = append(firsts[key], r.Event.ID)
	}
	for id := range wanted {
		if !seen[id] {
			return fmt.Errorf("the broker lacks %d of %d events that it has acknowledged, among them %q",
				len(wanted)-len(seen), len(wanted), id)
		}
	}
	for key, want := range order {
		if !slices.Equal(want, firsts[key]) {
			return fmt.Errorf("the events of key %q are out of order: sent %q, stored first %q", key, want, firsts[key])
		}
	}
	return nil
}

// difference compares what CloudEvents carries.
func difference(want, got bridge.Event) string {
	for _, field := range []struct{ name, want, got string }{
		{"type", want.Type, got.Type},
		{"source", want.Source, got.Source},
		{"subject", want.Subject, got.Subject},
		{"time", want.Time.UTC().String(), got.Time.UTC().String()},
		{"partition key", want.PartitionKey, got.PartitionKey},
		{"sequence", want.Sequence, got.Sequence},
		{"source ID", want.SourceID, got.SourceID},
		{"webhook ID", want.WebhookID, got.WebhookID},
		{"data", string(want.Data), string(got.Data)},
	} {
		if field.want != field.got {
			return fmt.Sprintf("its %s is %.200q, not %.200q", field.name, field.got, field.want)
		}
	}
	return ""
}

// onTheWire returns e with attributes as CloudEvents can carry them: it has no control characters in strings.
func onTheWire(e bridge.Event) (bridge.Event, error) {
	headers, body, err := cloudevents.Structured.Encode(e, "")
	if err != nil {
		return bridge.Event{}, err
	}
	return cloudevents.Decode(headers, "", body)
}
