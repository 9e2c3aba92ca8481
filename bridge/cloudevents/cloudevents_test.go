package cloudevents_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
)

func sample() bridge.Event {
	return bridge.Event{
		ID:           "c1be3cadc55d0759048bea7be538325a",
		Type:         "tensorlake.workflow.function.success",
		Source:       "/tensorlake/workflows/workflow_XXXX",
		Subject:      "invocation_ID/fn_A",
		Time:         time.Date(2026, 3, 14, 9, 26, 53, 120_000_000, time.UTC),
		PartitionKey: "invocation_ID",
		WebhookID:    "msg_2pQ5wL9aXkTzB7cVdEfGhJ",
		Data:         []byte(`{"workflow_name":"workflow_XXXX", "n":1.50e40,"a":"\ud800 é"}`),
	}
}

// changed returns the sample with one change.
func changed(change func(e *bridge.Event)) bridge.Event {
	e := sample()
	change(&e)
	return e
}

func TestDecodeUndoesEncode(t *testing.T) {
	for name, e := range sinktest.LegalEvents() {
		for _, prefix := range []string{cloudevents.NATSPrefix, cloudevents.KafkaPrefix, "x-"} {
			for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured} {
				t.Run(fmt.Sprint(name, "/", prefix, f), func(t *testing.T) {
					headers, body, err := f.Encode(e, prefix)
					require.NoError(t, err)
					got, err := cloudevents.Decode(headers, prefix, body)
					require.NoError(t, err)
					require.Equal(t, e, got)

					for i := range headers { // clients change the case of names
						headers[i].Name = strings.ToUpper(headers[i].Name)
					}
					got, err = cloudevents.Decode(headers, prefix, body)
					require.NoError(t, err)
					require.Equal(t, e, got)
				})
			}
		}
	}
}

func TestBinaryHeaders(t *testing.T) {
	headers, body, err := cloudevents.Binary.Encode(sample(), cloudevents.NATSPrefix)
	require.NoError(t, err)
	require.Equal(t, []cloudevents.Header{
		{Name: "ce-specversion", Value: "1.0"},
		{Name: "ce-id", Value: "c1be3cadc55d0759048bea7be538325a"},
		{Name: "ce-source", Value: "/tensorlake/workflows/workflow_XXXX"},
		{Name: "ce-type", Value: "tensorlake.workflow.function.success"},
		{Name: "ce-subject", Value: "invocation_ID/fn_A"},
		{Name: "ce-time", Value: "2026-03-14T09:26:53.12Z"},
		{Name: "ce-partitionkey", Value: "invocation_ID"},
		{Name: "ce-webhookid", Value: "msg_2pQ5wL9aXkTzB7cVdEfGhJ"},
		{Name: "content-type", Value: "application/json"},
	}, headers)
	require.Equal(t, string(sample().Data), string(body))

	headers, _, err = cloudevents.Binary.Encode(bridge.Event{
		ID: "é 1", Source: "/a%2Fb", Type: "t",
		Time: time.Date(2026, 3, 14, 10, 26, 53, 0, time.FixedZone("", 3600)),
	}, cloudevents.KafkaPrefix)
	require.NoError(t, err)
	require.Equal(t, []cloudevents.Header{
		{Name: "ce_specversion", Value: "1.0"},
		{Name: "ce_id", Value: "é 1"},
		{Name: "ce_source", Value: "/a%2Fb"},
		{Name: "ce_type", Value: "t"},
		{Name: "ce_time", Value: "2026-03-14T09:26:53Z"},
		{Name: "content-type", Value: "application/json"},
	}, headers)
}

func TestStructuredBody(t *testing.T) {
	e := changed(func(e *bridge.Event) { e.WebhookID = `"\` })
	headers, body, err := cloudevents.Structured.Encode(e, cloudevents.KafkaPrefix)
	require.NoError(t, err)
	require.Equal(t, []cloudevents.Header{{Name: "content-type", Value: "application/cloudevents+json"}}, headers)
	want := []byte(`{"specversion":"1.0","id":"c1be3cadc55d0759048bea7be538325a",` +
		`"source":"/tensorlake/workflows/workflow_XXXX",` +
		`"type":"tensorlake.workflow.function.success","subject":"invocation_ID/fn_A","time":"2026-03-14T09:26:53.12Z",` +
		`"partitionkey":"invocation_ID","webhookid":"\"\\","datacontenttype":"application/json",` +
		`"data":{"workflow_name":"workflow_XXXX", "n":1.50e40,"a":"\ud800 é"}}`)
	require.Equal(t, want, body)
}

func TestPlain(t *testing.T) {
	headers, body, err := cloudevents.Plain.Encode(bridge.Event{Data: []byte("{}")}, cloudevents.NATSPrefix)
	require.NoError(t, err)
	require.Equal(t, []cloudevents.Header{{Name: "content-type", Value: "application/json"}}, headers)
	require.Equal(t, "{}", string(body))

	got, err := cloudevents.Decode(headers, cloudevents.NATSPrefix, body)
	require.NoError(t, err)
	require.Equal(t, bridge.Event{Data: []byte("{}")}, got)
}

// NATS clients are not careful with what stands in headers, so nothing but printable ASCII may.
func TestNATSHeaderValues(t *testing.T) {
	for value, want := range map[string]string{
		"plain":        "plain",
		"a b":          "a b",
		"50%":          "50%",
		`"x"`:          `"x"`,
		"~!@#$^&*()":   "~!@#$^&*()",
		"a%20b":        "a%2520b",
		"a%2fb":        "a%2fb",
		"%41":          "%41",
		"é":            "%C3%A9",
		`é "%"`:        "%C3%A9%20%22%25%22",
		" x":           "%20x",
		"x ":           "x%20",
		"\U0001F600":   "%F0%9F%98%80",
		"a\r\nb: c":    "a%0D%0Ab: c", // no legal attribute, so it is made one first
		"a\x00":        "a%2500",
		"\xff":         "%25FF",
		"\u0085\ufffe": "%25C2%2585%25EF%25BF%25BE",
	} {
		e := changed(func(e *bridge.Event) { e.PartitionKey = value })
		headers, _, err := cloudevents.Binary.Encode(e, cloudevents.NATSPrefix)
		require.NoError(t, err)
		require.Equal(t, cloudevents.Header{Name: "ce-partitionkey", Value: want}, headers[6])
	}
}

// A number that no float64 holds stays as it is.
func TestNumbersStayAsTheyAre(t *testing.T) {
	e := changed(func(e *bridge.Event) { e.Data = []byte(`{"n":1.50E+400,"m":123456789012345678901234567890.0}`) })
	for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured} {
		headers, body, err := f.Encode(e, cloudevents.KafkaPrefix)
		require.NoError(t, err)
		got, err := cloudevents.Decode(headers, cloudevents.KafkaPrefix, body)
		require.NoError(t, err)
		require.Equal(t, e.Data, got.Data)
	}
}

func TestTimesThatRFC3339CannotWriteAreLeftOut(t *testing.T) {
	for _, at := range []time.Time{
		{},
		time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600)),
		time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		e := changed(func(e *bridge.Event) { e.Time = at })
		for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured} {
			headers, body, err := f.Encode(e, cloudevents.NATSPrefix)
			require.NoError(t, err)
			got, err := cloudevents.Decode(headers, cloudevents.NATSPrefix, body)
			require.NoError(t, err)
			require.True(t, got.Time.IsZero(), "%s", got.Time)
		}
	}
}

func TestEncodeWantsWhatCloudEventsRequires(t *testing.T) {
	for want, e := range map[string]bridge.Event{
		"no id":     changed(func(e *bridge.Event) { e.ID = "" }),
		"no source": changed(func(e *bridge.Event) { e.Source = "" }),
		"no type":   changed(func(e *bridge.Event) { e.Type = "" }),
	} {
		for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured} {
			_, _, err := f.Encode(e, cloudevents.NATSPrefix)
			require.ErrorContains(t, err, want)
		}
		_, _, err := cloudevents.Plain.Encode(e, cloudevents.NATSPrefix)
		require.NoError(t, err, "the plain format has no attributes")
	}
	_, _, err := cloudevents.Format(7).Encode(sample(), cloudevents.NATSPrefix)
	require.ErrorContains(t, err, "Format(7)")
}

func TestParseFormat(t *testing.T) {
	for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured, cloudevents.Plain} {
		got, err := cloudevents.ParseFormat(f.String())
		require.NoError(t, err)
		require.Equal(t, f, got)
	}
	for _, name := range []string{"", "Binary", "json", "binary "} {
		_, err := cloudevents.ParseFormat(name)
		require.ErrorContains(t, err, "known are binary, structured and plain", name)
	}
	var zero cloudevents.Format
	require.Equal(t, cloudevents.Binary, zero)
}

func TestDecodeRefusesWhatIsNoValidCloudEvent(t *testing.T) {
	header := func(pairs ...string) []cloudevents.Header {
		var headers []cloudevents.Header
		for i := 0; i < len(pairs); i += 2 {
			headers = append(headers, cloudevents.Header{Name: pairs[i], Value: pairs[i+1]})
		}
		return headers
	}
	structured := header("Content-Type", "application/cloudevents+json; charset=UTF-8")
	tests := map[string]struct {
		headers []cloudevents.Header
		body    string
		want    string
	}{
		"version": {
			header("ce-specversion", "0.3", "ce-id", "i", "ce-source", "s", "ce-type", "t"), "{}", `of version "0.3"`,
		},
		"no id":     {header("ce-specversion", "1.0", "ce-source", "s", "ce-type", "t"), "{}", "no id"},
		"no source": {header("ce-specversion", "1.0", "ce-id", "i", "ce-type", "t"), "{}", "no source"},
		"no type":   {header("ce-specversion", "1.0", "ce-id", "i", "ce-source", "s"), "{}", "no type"},
		"time": {
			header("ce-specversion", "1.0", "ce-id", "i", "ce-source", "s", "ce-type", "t", "ce-time", "\n"), "{}",
			"its time",
		},
		"structured no JSON": {structured, "{", "no CloudEvent in JSON"},
		"structured version": {structured, `{"id":"i","source":"s","type":"t"}`, `of version ""`},
		"structured id":      {structured, `{"specversion":"1.0","id":1,"source":"s","type":"t"}`, "no CloudEvent in JSON"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := cloudevents.Decode(tt.headers, cloudevents.NATSPrefix, []byte(tt.body))
			require.ErrorContains(t, err, tt.want)
		})
	}

	got, err := cloudevents.Decode(structured, cloudevents.NATSPrefix,
		[]byte(`{"specversion":"1.0","id":"i","source":"s","type":"t","other":7,"data_base64":"AAE="}`))
	require.NoError(t, err)
	require.Equal(t, bridge.Event{ID: "i", Source: "s", Type: "t", Data: []byte{0, 1}}, got)

	got, err = cloudevents.Decode(header("ce_id", "the other prefix"), cloudevents.NATSPrefix, []byte("x"))
	require.NoError(t, err)
	require.Equal(t, bridge.Event{Data: []byte("x")}, got)
}

// Whatever the attributes hold, headers are safe to send and what is read back is what is legal of it.
func FuzzEncode(f *testing.F) {
	for _, e := range sinktest.LegalEvents() {
		if len(e.ID)+len(e.PartitionKey)+len(e.WebhookID) < 500 {
			f.Add(e.ID, e.PartitionKey, e.WebhookID)
		}
	}
	f.Add("a\r\nb", "\xff\x00", "\u0085\ufdd0\U0001fffe\ufffd")
	f.Fuzz(func(t *testing.T, id, partitionKey, webhookID string) {
		if id == "" {
			return
		}
		e := changed(func(e *bridge.Event) { e.ID, e.PartitionKey, e.WebhookID = id, partitionKey, webhookID })
		var read [4]bridge.Event
		for i, prefix := range []string{cloudevents.NATSPrefix, cloudevents.KafkaPrefix} {
			headers, body, err := cloudevents.Binary.Encode(e, prefix)
			require.NoError(t, err)
			for _, h := range headers {
				requireLegal(t, h.Value)
				if prefix == cloudevents.NATSPrefix {
					require.Regexp(t, `^[!-~]([ -~]*[!-~])?$`, h.Value)
				}
			}
			read[2*i], err = cloudevents.Decode(headers, prefix, body)
			require.NoError(t, err)

			headers, body, err = cloudevents.Structured.Encode(e, prefix)
			require.NoError(t, err)
			require.True(t, json.Valid(body))
			read[2*i+1], err = cloudevents.Decode(headers, prefix, body)
			require.NoError(t, err)
		}
		for _, other := range read[1:] {
			require.Equal(t, read[0], other, "every way of writing an event says the same")
		}
		for _, pair := range [][2]string{
			{id, read[0].ID}, {partitionKey, read[0].PartitionKey}, {webhookID, read[0].WebhookID},
		} {
			requireLegal(t, pair[1])
			if legal(pair[0]) {
				require.Equal(t, pair[0], pair[1])
			}
		}
	})
}

func requireLegal(t *testing.T, value string) {
	t.Helper()
	require.True(t, legal(value), "%q", value)
}

// legal follows the type String of CloudEvents 1.0.
func legal(value string) bool {
	return utf8.ValidString(value) && !strings.ContainsFunc(value, func(r rune) bool {
		return r <= 0x1f || 0x7f <= r && r <= 0x9f || 0xfdd0 <= r && r <= 0xfdef || r&0xffff >= 0xfffe
	})
}

func BenchmarkEncode(b *testing.B) {
	for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured, cloudevents.Plain} {
		b.Run(f.String(), func(b *testing.B) {
			e := sample()
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := f.Encode(e, cloudevents.NATSPrefix); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
