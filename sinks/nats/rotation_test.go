package nats_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// mounted are settings whose texts are in files.
type mounted struct {
	dir   string
	files *reload.Files
}

func mount(t *testing.T, o *nats.Options, texts map[string]string) mounted {
	t.Helper()
	m := mounted{dir: t.TempDir(), files: reload.New(o.Logger)}
	for setting, text := range texts {
		m.write(t, setting, text)
	}
	o.Files = m.files.Part(func(setting string) reload.Source {
		if _, ok := texts[setting]; !ok {
			return reload.Source{Variable: setting}
		}
		return reload.Source{Variable: setting, Path: m.path(setting)}
	})
	return m
}

func (m mounted) path(setting string) string { return filepath.Join(m.dir, setting) }

func (m mounted) write(t *testing.T, setting, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(m.path(setting), []byte(text), 0o600))
}

func content(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(text)
}

// inFlight is the most that load has in flight: so many workers, with so many events each.
const (
	workers, batch = 4, 5
	inFlight       = workers * batch
)

// load publishes until stop, each event until it is acknowledged.
type load struct {
	acknowledged, again, blocked atomic.Int64
	last                         atomic.Value // why an event was sent again
	stopped                      atomic.Bool
	running                      sync.WaitGroup
}

func publishAllTheTime(t *testing.T, sink *nats.Sink) *load {
	t.Helper()
	l := &load{}
	for worker := range workers {
		l.running.Go(func() {
			for n := 0; !l.stopped.Load(); n++ {
				events := sinktest.Events(fmt.Sprintf("worker-%d-%d", worker, n), batch, batch)
				for len(events) > 0 && t.Context().Err() == nil {
					var left []bridge.Event
					for i, err := range sink.Publish(t.Context(), events) {
						switch {
						case err == nil:
							l.acknowledged.Add(1)
							continue
						case bridge.KindOf(err) == bridge.FailureBlocked:
							l.blocked.Add(1)
						default:
							l.again.Add(1)
							l.last.Store(err.Error())
						}
						left = append(left, events[i])
					}
					events = left
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stopped.Store(true)
	l.running.Wait()
}

// goesOn waits until a few more events were acknowledged.
func (l *load) goesOn(t *testing.T) {
	t.Helper()
	want := l.acknowledged.Load() + 50
	require.Eventually(t, func() bool { return l.acknowledged.Load() >= want }, bound, 5*time.Millisecond)
}

func TestCredentialsAreRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	oldSeed, oldPublic := newNKey(t)
	newSeed, newPublic := newNKey(t)
	operator := natsserver.NewOperator(t)
	account := operator.Account(t)
	oldCA, newCA := testcert.New(t), testcert.New(t)
	users := func(users ...*server.User) func(*server.Options) {
		return func(o *server.Options) { o.Users = users }
	}
	one, two := &server.User{Username: "one", Password: "old"}, &server.User{Username: "two", Password: "new"}
	keys := func(keys ...string) func(*server.Options) {
		return func(o *server.Options) {
			o.Nkeys = nil
			for _, key := range keys {
				o.Nkeys = append(o.Nkeys, &server.NkeyUser{Nkey: key})
			}
		}
	}
	certificates := func(ca *testcert.CA) func(*server.Options) {
		return func(o *server.Options) { o.TLSConfig, o.TLSVerify = ca.ServerTLS(t, true), true }
	}
	files := func(ca *testcert.CA) map[string]string {
		return map[string]string{
			"TLS_CA_FILE":   content(t, oldCA.CAFile) + content(t, newCA.CAFile),
			"TLS_CERT_FILE": content(t, ca.ClientCertFile), "TLS_KEY_FILE": content(t, ca.ClientKeyFile),
		}
	}
	for name, tt := range map[string]struct {
		configure   func(*server.Options)                // the server at first
		both, after func(*server.Options)                // while it takes both, if it can, and in the end
		options     func(o *nats.Options, mount mounted) // beside the files
		old, new    map[string]string
	}{
		"user and password": {
			users(one), users(one, two), users(two), nil,
			map[string]string{"USER": "one", "PASSWORD": "old"},
			map[string]string{"USER": "two", "PASSWORD": "new"},
		},
		"token": {
			func(o *server.Options) { o.Authorization = "old" }, nil, func(o *server.Options) { o.Authorization = "new" }, nil,
			map[string]string{"TOKEN": "old"},
			map[string]string{"TOKEN": "new"},
		},
		"nkey": {
			keys(oldPublic), keys(oldPublic, newPublic), keys(newPublic),
			func(o *nats.Options, m mounted) { o.NKeyFile = m.path("NKEY_FILE") },
			map[string]string{"NKEY_FILE": content(t, oldSeed)},
			map[string]string{"NKEY_FILE": content(t, newSeed)},
		},
		"credentials file": {
			operator.Configure, func(*server.Options) {}, nil,
			func(o *nats.Options, m mounted) { o.CredsFile = m.path("CREDS_FILE") },
			map[string]string{"CREDS_FILE": content(t, account.Creds(t, time.Hour))},
			map[string]string{"CREDS_FILE": content(t, account.Creds(t, 2*time.Hour))},
		},
		"client certificate": {
			certificates(oldCA), nil, certificates(newCA),
			func(o *nats.Options, m mounted) {
				o.TLSCAFile, o.TLSCertFile, o.TLSKeyFile = m.path("TLS_CA_FILE"), m.path("TLS_CERT_FILE"), m.path("TLS_KEY_FILE")
			},
			files(oldCA), files(newCA),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := natsserver.Single(t, tt.configure)
			logs := &logbook{}
			o := options(t, srv.URL())
			o.Logger = logs.logger()
			m := mount(t, &o, tt.old)
			if tt.options != nil {
				tt.options(&o, m)
			}
			sink := open(t, o)
			requirePublishes(t, sink, "before")
			l := publishAllTheTime(t, sink)
			l.goesOn(t)

			if tt.both != nil && tt.after != nil {
				srv.Reload(t, tt.both)
			}
			// A half of it, or none, is nothing to log in with.
			broken := []string{"CREDS_FILE", "NKEY_FILE", "TLS_KEY_FILE"}
			for _, setting := range broken {
				if _, ok := tt.old[setting]; ok {
					m.write(t, setting, "nothing of use")
					m.files.Refresh()
					require.Contains(t, logs.String(), "cannot be used")
				}
			}
			for setting, text := range tt.new {
				m.write(t, setting, text)
			}
			m.files.Refresh()
			for _, state := range m.files.States() {
				require.Empty(t, state.Refused)
				require.EqualValues(t, 1, state.Taken)
			}
			if tt.both == nil {
				// The server refuses the new ones still, and the old connection serves on.
				require.Eventually(t, func() bool {
					l.goesOn(t)
					return strings.Contains(logs.String(), "those that were made before stay in use")
				}, bound, 10*time.Millisecond)
				require.Equal(t, "credentials_refused", sink.Warnings()[0].Key)
			} else {
				require.Eventually(t, func() bool {
					l.goesOn(t)
					return strings.Contains(logs.String(), "connected to NATS anew")
				}, bound, 10*time.Millisecond)
			}
			l.goesOn(t) // the new connection has what the old one had
			if tt.after != nil {
				srv.Reload(t, tt.after)
			}
			l.goesOn(t)
			requirePublishes(t, sink, "after")
			requireNoRefusal(t, sink)
			l.end()
			if tt.both != nil {
				require.LessOrEqual(t, l.again.Load(), int64(inFlight),
					"more had to be sent again than the old connection may still have had when the server ended it: %v", l.last.Load())
			}
			require.Zero(t, l.blocked.Load(), "events were refused")
			t.Logf("%d events acknowledged, %d sent again, %d refused",
				l.acknowledged.Load(), l.again.Load(), l.blocked.Load())
		})
	}
}

func requireNoRefusal(t *testing.T, sink *nats.Sink) {
	t.Helper()
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(sink.Warnings(), func(w bridge.Warning) bool { return w.Key == "credentials_refused" })
	}, bound, 10*time.Millisecond)
}

// What a server refuses shows in the state of the sink for as long as the old connection hides it.
func TestRefusedCredentialsAreWarnedOfWhileTheOldOnesServe(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t, func(o *server.Options) { o.Authorization = "right" })
	o := options(t, srv.URL())
	m := mount(t, &o, map[string]string{"TOKEN": "right"})
	sink := open(t, o)
	requirePublishes(t, sink, "before")
	requireNoRefusal(t, sink)

	m.write(t, "TOKEN", "wr0ng")
	m.files.Refresh()
	require.Eventually(t, func() bool {
		warnings := sink.Warnings()
		return len(warnings) > 0 && warnings[0].Key == "credentials_refused"
	}, bound, 10*time.Millisecond)
	text := sink.Warnings()[0].Text
	require.Contains(t, text, "refuses the credentials; check TOKEN")
	require.NotContains(t, text, "wr0ng")
	requirePublishes(t, sink, "meanwhile")

	m.write(t, "TOKEN", "right")
	m.files.Refresh()
	requireNoRefusal(t, sink)
	requirePublishes(t, sink, "after")

	// Without the old connection the sink itself is blocked, and there is nothing hidden to warn of.
	m.write(t, "TOKEN", "wr0ng")
	m.files.Refresh()
	srv.Stop(t)
	srv.Start(t)
	requireBlocked(t, sink, "refuses the credentials")
	requireNoRefusal(t, sink)
}

// A refused credential is replaced by the next one at once.
func TestNewCredentialsEndABlockedSink(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t, func(o *server.Options) { o.Username, o.Password = "bridge", "new-s3cret" })
	o := options(t, srv.URL())
	m := mount(t, &o, map[string]string{"USER": "bridge", "PASSWORD": "old-s3cret"})
	sink := open(t, o)
	requireBlocked(t, sink, "refuses the credentials")
	m.write(t, "PASSWORD", "new-s3cret")
	m.files.Refresh()
	requirePublishes(t, sink, "after")
}

// New credentials may be those of another account, whose stream of the same name is another one. It is further on, so
// that no number that it gives shows that.
func TestNewCredentialsThatLeadToAnotherStreamAreNoticedAtOnce(t *testing.T) {
	srv := natsserver.Single(t, natsserver.Accounts(t, `accounts {
		ONE: { jetstream: enabled, users: [{user: one, password: s3cret}] }
		TWO: { jetstream: enabled, users: [{user: two, password: s3cret}] }
	}`))
	other := "nats://two:s3cret@" + srv.Addr()
	createStream(t, natsserver.JetStream(t, natsserver.Connect(t, other)), natsjs.StreamConfig{
		Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}, FirstSeq: 1_000_000,
	})
	o := options(t, srv.URL())
	m := mount(t, &o, map[string]string{"USER": "one", "PASSWORD": "s3cret"})
	sink := open(t, o)
	requirePublishes(t, sink, "before")

	m.write(t, "USER", "two")
	m.files.Refresh()
	for n := 0; storedIn(t, other, "TENSORLAKE") == 0; n++ {
		publish(t, sink, sinktest.Events(fmt.Sprint("after-", n), 1, 1))
	}
	found := sink.HighWater().Found()
	require.Len(t, found, 1, "what the first account's stream has is not in this one")
	require.True(t, found[0].Another)
}

// Publish may take longer to end than a call takes to send. What it has on its way then is not to be sent again.
func TestAConnectionWhoseCredentialsAreOldLastsAsLongAsTheCallsThatUseIt(t *testing.T) {
	t.Parallel()
	srv := natsserver.Single(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "one", Password: "s3cret"}, {Username: "two", Password: "s3cret"}}
	})
	proxy := faultproxy.New(t, srv.Addr())
	logs := &logbook{}
	o := options(t, "nats://"+proxy.Addr())
	o.Logger = logs.logger()
	m := mount(t, &o, map[string]string{"USER": "one", "PASSWORD": "s3cret"})
	// One event after the other, each acknowledged in time: the last one is sent at 3.9 of the timeout.
	proxy.Distance(ackTimeout * 39 / 100)
	o.AckTimeout = ackTimeout
	sink := open(t, o)
	requirePublishes(t, sink, "before")
	proxy.Distance(0)

	results := make(chan []error)
	go func() { results <- sink.Publish(t.Context(), sinktest.Events("slow", 10, 1)) }()
	url := "nats://one:s3cret@" + srv.Addr()
	require.Eventually(t, func() bool { return storedIn(t, url, "TENSORLAKE") > 1 }, bound, 5*time.Millisecond)
	m.write(t, "USER", "two")
	m.files.Refresh()
	for _, err := range <-results {
		if err != nil {
			require.NotContains(t, err.Error(), "another connection to NATS has taken its place")
		}
	}
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "connected to NATS anew") }, bound,
		20*time.Millisecond)
}
