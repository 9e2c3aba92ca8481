package nats_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

const bound = time.Minute

func open(t *testing.T, o nats.Options) *nats.Sink {
	t.Helper()
	sink := newSink(t, o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		require.NoError(t, sink.Close(ctx))
	})
	return sink
}

// requirePublishes waits until an event gets through.
func requirePublishes(t *testing.T, sink *nats.Sink, name string) {
	t.Helper()
	var last error
	require.Eventually(t, func() bool {
		last = sink.Publish(t.Context(), sinktest.Events(name, 1, 1))[0]
		return last == nil
	}, bound, 20*time.Millisecond)
	require.NoError(t, last)
	requireCheckPasses(t, sink)
}

// requireCheckPasses waits until the sink is well.
func requireCheckPasses(t *testing.T, sink *nats.Sink) {
	t.Helper()
	require.Eventually(t, func() bool { return sink.Check(t.Context()) == nil }, bound, 20*time.Millisecond)
}

// requireBlocked checks what Publish and Check say, once they have noticed.
func requireBlocked(t *testing.T, sink *nats.Sink, want string) {
	t.Helper()
	var last error
	require.Eventually(t, func() bool {
		last = sink.Publish(t.Context(), sinktest.Events("blocked", 1, 1))[0]
		return last != nil && bridge.KindOf(last) == bridge.FailureBlocked
	}, bound, 20*time.Millisecond, "Publish is not blocked")
	require.ErrorContains(t, last, want)
	require.NotContains(t, last.Error(), "s3cret")
	require.Eventually(t, func() bool {
		last = sink.Check(t.Context())
		return last != nil && bridge.KindOf(last) == bridge.FailureBlocked
	}, bound, 20*time.Millisecond, "Check is not blocked")
	require.ErrorContains(t, last, want)
	require.NotContains(t, last.Error(), "s3cret")
}

// logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestAuthentication(t *testing.T) {
	seedFile, public := newNKey(t)
	operator := natsserver.NewOperator(t)
	account := operator.Account(t)
	tests := map[string]struct {
		server func(*server.Options)
		right  func(*nats.Options)
		wrong  func(*nats.Options)
	}{
		"user and password": {
			func(o *server.Options) { o.Username, o.Password = "bridge", "s3cret" },
			func(o *nats.Options) { o.User, o.Password = "bridge", "s3cret" },
			func(o *nats.Options) { o.User, o.Password = "bridge", "wrong-s3cret" },
		},
		"user and password in the URL": {
			func(o *server.Options) { o.Username, o.Password = "bridge", "s3cret/@" },
			func(o *nats.Options) { o.URL = strings.Replace(o.URL, "://", "://bridge:s3cret%2F%40@", 1) },
			func(o *nats.Options) { o.URL = strings.Replace(o.URL, "://", "://bridge:wrong-s3cret@", 1) },
		},
		"token": {
			func(o *server.Options) { o.Authorization = "s3cret" },
			func(o *nats.Options) { o.Token = "s3cret" },
			func(*nats.Options) {},
		},
		"nkey": {
			func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} },
			func(o *nats.Options) { o.NKeyFile = seedFile },
			func(o *nats.Options) { o.NKeyFile, _ = newNKey(t) },
		},
		"credentials file": {
			operator.Configure,
			func(o *nats.Options) { o.CredsFile = account.Creds(t, time.Hour) },
			func(o *nats.Options) { o.CredsFile = natsserver.NewOperator(t).Account(t).Creds(t, time.Hour) },
		},
		"expired credentials": {
			operator.Configure,
			func(o *nats.Options) { o.CredsFile = account.Creds(t, time.Hour) },
			func(o *nats.Options) { o.CredsFile = account.Creds(t, -time.Hour) },
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := natsserver.Single(t, tt.server)
			right := options(t, srv.URL())
			tt.right(&right)
			requirePublishes(t, open(t, right), "right")

			wrong := options(t, srv.URL())
			logs := &logbook{}
			wrong.Logger = logs.logger()
			tt.wrong(&wrong)
			requireBlocked(t, open(t, wrong), "refuses the credentials")
			require.NotContains(t, logs.String(), "s3cret")
		})
	}
}

func TestCredentialsAreMended(t *testing.T) {
	srv := natsserver.Single(t, func(o *server.Options) { o.Username, o.Password = "bridge", "old-s3cret" })
	o := options(t, srv.URL())
	o.User, o.Password = "bridge", "old-s3cret"
	sink := open(t, o)
	requirePublishes(t, sink, "before")
	srv.Reload(t, func(o *server.Options) { o.Password = "another-s3cret" })
	requireBlocked(t, sink, "refuses the credentials")
	srv.Reload(t, func(o *server.Options) { o.Password = "old-s3cret" })
	requirePublishes(t, sink, "after")
}

func TestFilesAreReadAgain(t *testing.T) {
	seedFile, public := newNKey(t)
	srv := natsserver.Single(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	o := options(t, srv.URL())
	o.NKeyFile = filepath.Join(t.TempDir(), "later.nk")
	files := reload.New(nil)
	o.Files = files.Part(func(setting string) reload.Source { return reload.Source{Variable: setting} })
	sink := open(t, o)
	requireBlocked(t, sink, "later.nk")

	seed, err := os.ReadFile(seedFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(o.NKeyFile, seed, 0o600))
	files.Refresh()
	requirePublishes(t, sink, "first")

	otherSeedFile, otherPublic := newNKey(t)
	srv.Reload(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: otherPublic}} })
	requireBlocked(t, sink, "refuses the credentials")
	seed, err = os.ReadFile(otherSeedFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(o.NKeyFile, seed, 0o600))
	files.Refresh()
	requirePublishes(t, sink, "second")
}

func TestUnusableCredentialsFile(t *testing.T) {
	srv := natsserver.Single(t, natsserver.NewOperator(t).Configure)
	o := options(t, srv.URL())
	o.CredsFile = filepath.Join(t.TempDir(), "bridge.creds")
	require.NoError(t, os.WriteFile(o.CredsFile, []byte("s3cret but no credentials"), 0o600))
	requireBlocked(t, open(t, o), "credentials")
}

func permissions(publish, subscribe *server.SubjectPermission) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "bridge", Password: "s3cret", Permissions: &server.Permissions{Publish: publish, Subscribe: subscribe}},
		}
	}
}

func TestPermissions(t *testing.T) {
	inbox := &server.SubjectPermission{Allow: []string{"_INBOX.>"}}
	tests := map[string]struct {
		publish, subscribe *server.SubjectPermission
		want               string // empty: it works
	}{
		"what is needed": {&server.SubjectPermission{Allow: []string{
			"tensorlake.>", "$JS.API.STREAM.INFO.TENSORLAKE", "$JS.API.STREAM.CREATE.TENSORLAKE",
		}}, inbox, ""},
		"only publishing": {&server.SubjectPermission{Allow: []string{"tensorlake.>"}}, inbox, ""},
		"no creating": {
			&server.SubjectPermission{Allow: []string{"tensorlake.>", "$JS.API.STREAM.INFO.*"}}, inbox, "",
		},
		"not publishing": {
			&server.SubjectPermission{Allow: []string{"$JS.API.>"}}, inbox,
			`Publish to "tensorlake.workflow.blocked.fn_0.success"`,
		},
		"an inbox of its own not": {nil, &server.SubjectPermission{Deny: []string{"_INBOX.>"}}, `Subscription to "_INBOX`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := natsserver.Single(t, permissions(tt.publish, tt.subscribe))
			admin := natsserver.Connect(t, srv.URL(), natsgo.UserInfo("admin", "admin"))
			_, err := natsserver.JetStream(t, admin).CreateStream(t.Context(),
				natsjs.StreamConfig{Name: "TENSORLAKE", Subjects: []string{"tensorlake.>"}})
			require.NoError(t, err)
			o := options(t, srv.URL())
			o.User, o.Password = "bridge", "s3cret"
			sink := open(t, o)
			if tt.want == "" {
				requirePublishes(t, sink, "allowed")
				return
			}
			var failure error
			require.Eventually(t, func() bool {
				began := time.Now()
				failure = sink.Publish(t.Context(), sinktest.Events("blocked", 1, 1))[0]
				return bridge.KindOf(failure) == bridge.FailureBlocked && time.Since(began) < patience
			}, bound, 20*time.Millisecond)
			require.ErrorContains(t, failure, tt.want)
			require.ErrorContains(t, failure, "permission")
		})
	}
}

func TestDeniedSubjectHoldsUpNoOther(t *testing.T) {
	srv := natsserver.Single(t,
		permissions(&server.SubjectPermission{Deny: []string{"tensorlake.workflow.secret.>"}}, nil))
	o := options(t, srv.URL())
	o.User, o.Password = "bridge", "s3cret"
	sink := open(t, o)
	require.Equal(t, bridge.FailureBlocked,
		bridge.KindOf(sink.Publish(t.Context(), sinktest.Events("secret", 1, 1))[0]))
	require.NoError(t, sink.Check(t.Context()), "the others get through")
	events := append(sinktest.Events("open", 10, 2), sinktest.Events("secret", 3, 1)...)
	events = append(events, sinktest.Events("later", 10, 2)...)
	for i, err := range sink.Publish(t.Context(), events) {
		if 10 <= i && i < 13 {
			require.Equal(t, bridge.FailureBlocked, bridge.KindOf(err), "%v", err)
			continue
		}
		require.NoError(t, err)
	}
}

func TestTLS(t *testing.T) {
	ca, stranger := testcert.New(t), testcert.New(t)
	withTLS := func(requireClient bool) func(*server.Options) {
		return func(o *server.Options) {
			o.TLSConfig = ca.ServerTLS(t, requireClient)
			o.TLSVerify = requireClient
		}
	}
	full := func(o *nats.Options) {
		o.TLSCAFile, o.TLSCertFile, o.TLSKeyFile = ca.CAFile, ca.ClientCertFile, ca.ClientKeyFile
	}
	tests := map[string]struct {
		server  func(*server.Options)
		options func(*nats.Options)
		want    string // empty: it works
	}{
		"private authority": {withTLS(false), func(o *nats.Options) { o.TLSCAFile = ca.CAFile }, ""},
		"scheme tls": {
			withTLS(false),
			func(o *nats.Options) { o.TLSCAFile, o.URL = ca.CAFile, strings.Replace(o.URL, "nats://", "tls://", 1) }, "",
		},
		"client certificate":       {withTLS(true), full, ""},
		"another authority":        {withTLS(false), func(o *nats.Options) { o.TLSCAFile = stranger.CAFile }, "authorit"},
		"the system's authorities": {withTLS(false), func(*nats.Options) {}, "authorit"},
		"no client certificate":    {withTLS(true), func(o *nats.Options) { o.TLSCAFile = ca.CAFile }, "certificate"},
		"a stranger's certificate": {withTLS(true), func(o *nats.Options) {
			full(o)
			o.TLSCertFile, o.TLSKeyFile = stranger.ClientCertFile, stranger.ClientKeyFile
		}, "certificate"},
		"an expired certificate": {withTLS(true), func(o *nats.Options) {
			full(o)
			o.TLSCertFile, o.TLSKeyFile = ca.IssueExpired(t, "expired")
		}, "certificate"},
		"a server without TLS": {func(*server.Options) {}, full, "the server has none"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := natsserver.Single(t, tt.server)
			o := options(t, srv.URL())
			tt.options(&o)
			sink := open(t, o)
			if tt.want == "" {
				requirePublishes(t, sink, "tls")
				return
			}
			requireBlocked(t, sink, tt.want)
		})
	}
}

func TestFilesOfTLSThatCannotBeUsed(t *testing.T) {
	ca := testcert.New(t)
	o := options(t, "tls://127.0.0.1:1")
	o.TLSCAFile, o.TLSCertFile, o.TLSKeyFile = "/missing/ca.pem", ca.ClientCertFile, "/missing/key.pem"
	_, err := nats.New(o)
	require.ErrorContains(t, err, "TLS_CA_FILE: open /missing/ca.pem")
	require.ErrorContains(t, err, "TLS_KEY_FILE: open /missing/key.pem")
}

func TestCertificatesAreReadAgain(t *testing.T) {
	ca := testcert.New(t)
	var current tls.Certificate
	var mu sync.Mutex
	srv := natsserver.Single(t, func(o *server.Options) {
		config := ca.ServerTLS(t, false)
		current = config.Certificates[0]
		config.Certificates = nil
		config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			return &current, nil
		}
		o.TLSConfig = config
	})
	o := options(t, srv.URL())
	o.TLSCAFile = ca.CAFile
	files := reload.New(nil)
	o.Files = files.Part(func(setting string) reload.Source { return reload.Source{Variable: setting} })
	sink := open(t, o)
	requirePublishes(t, sink, "before")

	// Both sides change to another authority; the connection ends, as it does when a server restarts.
	next := testcert.New(t)
	mu.Lock()
	current = next.ServerTLS(t, false).Certificates[0]
	mu.Unlock()
	disconnectAll(t, srv)
	requireBlocked(t, sink, "authorit")
	pem, err := os.ReadFile(next.CAFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ca.CAFile, pem, 0o600))
	files.Refresh()
	requirePublishes(t, sink, "after")
}

func disconnectAll(t *testing.T, srv *natsserver.Server) {
	t.Helper()
	connections, err := srv.Running().Connz(nil)
	require.NoError(t, err)
	require.NotEmpty(t, connections.Conns)
	for _, c := range connections.Conns {
		require.NoError(t, srv.Running().DisconnectClientByID(c.Cid))
	}
}

func newNKey(t *testing.T) (seedFile, public string) {
	t.Helper()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	public, err = user.PublicKey()
	require.NoError(t, err)
	seedFile = filepath.Join(t.TempDir(), "user.nk")
	require.NoError(t, os.WriteFile(seedFile, seed, 0o600))
	return seedFile, public
}
