package nats_test

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// answer has a plain subscriber answer what is published to subject. It ends with the test, or with stop.
func answer(t *testing.T, nc *natsgo.Conn, subject, text string) (stop func()) {
	t.Helper()
	sub, err := nc.Subscribe(subject, func(msg *natsgo.Msg) { _ = msg.Respond([]byte(text)) })
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	return func() { require.NoError(t, sub.Unsubscribe()) }
}

// The stream takes a part of the subjects, and for the rest somebody else answers: a mock that was left behind, a
// service with a reply of its own.
func TestAnAnswerThatIsNotTheStreamsIsNoAcknowledgement(t *testing.T) {
	answers := map[string]struct {
		text string
		kind bridge.FailureKind
		want string
	}{
		"of another stream": {
			`{"stream":"OTHER","seq":7}`, bridge.FailureBlocked, `one of stream "OTHER", not of TENSORLAKE`,
		},
		"a duplicate of another": {
			`{"stream":"OTHER","seq":7,"duplicate":true}`, bridge.FailureBlocked, `one of stream "OTHER", not of TENSORLAKE`,
		},
		"of the name in other letters": {
			`{"stream":"tensorlake","seq":7}`, bridge.FailureBlocked, `one of stream "tensorlake", not of TENSORLAKE`,
		},
		"sequence 0": {`{"stream":"TENSORLAKE","seq":0}`, bridge.FailureRetry, "names no sequence"},
		"without a sequence": {
			`{"stream":"TENSORLAKE","duplicate":true}`, bridge.FailureRetry, "names no sequence",
		},
		"without a stream": {`{"seq":7}`, bridge.FailureBlocked, "no acknowledgement of a stream"},
		"an object":        {`{}`, bridge.FailureBlocked, "no acknowledgement of a stream"},
		"a word":           {`"ok"`, bridge.FailureBlocked, "no acknowledgement of a stream"},
		"no JSON":          {`+OK`, bridge.FailureBlocked, "no acknowledgement of a stream"},
		"nothing":          {``, bridge.FailureBlocked, "no acknowledgement of a stream"},
	}
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	createStream(t, natsserver.JetStream(t, nc), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.workflow.>"},
	})
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "warm")
	elsewhere := sinktest.Event("elsewhere", 0, "elsewhere")
	elsewhere.Route = []string{"document_ingestion", "job"}
	for name, tt := range answers {
		t.Run(name, func(t *testing.T) {
			defer answer(t, nc, "tensorlake.document_ingestion.>", tt.text)()
			results := sink.Publish(t.Context(), []bridge.Event{elsewhere, sinktest.Event("beside", 0, "beside")})
			require.Equal(t, tt.kind, bridge.KindOf(results[0]), "%v", results[0])
			require.ErrorContains(t, results[0], tt.want)
			require.ErrorContains(t, results[0], "not stored: ")
			require.ErrorContains(t, results[0], "tensorlake.document_ingestion.job")
			require.ErrorContains(t, results[0], "somebody else")
			require.NoError(t, results[1], "it holds up no other key")
		})
	}
	require.Len(t, natsserver.Messages(t, nc, "TENSORLAKE"), 2, "the events of its own subjects")
	require.EqualValues(t, len(answers)-1, sink.Duplicates(),
		"the event beside, and nothing that others called a duplicate")
}

// What a stream demands of each message, in a version that is still to come, no try can mend.
func TestWhatAStreamWillNeverTakeIsBlocked(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	createStream(t, natsserver.JetStream(t, nc), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.workflow.>"},
	})
	sink := open(t, options(t, srv.URL()))
	requirePublishes(t, sink, "warm")
	elsewhere := sinktest.Event("elsewhere", 0, "elsewhere")
	elsewhere.Route = []string{"document_ingestion", "job"}
	for code, kind := range map[string]bridge.FailureKind{
		`"code":400,"err_code":19999`: bridge.FailureBlocked,
		`"code":400,"err_code":10002`: bridge.FailureRetry, // the account is full
		`"code":409,"err_code":10158`: bridge.FailureRetry, // an earlier try is in process
		`"code":429,"err_code":10167`: bridge.FailureRetry, // too many requests
		`"code":503,"err_code":19999`: bridge.FailureRetry,
	} {
		stop := answer(t, nc, "tensorlake.document_ingestion.>",
			`{"stream":"TENSORLAKE","error":{`+code+`,"description":"a reason"}}`)
		err := sink.Publish(t.Context(), []bridge.Event{elsewhere})[0]
		require.Equal(t, kind, bridge.KindOf(err), "%s: %v", code, err)
		require.ErrorContains(t, err, "a reason")
		stop()
	}
}

func TestOnlyTheStreamOfDeadLettersAcknowledgesThem(t *testing.T) {
	srv := natsserver.Single(t)
	nc := natsserver.Connect(t, srv.URL())
	js := natsserver.JetStream(t, nc)
	createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}})
	createStream(t, js, natsjs.StreamConfig{Name: "DEAD", Subjects: []string{"dead-letters.>"}})
	sink := open(t, withDeadLetters(t, srv.URL()))
	requireBuries(t, sink, letter("first", 1))
	bury := func() error { return sink.PublishDeadLetters(t.Context(), []bridge.DeadLetter{letter("second", 1)})[0] }

	require.NoError(t, js.DeleteStream(t.Context(), "DEAD"))
	stop := answer(t, nc, deadLetters, `{"stream":"OTHER","seq":7}`)
	err := bury()
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "the letters may have another stream by now: %v", err)
	require.ErrorContains(t, err, `one of stream "OTHER", not of DEAD`)
	err = bury()
	require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "no stream takes the dead-letter subject")
	stop()

	createStream(t, js, natsjs.StreamConfig{Name: "OTHER", Subjects: []string{deadLetters}})
	requireBuries(t, sink, letter("second", 1))

	// They move to the stream of the events, and away again.
	require.NoError(t, js.DeleteStream(t.Context(), "OTHER"))
	_, err = js.UpdateStream(t.Context(), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>", deadLetters},
	})
	require.NoError(t, err)
	requireBuries(t, sink, letter("third", 1))
	require.NoError(t, sink.Check(t.Context()), "it looks at the stream")
	_, err = js.UpdateStream(t.Context(), natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}})
	require.NoError(t, err)
	createStream(t, js, natsjs.StreamConfig{Name: "DEAD", Subjects: []string{deadLetters}})
	requireBuries(t, sink, letter("fourth", 1))
	require.Len(t, natsserver.Letters(t, srv.URL(), "DEAD"), 1)
}

// Which stream takes the dead letters is not known: an acknowledgement of any is then all there is to go by.
func TestDeadLettersOfAnAccountThatMayNotLookUpTheirStream(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "s3cret"},
			{Username: "bridge", Password: "s3cret", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{
					Allow: []string{"tensorlake.>", "dead-letters.>", "$JS.API.STREAM.INFO.*"},
				},
			}},
		}
	})
	nc := natsserver.Connect(t, "nats://admin:s3cret@"+srv.Addr())
	js := natsserver.JetStream(t, nc)
	createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}})
	createStream(t, js, natsjs.StreamConfig{Name: "DEAD", Subjects: []string{deadLetters}})
	sink := open(t, withDeadLetters(t, "nats://bridge:s3cret@"+srv.Addr()))
	requireBuries(t, sink, letter("first", 1))

	require.NoError(t, js.DeleteStream(t.Context(), "DEAD"))
	defer answer(t, nc, deadLetters, `{"stream":"DEAD"}`)()
	err := sink.PublishDeadLetters(t.Context(), []bridge.DeadLetter{letter("second", 1)})[0]
	require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "names no sequence")
}

func TestWhatTheStreamDropsAsADuplicateIsCounted(t *testing.T) {
	srv := natsserver.Single(t)
	sink := open(t, withDeadLetters(t, srv.URL()))
	events := sinktest.Events("repeated", 10, 3)
	for range 3 {
		publish(t, sink, events)
	}
	for range 2 {
		requireBuries(t, sink, letter("repeated", 1))
	}
	require.EqualValues(t, 20, sink.Duplicates(), "a dead letter is no event")
	require.Len(t, natsserver.Messages(t, natsserver.Connect(t, srv.URL()), "TENSORLAKE"), 10+1)
}
