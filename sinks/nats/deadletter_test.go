package nats_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func withDeadLetters(t *testing.T, url string) nats.Options {
	t.Helper()
	o := options(t, url)
	o.DeadLetter = deadLetters
	return o
}

func letter(name string, attempts int) bridge.DeadLetter {
	return bridge.DeadLetter{Event: sinktest.Event(name, 0, name), Reason: "it is too large", Attempts: attempts}
}

// requireBuries waits until a dead letter gets through.
func requireBuries(t *testing.T, sink *nats.Sink, l bridge.DeadLetter) {
	t.Helper()
	var last error
	require.Eventually(t, func() bool {
		last = sink.PublishDeadLetters(t.Context(), []bridge.DeadLetter{l})[0]
		return last == nil
	}, bound, 20*time.Millisecond, "the letter does not get through")
	require.NoError(t, last)
	require.NoError(t, sink.CheckDeadLetters(t.Context()))
}

// requireLettersBlocked checks what is said of dead letters that cannot be published, and that events can be.
func requireLettersBlocked(t *testing.T, sink *nats.Sink, want string) {
	t.Helper()
	requirePublishes(t, sink, "beside")
	err := sink.PublishDeadLetters(t.Context(), []bridge.DeadLetter{letter("blocked", 1)})[0]
	require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, want)
}

func TestCreatedStreamTakesDeadLetters(t *testing.T) {
	srv := natsserver.Single(t)
	logs := &logbook{}
	o := withDeadLetters(t, srv.URL())
	o.Logger = logs.logger()
	sink := open(t, o)
	requireBuries(t, sink, letter("buried", 3)) // the stream need not be there first
	nc := natsserver.Connect(t, srv.URL())
	require.Equal(t, []string{"tensorlake.>", deadLetters}, streamConfig(t, natsserver.JetStream(t, nc)).Subjects)
	require.NotContains(t, logs.String(), "WARN")

	messages := natsserver.Messages(t, nc, "TENSORLAKE")
	require.Len(t, messages, 1)
	require.Equal(t, deadLetters, messages[0].Subject())
	headers := messages[0].Headers()
	require.Equal(t, "it is too large", headers.Get("fnbridge-reason"))
	require.Equal(t, "3", headers.Get("fnbridge-attempts"))
	require.Equal(t, "tensorlake.workflow.buried.fn_0.success", headers.Get("fnbridge-address"))
	require.Equal(t, "buried-0", headers.Get("ce-id"))
}

func TestRepeatedDeadLetterIsDropped(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, withDeadLetters(t, srv.URL()))
	name := withDeadLetters(t, srv.URL())
	name.Name = "audit"
	other := open(t, name)
	requirePublishes(t, sink, "one") // an event's own ID is another than its letter's
	requireBuries(t, sink, letter("one", 1))
	requireBuries(t, sink, letter("one", 1)) // after a crash
	requireBuries(t, sink, letter("one", 2)) // after another try
	requireBuries(t, other, letter("one", 1))

	var letters, events []string
	for _, m := range natsserver.Messages(t, natsserver.Connect(t, srv.URL()), "TENSORLAKE") {
		if m.Subject() == deadLetters {
			letters = append(letters, m.Headers().Get("fnbridge-attempts"))
		} else {
			events = append(events, m.Headers().Get("ce-id"))
		}
	}
	require.Equal(t, []string{"1", "2", "1"}, letters)
	require.Equal(t, []string{"one-0"}, events)
}

func TestDeadLettersInAStreamOfTheirOwn(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	js := natsserver.JetStream(t, nc)
	createStream(t, js, natsjs.StreamConfig{Name: "DEAD", Subjects: []string{"dead-letters.>"}, MaxMsgSize: 2048})
	logs := &logbook{}
	o := withDeadLetters(t, srv.URL())
	o.Logger = logs.logger()
	sink := open(t, o)
	requirePublishes(t, sink, "event")
	large := letter("large", 1)
	large.Event.Data = []byte(`"` + strings.Repeat("x", 2048) + `"`)
	requireBuries(t, sink, letter("small", 1))
	requireBuries(t, sink, large)
	require.Equal(t, []string{"tensorlake.>"}, streamConfig(t, js).Subjects)
	require.NotContains(t, logs.String(), "WARN")
	letters := natsserver.Letters(t, srv.URL(), "DEAD")
	require.Len(t, letters, 2)
	require.Equal(t, "omitted", letters[1].Headers["fnbridge-data"], "the stream's own limit counts")
	require.Empty(t, letters[1].Event.Data)

	// Without the events' stream, letters still find theirs.
	require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
	createStream(t, js, natsjs.StreamConfig{Name: "ANOTHER", Subjects: []string{"tensorlake.>"}})
	requireBlocked(t, sink, "another stream")
	requireBuries(t, sink, letter("later", 1))
}

func TestDeadLettersThatNoStreamTakes(t *testing.T) {
	srv := natsserver.Single(t)
	js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
	existing := natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, MaxAge: 168 * time.Hour, Duplicates: 10 * time.Minute,
	}
	createStream(t, js, existing)
	logs := &logbook{}
	o := withDeadLetters(t, srv.URL())
	o.Logger = logs.logger()
	sink := open(t, o)
	const want = "no stream takes the dead-letter subject dead-letters.tensorlake; " +
		"add it to the subjects of stream TENSORLAKE, or create a stream for it"
	requireLettersBlocked(t, sink, want)
	err := sink.CheckDeadLetters(t.Context())
	require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, want)
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), want) },
		bound, 20*time.Millisecond, "the log is not told")
	require.Equal(t, 1, strings.Count(logs.String(), "WARN"), "%s", logs)
	require.Equal(t, []string{"tensorlake.>"}, streamConfig(t, js).Subjects, "an existing stream is not altered")

	// Somebody mends it, and undoes that again.
	withLetters := existing
	withLetters.Subjects = []string{"tensorlake.>", deadLetters}
	_, err = js.UpdateStream(t.Context(), withLetters)
	require.NoError(t, err)
	requireBuries(t, sink, letter("mended", 1))
	_, err = js.UpdateStream(t.Context(), existing)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		err = sink.PublishDeadLetters(t.Context(), []bridge.DeadLetter{letter("again", 1)})[0]
		return bridge.KindOf(err) == bridge.FailureBlocked
	}, bound, 20*time.Millisecond)
	requirePublishes(t, sink, "undisturbed")
}

func TestAccountMayNotPublishDeadLetters(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "bridge", Password: "s3cret", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{
				Allow: []string{"tensorlake.>", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*"},
			},
		}}}
	})
	sink := open(t, withDeadLetters(t, "nats://bridge:s3cret@"+srv.Addr()))
	requireLettersBlocked(t, sink, "the account lacks a permission")
	require.NoError(t, sink.CheckDeadLetters(t.Context()), "it may not ask, so nothing is known")
}

func TestDeadLetterIsNeverPlain(t *testing.T) {
	srv := natsserver.Single(t)
	o := withDeadLetters(t, srv.URL())
	o.Format = cloudevents.Plain
	requireBuries(t, open(t, o), letter("plain", 1))
	messages := natsserver.Messages(t, natsserver.Connect(t, srv.URL()), "TENSORLAKE")
	require.Len(t, messages, 1)
	require.Equal(t, "plain-0", messages[0].Headers().Get("ce-id"), "a reader has to know which event it is")
	require.Equal(t, sinktest.Event("plain", 0, "plain").Data, messages[0].Data())
}

func TestNoDeadLetterSubject(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, options(t, srv.URL()))
	require.Empty(t, sink.DeadLetterAddress())
	require.NoError(t, sink.CheckDeadLetters(t.Context()))
	err := sink.PublishDeadLetters(t.Context(), []bridge.DeadLetter{letter("none", 1)})[0]
	require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err), "%v", err)
}

func TestValidateDeadLetter(t *testing.T) {
	for subject, want := range map[string]string{
		"dead-letters.tensorlake":        "",
		"dead":                           "",
		"tensorlake":                     "",
		"tensorlake-dead":                "",
		"tensorlake.dead":                "is among the subjects of the events (tensorlake.>)",
		"dead.*":                         "not one fixed subject",
		"dead.>":                         "not one fixed subject",
		"dead.{status}":                  "not one fixed subject",
		"dead.}":                         "not one fixed subject",
		"dead..letters":                  "empty token",
		"dead letters":                   "a character that a subject cannot",
		"":                               "a subject is needed",
		"$JS.API.STREAM.PURGE.X":         "begins with $",
		"_INBOX.x":                       "begins with _INBOX",
		"d." + strings.Repeat("d", 2000): "too long",
	} {
		err := nats.ValidateDeadLetter(subject, template(t, "tensorlake.{route}"))
		if want == "" {
			require.NoError(t, err, subject)
			continue
		}
		require.ErrorContains(t, err, want, subject)
	}
	require.ErrorContains(t, nats.ValidateDeadLetter("events", template(t, "events")), "is among the subjects")

	_, err := nats.New(nats.Options{URL: "nats://a", Stream: "A", Subject: template(t, "a.{route}"), DeadLetter: "a.b"})
	require.ErrorContains(t, err, "dead-letter subject:")
}
