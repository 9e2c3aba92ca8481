package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

const password = "hunter2-correct-horse"

func withSASL(mechanism string) func(*Options) {
	return func(o *Options) { o.SASLMechanism, o.SASLUsername, o.SASLPassword = mechanism, "bridge", password }
}

// withoutTLS is for brokers that are spoken to by TLS and do not speak it.
var withoutTLS = kfake.ListenFn(sinktest.ListenPlain) //nolint:gochecknoglobals // an option has no state

func TestSASL(t *testing.T) {
	for _, mechanism := range []string{saslPlain, saslScramSHA256, saslScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			c := seeded(t, 2, kfake.EnableSASL(), kfake.Superuser(mechanism, "bridge", password))
			s := open(t, c.ListenAddrs(), withSASL(mechanism))
			requireStored(t, publish(t, s, events(4, 4)))
			require.NoError(t, s.Check(context.Background()))
		})
	}
}

func TestWrongSASLPassword(t *testing.T) {
	for _, mechanism := range []string{saslPlain, saslScramSHA256} {
		t.Run(mechanism, func(t *testing.T) {
			c := seeded(t, 1, withoutTLS, kfake.EnableSASL(), kfake.Superuser(mechanism, "bridge", "another"))
			var l logs
			s := open(t, c.ListenAddrs(), withSASL(mechanism), withLogs(&l))
			results := publish(t, s, events(2, 1))
			// kfake cuts the connection, a real broker answers.
			requireKind(t, bridge.FailureRetry, results)
			err := s.Check(context.Background())
			for _, err := range []error{results[0], err} {
				require.ErrorContains(t, err, "credentials")
				require.NotContains(t, err.Error(), password)
			}
			require.NotContains(t, l.String(), password)
		})
	}
}

func TestRefusedSASLPasswordIsBlocked(t *testing.T) {
	c := seeded(t, 1, kfake.EnableSASL(), kfake.Superuser(saslPlain, "bridge", password))
	c.ControlKey(int16(kmsg.SASLAuthenticate), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		res := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		res.ErrorCode, res.ErrorMessage = 58, new("Authentication failed")
		return res, nil, true
	})
	s := open(t, c.ListenAddrs(), withSASL(saslPlain))
	results := publish(t, s, events(2, 1))
	requireKind(t, bridge.FailureBlocked, results)
	require.ErrorContains(t, results[0], "SASL_PASSWORD")
	requireKind(t, bridge.FailureBlocked, []error{s.Check(context.Background())})
}

func TestNoSASLWhereItIsNeeded(t *testing.T) {
	c := seeded(t, 1, withoutTLS, kfake.EnableSASL(), kfake.Superuser(saslPlain, "bridge", password))
	s := open(t, c.ListenAddrs())
	require.ErrorContains(t, publish(t, s, events(1, 1))[0], "credentials")
}

// A broker that falls silent in the middle of a SASL handshake must not hold the client for ever.
func TestABrokerThatStallsDuringTheSASLHandshake(t *testing.T) {
	t.Parallel()
	for _, key := range []kmsg.Key{kmsg.SASLHandshake, kmsg.SASLAuthenticate} {
		t.Run(key.Name(), func(t *testing.T) {
			c := seeded(t, 1, withoutTLS, kfake.EnableSASL(), kfake.Superuser(saslScramSHA256, "bridge", password))
			stalled := make(chan struct{})
			c.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
				close(stalled)
				return nil, nil, true
			})
			s := open(t, c.ListenAddrs(), withSASL(saslScramSHA256), func(o *Options) {
				o.timing.silence = 500 * time.Millisecond
			})
			<-stalled
			publishUntilStored(t, s, events(2, 1))
		})
	}
}

func withTLS(ca *testcert.CA) func(*Options) {
	return func(o *Options) { o.TLS, o.TLSCAFile = true, ca.CAFile }
}

func withClientCertificate(certFile, keyFile string) func(*Options) {
	return func(o *Options) { o.TLSCertFile, o.TLSKeyFile = certFile, keyFile }
}

func TestTLSWithAPrivateAuthority(t *testing.T) {
	ca := testcert.New(t)
	c := seeded(t, 2, kfake.TLS(ca.ServerTLS(t, false)))
	s := open(t, c.ListenAddrs(), withTLS(ca))
	requireStored(t, publish(t, s, events(4, 4)))
	n := 0
	for _, records := range stored(t, c, kgo.DialTLSConfig(ca.ClientTLS(t))) {
		n += len(records)
	}
	require.Equal(t, 4, n)
}

func TestTLSAndSASLTogether(t *testing.T) {
	ca := testcert.New(t)
	c := seeded(t, 1, kfake.TLS(ca.ServerTLS(t, false)), kfake.EnableSASL(),
		kfake.Superuser(saslScramSHA512, "bridge", password))
	var l logs
	s := open(t, c.ListenAddrs(), withTLS(ca), withSASL(saslScramSHA512), withLogs(&l))
	requireStored(t, publish(t, s, events(1, 1)))
	require.NotContains(t, l.String(), password)
}

func TestTLSWithClientCertificates(t *testing.T) {
	ca := testcert.New(t)
	c := seeded(t, 1, kfake.TLS(ca.ServerTLS(t, true)))
	s := open(t, c.ListenAddrs(), withTLS(ca), withClientCertificate(ca.ClientCertFile, ca.ClientKeyFile))
	requireStored(t, publish(t, s, events(1, 1)))
}

func TestAReplacedClientCertificateIsUsed(t *testing.T) {
	ca := testcert.New(t)
	config := ca.ServerTLS(t, true)
	serials := make(chan string, 100)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		serials <- state.PeerCertificates[0].SerialNumber.String()
		return nil
	}
	c := seeded(t, 1, kfake.TLS(config))
	files, watch := watched()
	s := open(t, c.ListenAddrs(), withTLS(ca), withClientCertificate(ca.ClientCertFile, ca.ClientKeyFile), watch)
	requireStored(t, publish(t, s, events(1, 1)))
	first := <-serials

	ca.Issue(t, "fnbridge")
	files.Refresh()
	require.Eventually(t, func() bool {
		select {
		case serial := <-serials:
			return serial != first
		default:
			return false
		}
	}, within, 5*time.Millisecond)
	requireStored(t, publish(t, s, events(1, 1)))

	// In the middle of a replacement the file is not a certificate: the one read before serves.
	require.NoError(t, os.WriteFile(ca.ClientCertFile, nil, 0o600))
	require.NoError(t, os.WriteFile(ca.CAFile, nil, 0o600))
	files.Refresh()
	before := s.keeper.generation.Load()
	s.noteStale()
	require.Eventually(t, func() bool { return s.keeper.generation.Load() != before }, within, 5*time.Millisecond)
	requireStored(t, publish(t, s, events(1, 1)))
}

func TestAReplacedAuthorityIsUsed(t *testing.T) {
	old, replacement := testcert.New(t), testcert.New(t)
	c := seeded(t, 1, kfake.TLS(replacement.ServerTLS(t, false)))
	files, watch := watched()
	s := open(t, c.ListenAddrs(), withTLS(old), watch)
	requireKind(t, bridge.FailureBlocked, publish(t, s, events(1, 1)))
	pem, err := os.ReadFile(replacement.CAFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(old.CAFile+".new", pem, 0o600))
	require.NoError(t, os.Rename(old.CAFile+".new", old.CAFile))
	files.Refresh()
	publishUntilStored(t, s, events(1, 1))
}

func TestTLSErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	ca, other := testcert.New(t), testcert.New(t)
	expired := ca.ServerTLS(t, false)
	certFile, keyFile := ca.IssueExpired(t, "expired", "localhost", "127.0.0.1")
	expired.Certificates = []tls.Certificate{keyPair(t, certFile, keyFile)}
	elsewhere := ca.ServerTLS(t, false)
	certFile, keyFile = ca.Issue(t, "elsewhere", "kafka.example")
	elsewhere.Certificates = []tls.Certificate{keyPair(t, certFile, keyFile)}

	for name, tt := range map[string]struct {
		server *tls.Config
		change func(*Options)
		kind   bridge.FailureKind
		want   string
	}{
		"unknown authority": {ca.ServerTLS(t, false), withTLS(other), bridge.FailureBlocked, "set TLS_CA_FILE"},
		"expired":           {expired, withTLS(ca), bridge.FailureBlocked, "has to be replaced"},
		"another host": {
			elsewhere, withTLS(ca), bridge.FailureBlocked, "use the name that the broker's certificate holds",
		},
		"no client cert":    {ca.ServerTLS(t, true), withTLS(ca), bridge.FailureBlocked, "TLS_CERT_FILE"},
		"TLS against plain": {nil, withTLS(ca), bridge.FailureRetry, "TLS against a plaintext port"},
		"plain against TLS": {
			ca.ServerTLS(t, false), func(*Options) {}, bridge.FailureRetry, "TLS against a plaintext port, or the reverse",
		},
	} {
		t.Run(name, func(t *testing.T) {
			speaks := withoutTLS
			if tt.server != nil {
				speaks = kfake.TLS(tt.server)
			}
			c := seeded(t, 1, speaks)
			s := open(t, c.ListenAddrs(), tt.change, func(o *Options) {
				o.timing.dial = 2 * time.Second // for a server that waits for more
			})
			results := publish(t, s, events(1, 1))
			requireKind(t, tt.kind, results)
			require.ErrorContains(t, results[0], tt.want)
			err := s.Check(context.Background())
			requireKind(t, tt.kind, []error{err})
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func keyPair(t *testing.T, certFile, keyFile string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	return pair
}

func TestAnHTTPPortIsNoBroker(t *testing.T) {
	ca := testcert.New(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	answering := make(chan struct{})
	go func() {
		defer close(answering)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1024))
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	defer func() { <-answering }()
	defer func() { _ = listener.Close() }()
	s := open(t, []string{listener.Addr().String()}, withTLS(ca))
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureBlocked, results)
	require.ErrorContains(t, results[0], "answers HTTP, not Kafka: check the host and port in BROKERS")
	closeSink(t, s)
}

// Servers of HTTP wait for the end of a line, which Kafka does not send.
func TestAServerThatSaysNothingIsAskedWhatItSpeaks(t *testing.T) {
	ca := testcert.New(t)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	hasty := httptest.NewUnstartedServer(http.NotFoundHandler())
	hasty.Config.ReadHeaderTimeout = 50 * time.Millisecond
	hasty.Start()
	defer hasty.Close()
	https := httptest.NewUnstartedServer(http.NotFoundHandler())
	https.TLS = ca.ServerTLS(t, false)
	https.StartTLS()
	defer https.Close()
	for name, tt := range map[string]struct {
		server *httptest.Server
		speaks string
		change func(*Options)
	}{
		"HTTP":               {plain, "HTTP", func(*Options) {}},
		"HTTP that hangs up": {hasty, "HTTP", func(*Options) {}},
		"HTTPS":              {https, "HTTPS", withTLS(ca)},
	} {
		t.Run(name, func(t *testing.T) {
			address := tt.server.Listener.Addr().String()
			s := open(t, []string{address}, tt.change, func(o *Options) { o.timing.dial = 200 * time.Millisecond })
			var results []error
			require.Eventually(t, func() bool { // what it speaks may take longer to tell than the sink waits for
				results = publish(t, s, events(1, 1))
				return bridge.KindOf(results[0]) == bridge.FailureBlocked
			}, within, 10*time.Millisecond)
			require.ErrorContains(t, results[0],
				address+" answers "+tt.speaks+", not Kafka: check the host and port in BROKERS")
		})
	}
}

func TestBrokersThatCannotBeReached(t *testing.T) {
	for name, tt := range map[string]struct{ broker, want string }{
		"refused": {"127.0.0.1:1", "connection refused"},
		"no name": {"broker.invalid:9092", "broker.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, []string{tt.broker})
			results := publish(t, s, events(2, 2))
			requireKind(t, bridge.FailureRetry, results)
			require.ErrorContains(t, results[0], tt.want)
			requireKind(t, bridge.FailureRetry, []error{s.Check(context.Background())})
		})
	}
}

func TestOneBrokerOfTheListIsEnough(t *testing.T) {
	c := seeded(t, 1)
	s := open(t, append([]string{"127.0.0.1:1", "127.0.0.1:2"}, c.ListenAddrs()...))
	requireStored(t, publish(t, s, events(1, 1)))
}

func TestBrokersThatRestart(t *testing.T) {
	dir := t.TempDir()
	opts := []kfake.Opt{reserved(t, 3), kfake.SeedTopics(4, testTopic), kfake.DataDir(dir), kfake.SyncWrites()}
	c, err := kfake.NewCluster(opts...)
	require.NoError(t, err)
	s := open(t, c.ListenAddrs())
	sent := events(60, 11)
	requireStored(t, publish(t, s, sent[:30]))
	c.Close()
	requireKind(t, bridge.FailureRetry, publish(t, s, sent[30:]))
	require.Error(t, s.Check(context.Background()))

	c = newCluster(t, opts...)
	publishUntilStored(t, s, sent[30:])
	require.Eventually(t, func() bool { return s.Check(context.Background()) == nil }, within, 10*time.Millisecond)
	got := make(map[string]bool)
	for _, records := range stored(t, c) {
		for _, id := range ids(records) {
			got[id] = true
		}
	}
	require.Len(t, got, len(sent))
}

// A broker that has gone silent may be the one that new connections start from. The others' partitions go on meanwhile.
func TestASilentBrokerDoesNotHoldUpTheOthersWhileConnectionsAreRenewed(t *testing.T) {
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic))
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = silent.Close() }()
	s := open(t, c.ListenAddrs(), func(o *Options) {
		o.timing.connect = time.Minute
		o.timing.dial = time.Minute
		o.timing.silence = time.Minute
	})
	sent := one(t, s, 0, 0, 20)
	requireStored(t, publish(t, s, sent[:1]))
	s.connector.brokers = []string{silent.Addr().String()} // read when connections are renewed
	s.noteStale()
	conn, err := silent.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	for i := 1; i < len(sent); i++ {
		requireStored(t, publish(t, s, sent[i:i+1]))
	}
}

// Brokers end idle connections, and those whose login has run out, whenever they like.
func TestConnectionsThatBrokersHaveEndedAreNoFailure(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			f := &faulty{t: t, dir: t.TempDir(), proxies: make(map[int]*faultproxy.Proxy)}
			opts := []kfake.Opt{kfake.NumBrokers(2), kfake.SeedTopics(8, testTopic)}
			var change []func(*Options)
			if secure {
				ca := testcert.New(t)
				opts, change = append(opts, kfake.TLS(ca.ServerTLS(t, false))), append(change, withTLS(ca))
			}
			f.start(t, opts...)
			t.Cleanup(f.cluster.Close)
			var l logs
			s := open(t, f.cluster.ListenAddrs(), append(change, withLogs(&l))...)
			for range 5 {
				requireStored(t, publish(t, s, events(40, 40)))
				f.each((*faultproxy.Proxy).Cut)
				require.NoError(t, s.Check(context.Background()))
				f.each((*faultproxy.Proxy).Cut)
			}
			require.NotContains(t, l.String(), "ERROR")
		})
	}
}

func TestWhatABrokerAdvertisesIsSaid(t *testing.T) {
	nowhere, err := net.ResolveTCPAddr("tcp", "127.0.0.1:1")
	require.NoError(t, err)
	var listening string
	c := newCluster(t, kfake.NumBrokers(1), kfake.SeedTopics(1, testTopic),
		kfake.ListenFn(func(network, address string) (net.Listener, error) {
			listener, err := net.Listen(network, address)
			if err != nil {
				return nil, err
			}
			listening = listener.Addr().String()
			return advertised{listener, nowhere}, nil
		}))
	require.Equal(t, []string{"127.0.0.1:1"}, c.ListenAddrs())
	s := open(t, []string{listening})
	results := publish(t, s, events(1, 1))
	requireKind(t, bridge.FailureRetry, append(results, s.Check(context.Background())))
	require.ErrorContains(t, results[0], "connection refused")
	require.ErrorContains(t, results[0], "127.0.0.1:1 is what the broker advertises")
	require.ErrorContains(t, s.Check(context.Background()), "127.0.0.1:1 is what the broker advertises")
}

func TestDeadlinesOfAConnection(t *testing.T) {
	client, server := net.Pipe()
	defer func() { _ = server.Close() }()
	connector := &connector{conns: map[*conn]struct{}{}}
	c := &conn{Conn: client, generation: &generation{connector: connector}, silence: 30 * time.Millisecond}
	defer func() { _ = c.Close() }()
	isTimeout := func(err error) bool {
		var timeout net.Error
		return errors.As(err, &timeout) && timeout.Timeout()
	}
	for name, set := range map[string]time.Time{
		"none": {}, "far": time.Now().Add(time.Hour), "near": time.Now().Add(time.Millisecond),
	} {
		require.NoError(t, c.SetDeadline(set))
		_, err := c.Read(make([]byte, 1))
		require.True(t, isTimeout(err), "%s: %v", name, err)
		_, err = c.Write(make([]byte, 1))
		require.True(t, isTimeout(err), "%s: %v", name, err)
	}
	// A time that is over ends a Read that is under way.
	c.silence = time.Hour
	require.NoError(t, c.SetDeadline(time.Time{}))
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	require.Eventually(t, func() bool {
		_ = c.SetReadDeadline(time.Now())
		select {
		case err := <-done:
			return isTimeout(err)
		default:
			return false
		}
	}, within, time.Millisecond)
}

func TestErrorsAreOneLine(t *testing.T) {
	s := open(t, []string{"127.0.0.1:1"})
	err := publish(t, s, events(1, 1))[0]
	require.False(t, strings.ContainsAny(err.Error(), "\r\n"))
}
