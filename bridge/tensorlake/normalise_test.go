package tensorlake_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

func parse(tb testing.TB, body string) tensorlake.Payload {
	tb.Helper()
	p, err := tensorlake.Parse([]byte(body))
	require.NoError(tb, err)
	return p
}

func eventsOf(tb testing.TB, body string, o tensorlake.Options) []bridge.Event {
	tb.Helper()
	events := slices.Collect(parse(tb, body).Events(goldenWebhook([]byte(body)), o))
	for _, e := range events {
		requireValidEvent(tb, e)
	}
	return events
}

// eventOf is for payloads of which there is one event.
func eventOf(tb testing.TB, body string) bridge.Event {
	tb.Helper()
	events := eventsOf(tb, body, tensorlake.Options{})
	require.Len(tb, events, 1)
	return events[0]
}

func workflowOf(name, invocation, function, status string) string {
	return fmt.Sprintf(`{"workflow_name":"%s","invocation_id":"%s","fn_status":{"%s":"%s"}}`,
		name, invocation, function, status)
}

func TestParseRefusesWhatIsNoObject(t *testing.T) {
	tests := map[string]struct {
		body string
		is   error
		want string
	}{
		"empty":  {"", tensorlake.ErrNotJSON, "it is empty"},
		"spaces": {" \r\n\t", tensorlake.ErrNotJSON, "it is empty"},
		"form": {
			"a=b", tensorlake.ErrNotJSON, "invalid character 'a' looking for beginning of value at offset 1",
		},
		"cut off":            {`{"a":"b`, tensorlake.ErrNotJSON, "unexpected end of JSON input at offset 7"},
		"trailing object":    {`{} {}`, tensorlake.ErrNotJSON, "invalid character '{' after top-level value at offset 4"},
		"trailing NUL":       {"{}\x00", tensorlake.ErrNotJSON, `invalid character '\x00' after top-level value`},
		"trailing comma":     {`{"a":1,}`, tensorlake.ErrNotJSON, "at offset 8"},
		"comment":            {`{/**/}`, tensorlake.ErrNotJSON, "at offset 2"},
		"NaN":                {`{"a":NaN}`, tensorlake.ErrNotJSON, "at offset 6"},
		"zero before number": {`{"a":01}`, tensorlake.ErrNotJSON, "at offset 7"},
		"line break in text": {
			"{\"a\":\"\n\"}", tensorlake.ErrNotJSON, `invalid character '\n' in string literal at offset 7`,
		},
		"bad escape":    {`{"a":"\x41"}`, tensorlake.ErrNotJSON, "at offset 8"},
		"invalid UTF-8": {"{\"a\":\"\xff\"}", tensorlake.ErrNotJSON, "the byte at offset 6 is not valid UTF-8"},
		"surrogate in UTF-8": {
			"{\"a\":\"é\xed\xa0\x80\"}", tensorlake.ErrNotJSON, "the byte at offset 8 is not valid UTF-8",
		},
		"byte order mark": {"\ufeff{}", tensorlake.ErrNotJSON, "byte order mark"},
		"UTF-16":          {"{\x00}\x00", tensorlake.ErrNotJSON, "at offset 2"},
		"too deep": {
			strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001), tensorlake.ErrNotJSON,
			"exceeded max depth",
		},
		"too deep and broken": {strings.Repeat(`[`, 1_000_000), tensorlake.ErrNotJSON, "exceeded max depth"},
		"array":               {`[{}]`, tensorlake.ErrNotObject, "but an array"},
		"string":              {` "{}"`, tensorlake.ErrNotObject, "but a string"},
		"number":              {"\n-1e99999", tensorlake.ErrNotObject, "but a number"},
		"true":                {"true", tensorlake.ErrNotObject, "but a boolean"},
		"false":               {"false", tensorlake.ErrNotObject, "but a boolean"},
		"null":                {"null", tensorlake.ErrNotObject, "but null"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tensorlake.Parse([]byte(tt.body))
			require.ErrorIs(t, err, tt.is)
			require.ErrorContains(t, err, tt.want)
			require.Less(t, len(err.Error()), 300)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestParseTakesEveryObject(t *testing.T) {
	for name, body := range map[string]string{
		"empty":               "{}",
		"spaces around":       " \r\n\t{ } \n",
		"as deep as can":      strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
		"huge number":         `{"a":` + strings.Repeat("9", 1_000_000) + `e999999999999}`,
		"empty key":           `{"":""}`,
		"brackets in strings": `{"}":"{","]\"}":["[\\",{"}\\\"":"]"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			e := eventOf(t, body)
			require.Equal(t, "tensorlake.unrecognized", e.Type)
			require.Equal(t, "/tensorlake", e.Source)
			require.Empty(t, e.Subject)
			require.Equal(t, messageID, e.PartitionKey)
			require.Equal(t, []string{"unrecognized"}, e.Route)
			require.Equal(t, body, string(e.Data))
		})
	}
}

const (
	envelopeKeys = `"event_id":"e","event_type":"tensorlake.volume.t","event_version":"1",` +
		`"occurred_at":"2026-01-02T03:04:05Z","project_id":"p",` +
		`"source_id":"s","source_revision":"1","source_ordinal":1,"data":{}`
	workflowKeys = `"workflow_name":"w","invocation_id":"i","fn_status":{"f":"success"}`
	documentKeys = `"job_id":"j","status":"success"`
)

func TestShapeIsToldByKeys(t *testing.T) {
	tests := []struct {
		body string
		want tensorlake.Shape
	}{
		{`{` + documentKeys + `}`, tensorlake.ShapeDocument},
		{`{` + documentKeys + `,` + workflowKeys + `}`, tensorlake.ShapeWorkflow},
		{`{` + documentKeys + `,` + workflowKeys + `,` + envelopeKeys + `}`, tensorlake.ShapeEnvelope},
		{`{` + envelopeKeys + `,` + documentKeys + `}`, tensorlake.ShapeEnvelope},
		// An id added to another shape does not make it an envelope.
		{`{"event_id":"e","event_type":"t",` + workflowKeys + `}`, tensorlake.ShapeWorkflow},
		{`{"event_id":"e","data":{},` + documentKeys + `}`, tensorlake.ShapeDocument},
		// A shape once told is not left for another.
		{`{` + documentKeys + `,"workflow_name":1,"invocation_id":"i","fn_status":{}}`, tensorlake.ShapeUnrecognized},
		{`{` + workflowKeys + `,"event_id":1,"event_type":"t","data":{}}`, tensorlake.ShapeUnrecognized},
		// Only the shape's own fields count.
		{`{` + workflowKeys + `,"status":1,"status":2,"dataset":[],"source_revision":1}`, tensorlake.ShapeWorkflow},
		{`{` + documentKeys + `,"workflow_name":1,"data":1,"data":2}`, tensorlake.ShapeDocument},
		// Keys may be written with escapes, and their case counts.
		{`{"job\u005fid":"j","\u0073tatus":"success"}`, tensorlake.ShapeDocument},
		{`{"Job_ID":"j","status":"success"}`, tensorlake.ShapeUnrecognized},
		{`{"data":{` + workflowKeys + `}}`, tensorlake.ShapeUnrecognized},
		{`{"":1}`, tensorlake.ShapeUnrecognized},
	}
	for _, tt := range tests {
		t.Run(tt.body, func(t *testing.T) {
			p := parse(t, tt.body)
			require.Equal(t, tt.want, p.Shape(), p.Reason())
			require.Equal(t, tt.want == tensorlake.ShapeUnrecognized, p.Reason() != "")
			require.Equal(t, 1, p.Len(tensorlake.Options{}))
		})
	}
}

func TestShapeString(t *testing.T) {
	require.Equal(t, "workflow document envelope unrecognized unrecognized", fmt.Sprint(
		tensorlake.ShapeWorkflow, " ", tensorlake.ShapeDocument, " ", tensorlake.ShapeEnvelope, " ",
		tensorlake.ShapeUnrecognized, " ", tensorlake.Shape(99)))
}

// with returns an object whose key has that value instead of its own, or is missing if value is empty.
func with(keys, key, value string) string {
	var members []string
	for member := range strings.SplitSeq(keys, ",") {
		if strings.HasPrefix(member, `"`+key+`":`) {
			continue
		}
		members = append(members, member)
	}
	if value != "" {
		members = append(members, `"`+key+`":`+value)
	}
	return "{" + strings.Join(members, ",") + "}"
}

func TestWrongTypesAreUnrecognized(t *testing.T) {
	tests := []struct{ keys, key, value, reason string }{
		{workflowKeys, "workflow_name", "1", "workflow_name is a number, not a string"},
		{workflowKeys, "workflow_name", "null", "workflow_name is null, not a string"},
		{workflowKeys, "invocation_id", "{}", "invocation_id is an object, not a string"},
		{workflowKeys, "fn_status", "[]", "fn_status is an array, not an object"},
		{workflowKeys, "fn_status", "null", "fn_status is null, not an object"},
		{workflowKeys, "fn_status", `{"fn_A":1}`, `fn_status."fn_A" is a number, not a string`},
		{workflowKeys, "fn_status", `{"ok":"success","x\n\u202e":null}`, `fn_status."x\n\u202e" is null, not a string`},
		{
			workflowKeys, "fn_status", `{"` + strings.Repeat("é", 1000) + `":true}`,
			`fn_status."` + strings.Repeat("é", 64) + `"… (2000 bytes) is a boolean, not a string`,
		},
		{workflowKeys, "fn_status", "", "it has the keys of no known shape; the nearest one lacks fn_status"},
		{documentKeys, "job_id", "7", "job_id is a number, not a string"},
		{documentKeys, "status", "null", "status is null, not a string"},
		{documentKeys, "status", "", "it has the keys of no known shape; the nearest one lacks status"},
		{documentKeys, "finished_at", "1773480413", "finished_at is a number, not a string"},
		{documentKeys, "created_at", "false", "created_at is a boolean, not a string"},
		{documentKeys, "dataset", "[]", "dataset is an array, not a string"},
		{documentKeys, "usage", `"12 pages"`, "usage is a string, not an object"},
		{envelopeKeys, "event_id", "1", "event_id is a number, not a string"},
		{envelopeKeys, "event_id", `""`, "event_id is empty"},
		{envelopeKeys, "event_id", `" e"`, `event_id " e" begins or ends with white space`},
		{envelopeKeys, "event_id", `"e\u00a0"`, `event_id "e\u00a0" begins or ends with white space`},
		{envelopeKeys, "event_id", `"a\u0000b"`, `event_id "a\x00b" holds a character`},
		{envelopeKeys, "event_id", `"a\u0085b"`, `event_id "a\u0085b" holds a character`},
		{envelopeKeys, "event_id", `"a\ufffeb"`, `event_id "a\ufffeb" holds a character`},
		{envelopeKeys, "event_id", `"a\ud83f\udfffb"`, `event_id "a\U0001ffffb" holds a character`},
		{envelopeKeys, "event_id", `"a\ud800b"`, "holds a character"},
		{envelopeKeys, "event_type", `""`, "event_type is empty"},
		{envelopeKeys, "event_type", `"\n"`, `event_type "\n" begins or ends with white space`},
		{envelopeKeys, "event_type", `"a\u007fb"`, `event_type "a\x7fb" holds a character`},
		{envelopeKeys, "event_version", "[]", "event_version is an array, not a string"},
		{envelopeKeys, "occurred_at", "5", "occurred_at is a number, not a string"},
		{envelopeKeys, "occurred_at", "", "occurred_at is missing"},
		{envelopeKeys, "project_id", "null", "project_id is null, not a string"},
		{envelopeKeys, "source_id", "", "source_id is missing"},
		{envelopeKeys, "source_revision", "7", "source_revision is a number, not a string"},
		{envelopeKeys, "source_revision", `"7.5"`, "source_revision is not a decimal number"},
		{envelopeKeys, "source_revision", `""`, "source_revision is not a decimal number"},
		{envelopeKeys, "source_ordinal", "1.5", "source_ordinal is not an integer"},
		{envelopeKeys, "source_ordinal", "{}", "source_ordinal is an object, not a number"},
		{envelopeKeys, "source_ordinal", `"first"`, "source_ordinal is not a decimal number"},
		{envelopeKeys, "data", "", "it has the keys of no known shape; the nearest one lacks data"},
	}
	for _, tt := range tests {
		t.Run(tt.key+"="+tt.value[:min(len(tt.value), 20)], func(t *testing.T) {
			body := with(tt.keys, tt.key, tt.value)
			p := parse(t, body)
			require.Equal(t, tensorlake.ShapeUnrecognized, p.Shape())
			require.Contains(t, p.Reason(), tt.reason)
			e := eventOf(t, body)
			require.Equal(t, "tensorlake.unrecognized", e.Type)
			require.Equal(t, body, string(e.Data))
		})
	}
}

func TestOptionalFieldsMayBeNullOrAbsent(t *testing.T) {
	for _, key := range []string{"dataset", "created_at", "finished_at", "usage", "error"} {
		require.Equal(t, tensorlake.ShapeDocument, parse(t, with(documentKeys, key, "null")).Shape(), key)
	}
	for _, value := range []string{`"text"`, `{"code":7}`, "[]", "1", "true"} {
		require.Equal(t, tensorlake.ShapeDocument, parse(t, with(documentKeys, "error", value)).Shape(), value)
	}
	for _, key := range []string{"event_version", "source_revision", "source_ordinal"} {
		for _, value := range []string{"null", "", `"18446744073709551616"`} {
			require.Equal(t, tensorlake.ShapeEnvelope, parse(t, with(envelopeKeys, key, value)).Shape(), key+value)
		}
	}
	for _, value := range []string{"null", "[]", `""`, "-1e400", "true"} {
		require.Equal(t, tensorlake.ShapeEnvelope, parse(t, with(envelopeKeys, "data", value)).Shape(), value)
	}
	require.Equal(t, tensorlake.ShapeEnvelope,
		parse(t, with(envelopeKeys, "source_ordinal", "-18446744073709551616")).Shape())
	require.Equal(t, tensorlake.ShapeEnvelope, parse(t, with(envelopeKeys, "event_version", "1.5")).Shape())
}

// Readers disagree on which of two values of a key counts, so no event may depend on either.
func TestKeysThatAppearTwiceAreUnrecognized(t *testing.T) {
	for _, shape := range []string{
		workflowKeys, documentKeys + `,"dataset":"d","created_at":"","finished_at":"","usage":{}`, envelopeKeys,
	} {
		for member := range strings.SplitSeq(shape, ",") {
			key, _, _ := strings.Cut(member, ":")
			t.Run(key, func(t *testing.T) {
				body := "{" + shape + "," + member + "}"
				require.Equal(t, tensorlake.ShapeUnrecognized, parse(t, body).Shape())
				require.Equal(t, strings.Trim(key, `"`)+" appears twice", parse(t, body).Reason())
				body = "{" + shape + "," + key + ":null}"
				require.Equal(t, strings.Trim(key, `"`)+" appears twice", parse(t, body).Reason())
			})
		}
	}
	require.Equal(t, "job_id appears twice", parse(t, `{"job\u005fid":"a",`+documentKeys+`}`).Reason())
	require.Equal(t, "job_id appears twice", parse(t, `{`+documentKeys+`,"job_id":"a","job_id":"b"}`).Reason())
}

func TestDocumentStatusWords(t *testing.T) {
	for status, want := range map[string]string{
		"pending": "created", "PENDING": "created", "created": "created",
		"processing": "processing", "Processing": "processing",
		"success": "completed", "successful": "completed", "completed": "completed", "Success": "completed",
		"failure": "failed", "failed": "failed", "FAILED": "failed",
		"cancelled": "cancelled", "on hold": "on_hold", "": "_", "a.b": "a_b", "x-1_y": "x-1_y",
		"\u212a": "_", // the Kelvin sign, whose lower case is k
	} {
		e := eventOf(t, fmt.Sprintf(`{"job_id":"j","status":%q}`, status))
		require.Equal(t, "tensorlake.document_ingestion.job."+want, e.Type)
		require.Equal(t, want, e.Status)
		require.Equal(t, []string{"document_ingestion", "job", want}, e.Route)
	}
}

func TestTimes(t *testing.T) {
	const finished, created = "2026-01-02T03:04:05.123456789Z", "2025-12-31T23:59:59-05:00"
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return parsed.UTC()
	}
	tests := []struct {
		finished, created string
		want              time.Time
	}{
		{finished, created, at(finished)},
		{"", created, at(created)},
		{finished, "nonsense", at(finished)},
		{"nonsense", created, at(created)},
		{"nonsense", "", signedAt()},
		{"2026-01-02T03:04:05", created, at(created)},                  // no zone
		{"2026-02-30T03:04:05Z", created, at(created)},                 // no such day
		{"10000-01-02T03:04:05Z", created, at(created)},                // five digits
		{"9999-12-31T23:59:59-01:00", created, at(created)},            // year 10000 in UTC
		{"0001-01-01T00:00:00+01:00", created, at(created)},            // year 0 in UTC
		{"0001-01-01T00:00:00Z", created, at(created)},                 // Go's word for none
		{"0000-06-01T00:00:00Z", created, at(created)},                 // year 0
		{"2026-01-02T03:04:05.123456789123Z", created, at(finished)},   // more digits than are kept
		{" 2026-01-02T03:04:05Z", created, at(created)},                // not trimmed
		{`2026-01-02T03\u003a04:05.123456789Z`, created, at(finished)}, // escaped
	}
	for _, tt := range tests {
		t.Run(tt.finished, func(t *testing.T) {
			body := `{"job_id":"j","status":"success"`
			if tt.finished != "" {
				body += `,"finished_at":"` + tt.finished + `"`
			}
			if tt.created != "" {
				body += `,"created_at":"` + tt.created + `"`
			}
			require.Equal(t, tt.want, eventOf(t, body+"}").Time)
		})
	}
	require.Equal(t, at(finished), eventOf(t, with(envelopeKeys, "occurred_at", `"`+finished+`"`)).Time)
	require.Equal(t, signedAt(), eventOf(t, with(envelopeKeys, "occurred_at", `"soon"`)).Time)
}

// The id of a fact does not depend on the delivery, nor on how JSON spells it.
func TestIDIsTheSameForTheSameFact(t *testing.T) {
	same := [][2]string{
		{
			workflowOf("w", "i", "f", "success"),
			` {"fn_status" : {"f": "\u0073uccess"}, "x": 1, "invocation_id":"i","workflow_name":"\u0077"}`,
		},
		{workflowOf("w", "i", "\U0001F600", "s"), workflowOf("w", "i", `\ud83d\ude00`, "s")},
		{workflowOf("w", "i", `a\/b`, "s"), workflowOf("w", "i", "a/b", "s")},
		{workflowOf("w", "i", "\uFFFD", "s"), workflowOf("w", "i", `\ufffd`, "s")},
		{"{" + envelopeKeys + "}", with(envelopeKeys, "data", "[1]")},
	}
	for _, pair := range same {
		a, b := eventOf(t, pair[0]), eventOf(t, pair[1])
		require.Equal(t, a.ID, b.ID, "%s\n%s", pair[0], pair[1])

		other := bridge.Webhook{ID: "another", Timestamp: signedAt().Add(time.Hour)}
		for e := range parse(t, pair[0]).Events(other, tensorlake.Options{}) {
			require.Equal(t, a.ID, e.ID)
			require.Equal(t, "another", e.WebhookID)
		}
	}
}

func TestIDDiffersForDifferentFacts(t *testing.T) {
	bodies := []string{
		workflowOf("w", "i", "f", "s"),
		workflowOf("w", "i", "f", "S"),
		workflowOf("w", "i", "fs", ""),
		workflowOf("w", "i", "", "fs"),
		workflowOf("w", "if", "", "s"),
		workflowOf("wi", "", "f", "s"),
		workflowOf("", "wi", "f", "s"),
		workflowOf("i", "w", "f", "s"),
		workflowOf("w", "i", `f\u0000`, "s"),
		workflowOf("w", "i", "\ufffd", "s"),
		// Each of these reads as U+FFFD.
		workflowOf("w", "i", `\ud800`, "s"),
		workflowOf("w", "i", `\ud801`, "s"),
		workflowOf("w", "i", `\udc00`, "s"),
		workflowOf("w", `\ud800`, "f", "s"),
		workflowOf(`\ud800`, "i", "f", "s"),
		workflowOf("w", "i", "f", `\ud800`),
		workflowOf("w", "i", `\udc00\ud800`, "s"),
		workflowOf("w", "i", `\ud800\ud800\udc00`, "s"),
		workflowOf("w", "i", `\ud800\u0041`, "s"),
		`{"job_id":"w","status":"i"}`,
		`{"job_id":"w","status":"i","usage":{"pages":1}}`,
		`{"job_id":"i","status":"w"}`,
		`{"job_id":"wi","status":""}`,
		`{"job_id":"\ud800","status":""}`,
		`{"job_id":"\ud801","status":""}`,
		`{}`,
		`{} `,
		`{"job_id":1}`,
	}
	seen := map[string]string{}
	for _, body := range bodies {
		id := eventOf(t, body).ID
		require.Len(t, id, 32)
		require.NotContains(t, seen, id, "%s\n%s", body, seen[id])
		seen[id] = body
	}
}

func TestSummary(t *testing.T) {
	on := tensorlake.Options{SummaryEvents: true}
	summaryOf := func(functions string) bridge.Event {
		body := `{"workflow_name":"w\u002f","invocation_id":"i","fn_status":{` + functions + `}}`
		events := eventsOf(t, body, on)
		require.Len(t, events, parse(t, body).Len(on))
		require.Len(t, events, parse(t, body).Len(tensorlake.Options{})+1)
		return events[len(events)-1]
	}
	tests := []struct {
		functions, status        string
		total, succeeded, failed int
	}{
		{``, "success", 0, 0, 0},
		{`"a":"success"`, "success", 1, 1, 0},
		{`"a":"Success","b":"SUCCESSFUL","c":"succeeded","d":"completed"`, "success", 4, 4, 0},
		{`"a":"success","b":"failure"`, "failure", 2, 1, 1},
		{`"a":"skipped","b":"Failed"`, "failure", 2, 0, 1},
		{`"a":"success","b":"skipped"`, "partial", 2, 1, 0},
		{`"a":"","a":"running"`, "partial", 2, 0, 0},
	}
	ids := map[string]bool{}
	for _, tt := range tests {
		t.Run(tt.functions, func(t *testing.T) {
			e := summaryOf(tt.functions)
			data := fmt.Appendf(nil,
				`{"workflow_name":"w\u002f","invocation_id":"i","functions_total":%d,"succeeded":%d,"failed":%d,"status":"%s"}`,
				tt.total, tt.succeeded, tt.failed, tt.status)
			require.Equal(t, data, e.Data, "byte for byte")
			require.Equal(t, "tensorlake.workflow.invocation.finished", e.Type)
			require.Equal(t, "/tensorlake/workflows/w%2F", e.Source)
			require.Equal(t, "i", e.Subject)
			require.Equal(t, "i", e.PartitionKey)
			require.Equal(t, tt.status, e.Status)
			require.Equal(t, []string{"workflow", "invocation", "finished"}, e.Route)
			require.Equal(t, "w/", e.Application)
			require.Equal(t, "i", e.Request)
			require.Empty(t, e.Function)
			require.False(t, ids[e.ID], "another outcome is another fact")
			ids[e.ID] = true
			require.Equal(t, e.ID, summaryOf(tt.functions).ID)
		})
	}
}

func TestOnlyWorkflowsHaveSummaries(t *testing.T) {
	for _, body := range []string{"{" + documentKeys + "}", "{" + envelopeKeys + "}", "{}"} {
		require.Len(t, eventsOf(t, body, tensorlake.Options{SummaryEvents: true}), 1)
	}
}

func TestFunctionEvent(t *testing.T) {
	e := eventOf(t,
		`{"fn_status": { "f\u0041/\u00e9" : "Timed\tout" } , "invocation_id" : "in\u0076", "workflow_name":"w w"}`)
	e.ID, e.Origin = "", bridge.Origin{}
	require.Equal(t, bridge.Event{
		Type:         "tensorlake.workflow.function.timed_out",
		Source:       "/tensorlake/workflows/w%20w",
		Subject:      "inv/fA%2F%C3%A9",
		Time:         signedAt(),
		PartitionKey: "inv",
		WebhookID:    messageID,
		Data: []byte(`{"workflow_name":"w w","invocation_id":"in\u0076","function":"f\u0041/\u00e9","status":"Timed\tout",` +
			`"functions_total":1}`),
		About: bridge.About{
			Route:       []string{"workflow", "w w", "fA/é", "timed_out"},
			Application: "w w",
			Function:    "fA/é",
			Status:      "timed_out",
			Request:     "inv",
		},
	}, e)
}

func TestPartitionKeyAndWebhookIDAreLegalAttributes(t *testing.T) {
	e := eventOf(t, workflowOf("w", `a\u0000b\r\n\u007f\u0085\ufdd0\uffff\ud83f\udffe %41é\ud800`, "f", "s"))
	require.Equal(t, "a%00b%0D%0A%7F%C2%85%EF%B7%90%EF%BF%BF%F0%9F%BF%BE %41é\ufffd", e.PartitionKey)

	e = eventOf(t, `{"job_id":"","status":"success"}`)
	require.Equal(t, messageID, e.PartitionKey)
	require.Empty(t, e.Subject)

	w := goldenWebhook(nil)
	w.ID = "m\xff\t\u00e9"
	for e := range parse(t, "{}").Events(w, tensorlake.Options{}) {
		requireValidEvent(t, e)
		require.Equal(t, "m%FF%09é", e.WebhookID)
		require.Equal(t, "m%FF%09é", e.PartitionKey)
	}
}

// A payload of a megabyte can hold 100,000 functions. Reading the first event must not make the others.
func TestEventsAreLazy(t *testing.T) {
	const functions = 100_000
	var b strings.Builder
	b.WriteString(`{"workflow_name":"w","invocation_id":"i","fn_status":{`)
	for i := range functions {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%d":""`, i)
	}
	b.WriteString("}}")
	p := parse(t, b.String())
	o := tensorlake.Options{SummaryEvents: true}
	require.Equal(t, functions+1, p.Len(o))
	seq := p.Events(goldenWebhook(nil), o)

	first := testing.AllocsPerRun(10, func() {
		for range seq {
			break
		}
	})
	require.Less(t, first, 100.0)

	count := 0
	for range seq {
		count++
	}
	require.Equal(t, functions+1, count)
}

func TestParseKeepsTheBodyAsItIs(t *testing.T) {
	body := []byte(workflowOf(`\u0041`, "i", "f", "Success"))
	before := string(body)
	p, err := tensorlake.Parse(body)
	require.NoError(t, err)
	for e := range p.Events(goldenWebhook(body), tensorlake.Options{SummaryEvents: true}) {
		_ = append(e.Data, "x"...)
	}
	require.Equal(t, before, string(body))
}

func TestZeroPayloadHasNoEvents(t *testing.T) {
	var p tensorlake.Payload
	require.Zero(t, p.Len(tensorlake.Options{SummaryEvents: true}))
	require.Empty(t, slices.Collect(p.Events(bridge.Webhook{}, tensorlake.Options{})))
	require.Equal(t, tensorlake.ShapeUnrecognized, p.Shape())
}

func FuzzParse(f *testing.F) {
	for _, section := range goldenSections() {
		for _, c := range section.cases {
			f.Add(readGolden(f, c.name+".json"), messageID, c.options.SummaryEvents)
		}
	}
	f.Add([]byte(workflowOf(`\ud83d\ude00\ud83d`, `\\\"`, `\u0000`, `\/\b\f\n\r\t`)), "m\xff\n", true)
	f.Add([]byte("{\"a\":1}\x00"), "", false)
	f.Fuzz(func(t *testing.T, body []byte, webhookID string, summary bool) {
		before := string(body)
		p, err := tensorlake.Parse(body)
		requireAgreesWithEncodingJSON(t, body, err)
		if err != nil {
			return
		}
		o := tensorlake.Options{SummaryEvents: summary}
		w := goldenWebhook(body)
		w.ID = "m" + webhookID
		var events []bridge.Event
		for e := range p.Events(w, o) {
			requireValidEvent(t, e)
			require.LessOrEqual(t, len(e.Data), 2*len(body)+200)
			events = append(events, e)
			require.Equal(t, events[0].PartitionKey, e.PartitionKey, "delivery relies on it")
		}
		require.Len(t, events, p.Len(o))
		require.Equal(t, events, append([]bridge.Event(nil), slices.Collect(p.Events(w, o))...), "the same each time")
		require.Equal(t, p.Shape() == tensorlake.ShapeUnrecognized || len(events) > 0 && events[0].Route[0] == "other",
			p.Reason() != "")
		require.True(t, utf8.ValidString(p.Reason()))
		require.Less(t, len(p.Reason()), 500)
		requireAttribute(t, "reason", p.Reason())
		requireSameText(t, body, p, events)
		require.Equal(t, before, string(body))
	})
}

func BenchmarkParse(b *testing.B) {
	body := readGolden(b, "workflow.json")
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := tensorlake.Parse(body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnvelope(b *testing.B) {
	body := readGolden(b, "request-failed.json")
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		p, err := tensorlake.Parse(body)
		require.NoError(b, err)
		for range p.Events(goldenWebhook(body), tensorlake.Options{}) {
		}
	}
}

func BenchmarkEvents(b *testing.B) {
	body := readGolden(b, "workflow.json")
	p, err := tensorlake.Parse(body)
	require.NoError(b, err)
	w := goldenWebhook(body)
	b.ReportAllocs()
	for b.Loop() {
		for range p.Events(w, tensorlake.Options{}) {
		}
	}
}
