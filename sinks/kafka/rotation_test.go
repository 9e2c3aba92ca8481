package kafka

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/sinks/sinktest/apachekafka"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// watched has the files of TLS looked at when Refresh is called on the Files that it returns.
func watched() (*reload.Files, func(*Options)) {
	files := reload.New(nil)
	return files, func(o *Options) {
		o.Files = files.Part(func(setting string) reload.Source { return reload.Source{Variable: setting} })
	}
}

// mounted are settings whose texts are in files.
type mounted struct {
	dir   string
	files *reload.Files
}

func mount(t *testing.T, texts map[string]string) (mounted, func(*Options)) {
	t.Helper()
	m := mounted{dir: t.TempDir(), files: reload.New(nil)}
	m.write(t, texts)
	return m, func(o *Options) {
		o.Files = m.files.Part(func(setting string) reload.Source {
			if _, ok := texts[setting]; !ok {
				return reload.Source{Variable: setting}
			}
			return reload.Source{Variable: setting, Path: m.path(setting)}
		})
	}
}

func (m mounted) path(setting string) string { return filepath.Join(m.dir, setting) }

func (m mounted) write(t *testing.T, texts map[string]string) {
	t.Helper()
	for setting, text := range texts {
		require.NoError(t, os.WriteFile(m.path(setting), []byte(text), 0o600))
	}
}

// copyTo writes what is in a file over another, in place.
func copyTo(t *testing.T, to, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, text, 0o600))
}

// load publishes one batch after the other until end. So it hardly ever needs more than one connection to each broker,
// which it has before anything changes.
type load struct {
	acknowledged, failed atomic.Int64
	last                 atomic.Value // why an event was not acknowledged
	stopped              atomic.Bool
	running              sync.WaitGroup
}

// publishAllTheTime begins a load. Events that fail in an excused way are sent again, as the bridge does.
func publishAllTheTime(t *testing.T, s *Sink, excused ...bridge.FailureKind) *load {
	t.Helper()
	l := &load{}
	l.running.Go(func() {
		for !l.stopped.Load() {
			for _, err := range s.Publish(t.Context(), events(5, 5)) {
				switch {
				case err == nil:
					l.acknowledged.Add(1)
				case !slices.Contains(excused, bridge.KindOf(err)):
					l.failed.Add(1)
					l.last.Store(err.Error())
				}
			}
		}
	})
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
	require.Eventually(t, func() bool { return l.acknowledged.Load() >= want }, within, 5*time.Millisecond)
}

func (l *load) requireNoneFailed(t *testing.T) {
	t.Helper()
	l.end()
	require.Zero(t, l.failed.Load(), "%v", l.last.Load())
	t.Logf("%d events acknowledged, and none failed that must not", l.acknowledged.Load())
}

// awaitRenewed waits until other connections have taken the place of those of before.
func awaitRenewed(t *testing.T, s *Sink, before *generation) {
	t.Helper()
	require.Eventually(t, func() bool { return s.keeper.generation.Load() != before && !s.outdated() },
		within, 5*time.Millisecond)
}

func TestARefusedPasswordIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	c := seeded(t, 1, kfake.EnableSASL(), kfake.Superuser(saslScramSHA256, "bridge", password))
	m, files := mount(t, map[string]string{"SASL_PASSWORD": "another"})
	s := open(t, c.ListenAddrs(), withSASL(saslScramSHA256), files, func(o *Options) {
		o.timing.blocked, o.timing.reset = time.Hour, time.Hour // only the change lets it try again
	})
	require.Error(t, publish(t, s, events(1, 1))[0])
	m.write(t, map[string]string{"SASL_PASSWORD": password})
	m.files.Refresh()
	publishUntilStored(t, s, events(1, 1))

	// What is no password is refused, and nothing changes.
	before := s.keeper.generation.Load()
	m.write(t, map[string]string{"SASL_PASSWORD": "\x07"})
	m.files.Refresh()
	require.Contains(t, m.files.States()[0].Refused, "SCRAM does not allow")
	requireStored(t, publish(t, s, events(1, 1)))
	require.Same(t, before, s.keeper.generation.Load())
}

// What brokers refuse shows in the state of the sink for as long as the old connections hide it.
func TestRefusedCredentialsAreWarnedOfWhileTheOldOnesServe(t *testing.T) {
	t.Parallel()
	c := seeded(t, 1, kfake.EnableSASL(), kfake.Superuser(saslScramSHA256, "bridge", password))
	m, files := mount(t, map[string]string{"SASL_PASSWORD": password})
	s := open(t, c.ListenAddrs(), withSASL(saslScramSHA256), files)
	publishUntilStored(t, s, events(1, 1))
	refused := func() string {
		for _, w := range s.Warnings() {
			if w.Key == "credentials_refused" {
				return w.Text
			}
		}
		return ""
	}
	require.Empty(t, refused())

	m.write(t, map[string]string{"SASL_PASSWORD": "another"})
	m.files.Refresh()
	require.Eventually(t, func() bool { return refused() != "" }, within, 5*time.Millisecond)
	require.Contains(t, refused(), "wrong credentials")
	requireStored(t, publish(t, s, events(1, 1)))

	m.write(t, map[string]string{"SASL_PASSWORD": password})
	m.files.Refresh()
	require.Eventually(t, func() bool { return refused() == "" }, within, 5*time.Millisecond)
	requireStored(t, publish(t, s, events(1, 1)))
}

// testApacheRotation exchanges credentials and certificates under load.
func testApacheRotation(t *testing.T, c *apachekafka.Cluster) {
	const topic = "rotation"
	c.CreateTopic(t, topic, 2, 1, nil)
	ca := c.CA()

	t.Run("password", func(t *testing.T) {
		var l logs
		m, files := mount(t, map[string]string{"SASL_USERNAME": apacheUser, "SASL_PASSWORD": apachePassword})
		s := open(t, c.SASLBrokers(), toTopic(topic), files, withLogs(&l), func(o *Options) {
			o.TLS, o.TLSCAFile, o.SASLMechanism = true, ca.CAFile, saslScramSHA512
		})
		publishUntilStored(t, s, events(1, 1))
		// One more connection, made while a broker has another password than the file, is refused.
		load := publishAllTheTime(t, s, bridge.FailureBlocked)
		load.goesOn(t)
		before := s.keeper.generation.Load()

		// The file is the first to change: what there is serves until the brokers take the new password.
		m.write(t, map[string]string{"SASL_PASSWORD": "another"})
		m.files.Refresh()
		require.Eventually(t, func() bool { return strings.Contains(l.String(), "those that were made before stay in use") },
			within, 5*time.Millisecond)
		load.goesOn(t)
		c.ChangePassword(t, apacheUser, "another")
		awaitRenewed(t, s, before)
		load.goesOn(t)

		// The brokers are the first to change.
		before = s.keeper.generation.Load()
		c.ChangePassword(t, apacheUser, apachePassword)
		load.goesOn(t)
		m.write(t, map[string]string{"SASL_PASSWORD": apachePassword})
		m.files.Refresh()
		awaitRenewed(t, s, before)
		load.goesOn(t)
		load.requireNoneFailed(t)
		require.NotContains(t, l.String(), apachePassword)
	})

	t.Run("client certificate and authority", func(t *testing.T) {
		dir := t.TempDir()
		cert, key, authority := filepath.Join(dir, "cert"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")
		copyTo(t, cert, ca.ClientCertFile)
		copyTo(t, key, ca.ClientKeyFile)
		copyTo(t, authority, ca.CAFile)
		refresh, files := watched()
		s := open(t, c.TLSBrokers(), toTopic(topic), files, func(o *Options) {
			o.TLS, o.TLSCAFile, o.TLSCertFile, o.TLSKeyFile = true, authority, cert, key
		})
		publishUntilStored(t, s, events(1, 1))
		load := publishAllTheTime(t, s)
		load.goesOn(t)
		before := s.keeper.generation.Load()

		// Half of it is not taken.
		newCert, newKey := ca.Issue(t, "another")
		copyTo(t, cert, newCert)
		refresh.Refresh()
		require.NotEmpty(t, refresh.States()[1].Refused)
		load.goesOn(t)
		require.Same(t, before, s.keeper.generation.Load())
		copyTo(t, key, newKey)
		refresh.Refresh()
		awaitRenewed(t, s, before)
		load.goesOn(t)

		// Both authorities are trusted for a while.
		before = s.keeper.generation.Load()
		both, err := os.ReadFile(testcert.New(t).CAFile)
		require.NoError(t, err)
		old, err := os.ReadFile(ca.CAFile)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(authority, append(both, old...), 0o600))
		refresh.Refresh()
		awaitRenewed(t, s, before)
		load.goesOn(t)
		load.requireNoneFailed(t)
	})
}
