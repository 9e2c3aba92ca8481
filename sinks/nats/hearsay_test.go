package nats_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

// JetStream's API is out of reach, or shows another picture than what is published meets.
func TestTheAcknowledgementOutweighsTheAPI(t *testing.T) {
	type place struct {
		bridge  *natsserver.Server
		stream  *natsgo.Conn
		subject string
		change  func(*nats.Options)
		said    string
	}
	bridgeUser := func(o *nats.Options) { o.User, o.Password = "bridge", "s3cret" }
	tests := map[string]func(t *testing.T) place{
		"the subject is imported from another account": func(t *testing.T) place {
			srv := natsserver.Single(t, natsserver.Accounts(t, `accounts {
				OWNER: { jetstream: enabled, users: [{user: owner, password: s3cret}], exports: [{service: "tensorlake.>"}] }
				GUEST: { users: [{user: bridge, password: s3cret}], `+
				`imports: [{service: {account: OWNER, subject: "tensorlake.>"}}] }
			}`))
			return place{
				srv, natsserver.Connect(t, srv.URL(), natsgo.UserInfo("owner", "s3cret")), "tensorlake.>", bridgeUser,
				"not enabled for account",
			}
		},
		"imported, and the account has streams of its own": func(t *testing.T) place {
			srv := natsserver.Single(t, natsserver.Accounts(t, `accounts {
				OWNER: { jetstream: enabled, users: [{user: owner, password: s3cret}], exports: [{service: "tensorlake.>"}] }
				GUEST: { jetstream: enabled, users: [{user: bridge, password: s3cret}], `+
				`imports: [{service: {account: OWNER, subject: "tensorlake.>"}}] }
			}`))
			return place{
				srv, natsserver.Connect(t, srv.URL(), natsgo.UserInfo("owner", "s3cret")), "tensorlake.>",
				func(o *nats.Options) {
					bridgeUser(o)
					o.CreateStream = false
				},
				"stream TENSORLAKE does not exist",
			}
		},
		"a leaf node's hub has a domain": func(t *testing.T) place {
			hub := natsserver.Single(t, natsserver.ForLeaves(t), func(o *server.Options) { o.JetStreamDomain = "hub" })
			return place{
				natsserver.Leaf(t, hub), natsserver.Connect(t, hub.URL()), "tensorlake.>", func(*nats.Options) {},
				"JetStream does not answer",
			}
		},
		"the account maps the subject": func(t *testing.T) place {
			srv := natsserver.Single(t, natsserver.Accounts(t, `accounts {
				OWNER: { jetstream: enabled, users: [{user: bridge, password: s3cret}], mappings: {"tensorlake.>": "stored.>"} }
			}`))
			return place{
				srv, natsserver.Connect(t, srv.URL(), natsgo.UserInfo("bridge", "s3cret")), "stored.>", bridgeUser,
				"takes the subjects [stored.>]",
			}
		},
	}
	for name, arrange := range tests {
		t.Run(name, func(t *testing.T) {
			p := arrange(t)
			js := natsserver.JetStream(t, p.stream)
			createStream(t, js, natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{p.subject}})
			o := options(t, p.bridge.URL())
			logs := &logbook{}
			o.Logger = logs.logger()
			p.change(&o)
			sink := open(t, o)
			requirePublishes(t, sink, "outweighs")
			require.Len(t, natsserver.Messages(t, p.stream, "TENSORLAKE"), 1, "Check stores nothing")
			require.Equal(t, 1, strings.Count(logs.String(), "although JetStream's API says otherwise"), "%s", logs)
			require.Contains(t, logs.String(), p.said)

			// It is as before when there is nothing behind it.
			require.NoError(t, js.DeleteStream(t.Context(), "TENSORLAKE"))
			require.Eventually(t, func() bool {
				return sink.Publish(t.Context(), sinktest.Events("gone", 1, 1))[0] != nil && sink.Check(t.Context()) != nil
			}, bound, 20*time.Millisecond)
		})
	}
}

func TestStreamsThatLoseWhatTheyAcknowledge(t *testing.T) {
	tests := map[string]natsjs.StreamConfig{
		"persist_mode async":                              {PersistMode: natsjs.AsyncPersistMode},
		"more than 7 messages":                            {MaxMsgs: 7, MaxAge: time.Hour},
		"they may not stay for 1h0m0s":                    {MaxBytes: 1 << 20, MaxAge: time.Hour},
		"they may not stay for good":                      {MaxMsgsPerSubject: 3},
		"more than 3 messages of a subject":               {MaxMsgsPerSubject: 3},
		"drops at once what no consumer is interested in": {Retention: natsjs.InterestPolicy},
		"events go once they are consumed":                {Retention: natsjs.WorkQueuePolicy},
	}
	for want, config := range tests {
		t.Run(want, func(t *testing.T) {
			srv := natsserver.Single(t)
			config.Name, config.Subjects, config.Duplicates = "TENSORLAKE", []string{"tensorlake.>"}, 10*time.Minute
			createStream(t, natsserver.JetStream(t, natsserver.Connect(t, srv.URL())), config)
			o := options(t, srv.URL())
			o.MaxAge = config.MaxAge
			logs := &logbook{}
			o.Logger = logs.logger()
			requirePublishes(t, open(t, o), "loses")
			require.Equal(t, 1, strings.Count(logs.String(), "WARN"), "%s", logs)
			require.Contains(t, logs.String(), want)
		})
	}
}

// JetStream, behind a leaf node, goes and comes back with nothing published while it is there. The bridge's own
// connection stays.
func TestSilenceIsCountedAnew(t *testing.T) {
	t.Parallel()
	hub := natsserver.Single(t, natsserver.ForLeaves(t), func(o *server.Options) { o.JetStreamDomain = "hub" })
	leaf := natsserver.Leaf(t, hub)
	o := options(t, leaf.URL())
	o.APIPrefix = "$JS.hub.API"
	o.AckTimeout = 2 * time.Second
	sink := open(t, o)
	requirePublishes(t, sink, "warm")
	off := func() {
		t.Helper()
		hub.Stop(t)
		require.Eventually(t, func() bool { return leaf.Running().NumLeafNodes() == 0 }, bound, time.Millisecond)
		for _, err := range []error{sink.Publish(t.Context(), sinktest.Events("silent", 1, 1))[0], sink.Check(t.Context())} {
			require.Error(t, err)
			require.Equal(t, bridge.FailureRetry, bridge.KindOf(err), "%v", err)
		}
	}
	on := func() {
		t.Helper()
		hub.Start(t)
		require.Eventually(t, func() bool { return leaf.Running().NumLeafNodes() == 1 }, bound, time.Millisecond)
	}
	off()
	first := time.Now()
	on()
	require.Eventually(t, func() bool {
		return sink.Check(t.Context()) == nil && time.Since(first) > 4*o.AckTimeout
	}, bound, 20*time.Millisecond)
	off()
	var err error
	require.Eventually(t, func() bool {
		err = sink.Publish(t.Context(), sinktest.Events("silent", 1, 1))[0]
		return bridge.KindOf(err) == bridge.FailureBlocked
	}, bound, 20*time.Millisecond, "a silence that lasts is for a person to mend: %v", &err)
	on()
	requireOne(t, sink, sinktest.Event("back", 0, "back"))
}
