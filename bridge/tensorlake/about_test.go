package tensorlake_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// envelopeOf is an envelope of a type with data.
func envelopeOf(eventType, data string) string {
	return fmt.Sprintf(`{"event_id":"evt_1","event_type":%q,"event_version":1,`+
		`"occurred_at":"2026-08-04T12:00:00.125Z","project_id":"p/1",`+
		`"source_id":"src","source_revision":"7","source_ordinal":2,"data":%s}`, eventType, data)
}

func TestEventOfARequest(t *testing.T) {
	body := envelopeOf("tensorlake.application.request.failed",
		`{"request":{"id":"a b/\u0000é","status":"failed","failure_reason":"out_of_memory"},`+
			`"application":{"version":"3","na\u006de":"in.voices"}}`)
	require.Equal(t, bridge.Event{
		ID:           "evt_1",
		Type:         "tensorlake.application.request.failed",
		Source:       "/tensorlake/projects/p%2F1",
		Subject:      "in.voices/a%20b%2F%00%C3%A9",
		Time:         time.Date(2026, 8, 4, 12, 0, 0, 125e6, time.UTC),
		PartitionKey: "a b/%00é",
		Sequence:     "00000000000000000007.0000000002",
		SourceID:     "src",
		WebhookID:    messageID,
		Origin:       bridge.Origin{Webhook: bridge.WebhookDigest(messageID, []byte(body))},
		Data:         []byte(body),
		About: bridge.About{
			Route:       []string{"application", "in.voices", "request", "failed"},
			Project:     "p/1",
			Application: "in.voices",
			Version:     "3",
			Request:     "a b/\x00é",
			Status:      "failed",
			Outcome:     "failure",
			Reason:      "out_of_memory",
		},
	}, eventOf(t, body))
}

func TestRoutesOfEnvelopes(t *testing.T) {
	const (
		application = `{"application":{"name":"a","state":"disabled","disabled_reason":"quota"}}`
		request     = `{"application":{"name":"a"},"request":{"id":"r"}}`
		sandbox     = `{"sandbox":{"id":"s","name":"n"}}`
		all         = `{"application":{"name":"a"},"request":{"id":"r"},"sandbox":{"id":"s","name":"n"}}`
	)
	for _, tt := range []struct{ eventType, data, route, subject, key string }{
		{"tensorlake.application.request.completed", request, "application.a.request.completed", "a/r", "r"},
		{"tensorlake.application.request.step.started", request, "application.a.request.step.started", "a/r", "r"},
		{"tensorlake.application.request.", request, "application.a.request.", "a/r", "r"},
		{"tensorlake.application.updated", application, "application.a.updated", "a", "a"},
		{"tensorlake.application.request", application, "application.a.request", "a", "a"},
		{"tensorlake.sandbox.hibernated", sandbox, "sandbox.n.hibernated", "s", "s"},
		{"tensorlake.sandbox.created", `{"sandbox":{"id":"s","name":null}}`, "sandbox..created", "s", "s"},
		{"tensorlake.sandbox.created", `{"sandbox":{"id":"s","name":5}}`, "sandbox..created", "s", "s"},
		{"tensorlake.volume.created", all, "volume.created", "src", "src"},
		{"tensorlake.volume", all, "volume", "src", "src"},

		// What lacks its kind's names, or calls itself what it is not.
		{
			"tensorlake.application.request.failed", `{"application":{"name":"a"},"request":{"id":""}}`,
			"other.application.request.failed", "src", "src",
		},
		{
			"tensorlake.application.request.failed", `{"application":{"name":["a"]},"request":{"id":"r"}}`,
			"other.application.request.failed", "src", "src",
		},
		{"tensorlake.application.created", `{"application":"a"}`, "other.application.created", "src", "src"},
		{"tensorlake.sandbox.created", `[]`, "other.sandbox.created", "src", "src"},
		{"tensorlake.sandbox.created", `null`, "other.sandbox.created", "src", "src"},
		{"tensorlake.sandbox", sandbox, "other.sandbox", "src", "src"},
		{"tensorlake.application", application, "other.application", "src", "src"},
		{"tensorlake.workflow.pay.charge.success", all, "other.workflow.pay.charge.success", "src", "src"},
		{"tensorlake.workflow.invocation.finished", all, "other.workflow.invocation.finished", "src", "src"},
		{"tensorlake.unrecognized", all, "other.unrecognized", "src", "src"},
		{"tensorlake.other.workflow.pay", all, "other.other.workflow.pay", "src", "src"},
		{"tensorlake.", all, "other.", "src", "src"},
		{"tensorlake..created", all, "other..created", "src", "src"},
		{"tensorlake.work flow.created", all, "other.work flow.created", "src", "src"},
		{"Tensorlake.sandbox.created", sandbox, "other.Tensorlake.sandbox.created", "src", "src"},
		{"sandbox.created", sandbox, "other.sandbox.created", "src", "src"},
	} {
		t.Run(tt.eventType+tt.data, func(t *testing.T) {
			body := envelopeOf(tt.eventType, tt.data)
			e := eventOf(t, body)
			require.Equal(t, tt.route, strings.Join(e.Route, "."))
			require.Equal(t, tt.subject, e.Subject)
			require.Equal(t, tt.key, e.PartitionKey)
			require.Equal(t, tt.eventType, e.Type)
			require.Equal(t, body, string(e.Data))
			p := parse(t, body)
			require.Equal(t, tensorlake.ShapeEnvelope, p.Shape())
			require.Equal(t, e.Route[0] == "other", p.Reason() != "", "said and counted: %s", p.Reason())
			if e.Route[0] == "other" || e.Route[0] == "volume" {
				require.Empty(t, e.Application+e.Request+e.Sandbox+e.SandboxName, "nor does it take the address by a placeholder")
			}
		})
	}
}

// Readers of the data may disagree on what a key says that is there twice.
func TestAKeyOfAnAddressThatAppearsTwiceInAnEnvelopeMakesItUnrecognized(t *testing.T) {
	for data, reason := range map[string]string{
		`{"application":{"name":"a"},"request":{"id":"r"},"application":{"name":"b"}}`: "data.application appears twice",
		`{"application":{"name":"a","\u006eame":"b"},"request":{"id":"r"}}`:            "data.application.name appears twice",
		`{"application":{"name":"a"},"request":{"id":"r","status":"x","id":"r"}}`:      "data.request.id appears twice",
		`{"application":{"name":"a"},"request":{"id":"r","status":"x","status":null}}`: "data.request.status appears twice",
		`{"request":{"id":"r"},"request":{"id":"r"}}`:                                  "data.request appears twice",
		`{"application":{"name":"a","version":"1","version":"2"},` +
			`"request":{"status":"x"}}`: "data.application.version appears twice",
	} {
		p := parse(t, envelopeOf("tensorlake.application.request.failed", data))
		require.Equal(t, tensorlake.ShapeUnrecognized, p.Shape())
		require.Equal(t, reason, p.Reason())
	}
	for _, data := range []string{
		`{"application":{"name":"a","x":1,"x":2},"request":{"id":"r"},"y":1,"y":2,` +
			`"sandbox":{"id":1,"id":2}}`, // not looked at
		`{"application":{"name":"a","deep":{"name":"b","name":"c"}},"request":{"id":"r"}}`,
		`{"application":{"name":"a"},"request":{"id":"r"},` +
			`"deep":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
	} {
		require.Equal(t, "application.a.request.failed",
			strings.Join(eventOf(t, envelopeOf("tensorlake.application.request.failed", data)).Route, "."))
	}
}

func TestSequenceSortsAsTheNumbersDo(t *testing.T) {
	sequence := func(revision, ordinal string) string {
		revised := with(envelopeKeys, "source_revision", revision)
		return eventOf(t, with(revised[1:len(revised)-1], "source_ordinal", ordinal)).Sequence
	}
	require.Equal(t, "00000000000000000002.0000000000", sequence(`"2"`, "0"))
	require.Equal(t, "18446744073709551615.0000000010", sequence(`"18446744073709551615"`, "10"))
	require.Equal(t, "00000000000000000007.0000000001", sequence(`"0000000000000000000000007"`, `"1"`))
	require.Less(t, sequence(`"9"`, "10"), sequence(`"10"`, "0"))
	require.Less(t, sequence(`"10"`, "9"), sequence(`"10"`, "10"))
	for _, absent := range [][2]string{
		{`"100000000000000000000"`, "0"},
		{`"1"`, "10000000000"},
		{`"-1"`, "0"},
		{`"1"`, "-1"},
		{"null", "0"},
		{`"1"`, "null"},
	} {
		require.Empty(t, sequence(absent[0], absent[1]), absent)
	}
}

func TestDescribeFindsWhatAMessageDoesNotCarry(t *testing.T) {
	for _, section := range goldenSections() {
		for _, c := range section.cases {
			t.Run(c.name, func(t *testing.T) {
				body := readGolden(t, c.name+".json")
				p := parse(t, string(body))
				for want := range p.Events(goldenWebhook(body), c.options) {
					for _, eventType := range []string{want.Type, ""} { // "": as in the plain format
						got := bridge.Event{Type: eventType, Data: want.Data}
						tensorlake.Describe(&got)
						if eventType == "" && want.Type == "tensorlake.unrecognized" && got.Route[0] != "unrecognized" {
							continue // its data alone says nothing else than that of another shape
						}
						require.Equal(t, want.Route, got.Route)
						want.ID, want.Origin, want.Source, want.Subject = "", bridge.Origin{}, "", ""
						want.Time, want.PartitionKey = time.Time{}, ""
						want.Sequence, want.SourceID, want.WebhookID, want.Type, want.Concludes = "", "", "", eventType, false
						require.Equal(t, want, got)
						want = func() bridge.Event {
							for e := range p.Events(goldenWebhook(body), c.options) {
								if string(e.Data) == string(got.Data) {
									return e
								}
							}
							return want
						}()
					}
				}
			})
		}
	}
}
