package app_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// deadLetters is a subject apart from those of the events.
const deadLetters = natsserver.DeadLetters + "tensorlake"

func TestARejectedEventReachesTheDeadLetterSubject(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	r := start(t, t.TempDir(), map[string]string{"NATS_URL": srv.URL(), "NATS_DEAD_LETTER": deadLetters})
	r.mustPost("msg_1",
		`{"job_id":"job_1","status":"success","text":"`+strings.Repeat("x", 100_000)+`"}`, http.StatusAccepted)
	m := inStream(t, srv.URL(), "TENSORLAKE", 1)[0]
	require.Equal(t, deadLetters, m.Subject())
	require.Equal(t, "msg_1", m.Headers().Get("ce-webhookid"))
	require.Contains(t, m.Headers().Get("fnbridge-reason"), "and the server takes 65536")
	require.Equal(t, "1", m.Headers().Get("fnbridge-attempts"))
	require.Equal(t, "tensorlake.document_ingestion.job.completed", m.Headers().Get("fnbridge-address"))
	require.Equal(t, "omitted", m.Headers().Get("fnbridge-data"))
	require.Empty(t, m.Data())
}

func TestAnEventThatIsGivenUpReachesTheDeadLetterSubject(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	_, err := js.CreateStream(t.Context(), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.document_ingestion.>", deadLetters},
	})
	require.NoError(t, err)
	r := start(t, t.TempDir(), map[string]string{
		"NATS_URL": srv.URL(), "NATS_DEAD_LETTER": deadLetters, "NATS_GIVE_UP_AFTER": "1s",
	})
	r.mustPost("msg_1", workflow, http.StatusAccepted) // two functions, and nobody takes their subjects
	for _, m := range inStream(t, srv.URL(), "TENSORLAKE", 2) {
		require.Equal(t, deadLetters, m.Subject())
		require.Contains(t, m.Headers().Get("fnbridge-reason"), "given up")
		require.Contains(t, m.Headers().Get("fnbridge-reason"), "do not cover")
		require.Empty(t, m.Headers().Get("fnbridge-data"))
		require.NotEmpty(t, m.Data())
	}
}

func TestCheckWarnsOfADeadLetterSubjectThatNoStreamTakes(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	stream := natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}}
	_, err := js.CreateStream(t.Context(), stream)
	require.NoError(t, err)
	cfg := load(t, environment(t.TempDir(), map[string]string{"NATS_URL": srv.URL(), "NATS_DEAD_LETTER": deadLetters}))
	sink := admin.Sink{Options: app.SinkOptions(cfg, cfg.Sinks[0], nil)}
	found := admin.CheckSink(t.Context(), sink, app.Largest(cfg, cfg.Sinks[0]), time.Minute)
	require.True(t, found.OK, "events can be published")
	require.Empty(t, found.Error)
	require.Contains(t, found.Warning, "no stream takes the dead-letter subject "+deadLetters)

	stream.Subjects = append(stream.Subjects, deadLetters)
	_, err = js.UpdateStream(t.Context(), stream)
	require.NoError(t, err)
	require.Empty(t, admin.CheckSink(t.Context(), sink, app.Largest(cfg, cfg.Sinks[0]), time.Minute).Warning)
}

func TestCheckSaysWhatBecomesOfEventsThatAreTooLarge(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	for fate, env := range map[string]map[string]string{
		"become dead letters":                        {},
		"are refused, and the webhooks answered 422": {"ACK": "sinks"},
		"go to FNBRIDGE_NATS_DEAD_LETTER instead":    {"ACK": "sinks", "NATS_DEAD_LETTER": deadLetters},
		"never get there (FNBRIDGE_AUDIT_REQUIRED is false)": {
			"ACK": "sinks", "SINKS": "nats,audit=nats", "AUDIT_URL": srv.URL(), "AUDIT_STREAM": "AUDIT",
			"AUDIT_SUBJECT": "audit.{route}", "AUDIT_REQUIRED": "false",
		},
	} {
		env["NATS_URL"] = srv.URL()
		cfg := load(t, environment(t.TempDir(), env))
		last := cfg.Sinks[len(cfg.Sinks)-1]
		found := admin.CheckSink(t.Context(), app.AdminSink(cfg, last, nil), app.Largest(cfg, last), time.Minute)
		require.True(t, found.OK, found.Error)
		require.True(t, slices.ContainsFunc(found.Steps, func(s admin.CheckStep) bool {
			return s.State == "warning" && strings.Contains(s.Detail, "of larger webhooks "+fate+". Raise max_payload")
		}), "%s: %v", fate, found.Steps)
	}
}

func TestDeadLetterSubjectsStayApartFromEvents(t *testing.T) {
	for name, c := range map[string]struct {
		changes map[string]string
		want    string // empty: all is well
	}{
		"apart": {map[string]string{"NATS_DEAD_LETTER": deadLetters}, ""},
		"among the events": {
			map[string]string{"NATS_DEAD_LETTER": "tensorlake.dead"},
			`FNBRIDGE_NATS_DEAD_LETTER: "tensorlake.dead" is among the subjects of the events (tensorlake.>)`,
		},
		"a template": {
			map[string]string{"NATS_DEAD_LETTER": "dead.{status}"},
			`FNBRIDGE_NATS_DEAD_LETTER: "dead.{status}" is not one fixed subject`,
		},
		"a wildcard": {
			map[string]string{"NATS_DEAD_LETTER": "dead.>"},
			"is not one fixed subject: give one without placeholders and wildcards",
		},
		"beside a wrong subject": {
			map[string]string{"NATS_DEAD_LETTER": "dead", "NATS_SUBJECT": "{route}"}, "FNBRIDGE_NATS_SUBJECT: ",
		},
		"among another sink's": {map[string]string{
			"SINKS": "nats,b=nats", "B_STREAM": "B", "B_SUBJECT": "b.{route}", "NATS_DEAD_LETTER": "b.dead",
		}, `FNBRIDGE_NATS_DEAD_LETTER: "b.dead" is among the subjects of the events (b.>)`},
		"at another server": {map[string]string{
			"SINKS": "nats,b=nats", "B_URL": "nats://b", "B_SUBJECT": "b.{route}", "NATS_DEAD_LETTER": "b.dead",
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := app.LoadConfig(environment(t.TempDir(), c.changes))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			var problems config.Errors
			require.ErrorAs(t, err, &problems)
			require.Len(t, problems, 1)
			require.ErrorContains(t, problems, c.want)
		})
	}
}

// The largest body that the configuration allows beside the embedded server has to fit into one message of it.
func TestTheLargestBodyReachesTheEmbeddedServer(t *testing.T) {
	const size = 7 << 20
	body := append(bytes.Repeat([]byte("x"), size-2), `"}`...)
	copy(body, `{"text":"`)
	for _, format := range []string{"binary", "structured"} {
		r := start(t, t.TempDir(), map[string]string{"MAX_BODY": "7MiB", "JOURNAL_MAX_BYTES": "28MiB", "NATS_FORMAT": format})
		r.mustPost("msg_1", string(body), http.StatusAccepted)
		m := inStream(t, r.NATSURL(), "TENSORLAKE", 1)[0]
		require.True(t, bytes.Contains(m.Data(), body), "%s: %d bytes", format, len(m.Data()))
		require.NoError(t, r.stop())
	}
}

func TestTwoSinksWhoseStreamsCannotBeBesideEachOtherAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		changes map[string]string
		want    string
	}{
		"one subject": {
			map[string]string{},
			"the sink a publishes under tensorlake.> of the same server, which has subjects in common with tensorlake.>",
		},
		"one under the other": {
			map[string]string{"B_SUBJECT": "tensorlake.failures.{route}"},
			"which has subjects in common with tensorlake.failures.>, and a subject belongs to one stream: " +
				"give each sink subjects of its own, such as b.{route}",
		},
		"beside each other":    {map[string]string{"B_SUBJECT": "failures.{route}"}, ""},
		"on other servers":     {map[string]string{"B_URL": "nats://127.0.0.1:1"}, ""},
		"streams of their own": {map[string]string{"A_CREATE_STREAM": "false", "B_CREATE_STREAM": "false"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			changes := map[string]string{"SINKS": "a=nats,b=nats", "B_STREAM": "B"}
			maps.Copy(changes, tc.changes)
			_, _, err := app.LoadConfig(environment(t.TempDir(), changes))
			if tc.want == "" {
				require.NoError(t, err)
				return
			}
			var problems config.Errors
			require.ErrorAs(t, err, &problems)
			require.Len(t, problems, 1)
			require.ErrorContains(t, problems, tc.want)
			require.Equal(t, "FNBRIDGE_B_SUBJECT", problems[0].Variable)
		})
	}
}

func TestWebhooksAreTakenAtThePath(t *testing.T) {
	r := start(t, t.TempDir(), map[string]string{"PATH": "/hooks/of-us"})
	for path, status := range map[string]int{"/hooks/of-us": 202, "/hooks/of-us/": 202, "/webhooks/tensorlake": 404} {
		id := "msg_" + path
		now := fmt.Sprint(time.Now().Unix())
		got, answer, err := exchange(t, r.Addr().String(), wireRequest{
			line: "POST " + path + " HTTP/1.1", headers: signedHeaders(id, workflow, now), body: workflow,
		}.text(), false)
		require.NoError(t, err)
		require.Equal(t, status, got, answer)
		require.True(t, status == 202 || strings.Contains(answer, "send webhooks to /hooks/of-us"), answer)
	}
	r.awaitLog(r.Addr().String() + "/hooks/of-us")
}
