package tlsfiles_test

import (
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// logged collects log lines.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
}

// served is a server whose certificate is in two files.
type served struct {
	ca                *testcert.CA
	certFile, keyFile string // symbolic links, as Kubernetes mounts them
	link              string // what they go through
	log               *logged
	files             *reload.Files
	address           string
}

func serveTLS(t *testing.T) *served {
	t.Helper()
	dir := t.TempDir()
	s := &served{
		ca: testcert.New(t), log: &logged{},
		certFile: filepath.Join(dir, "tls.crt"), keyFile: filepath.Join(dir, "tls.key"), link: filepath.Join(dir, "..data"),
	}
	s.mount(t, s.issue(t, "first"))
	require.NoError(t, os.Symlink(filepath.Join("..data", "tls.crt"), s.certFile))
	require.NoError(t, os.Symlink(filepath.Join("..data", "tls.key"), s.keyFile))
	s.files = reload.New(slog.New(slog.NewTextHandler(s.log, nil)))
	files, err := tlsfiles.Open(s.names(), part(s.files), nil)
	require.NoError(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", files.Server())
	require.NoError(t, err)
	s.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = conn.(*tls.Conn).HandshakeContext(t.Context())
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		serving.Wait()
	})
	return s
}

// part has the settings go by their names.
func part(files *reload.Files) *reload.Part {
	return files.Part(func(setting string) reload.Source { return reload.Source{Variable: setting} })
}

func (s *served) names() tlsfiles.Names { return tlsfiles.Names{Cert: s.certFile, Key: s.keyFile} }

// issue makes a directory with a pair for this name.
func (s *served) issue(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile := s.ca.Issue(t, name, "127.0.0.1")
	require.NoError(t, os.Rename(certFile, filepath.Join(dir, "tls.crt")))
	require.NoError(t, os.Rename(keyFile, filepath.Join(dir, "tls.key")))
	return dir
}

// mount lets the link point to dir, at once, as kubelet does it, and has the files read.
func (s *served) mount(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.Symlink(dir, s.link+".new"))
	require.NoError(t, os.Rename(s.link+".new", s.link))
	s.refresh()
}

func (s *served) refresh() {
	if s.files != nil {
		s.files.Refresh()
	}
}

// name connects and returns whose certificate was shown.
func (s *served) name(t *testing.T) string {
	t.Helper()
	name, err := s.connect(t)
	require.NoError(t, err)
	return name
}

func (s *served) connect(t *testing.T) (name string, err error) {
	t.Helper()
	conn, err := (&tls.Dialer{Config: s.ca.ClientTLS(t)}).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	require.Equal(t, "first", s.name(t))

	s.mount(t, s.issue(t, "second"))
	require.Equal(t, "second", s.name(t))
	require.Equal(t, "second", s.name(t))

	lines := s.log.lines()
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "in use from now on")
	require.Contains(t, lines[0], "not_after=")
	require.Equal(t, "second", s.name(t))
	require.Len(t, s.log.lines(), 1, "nothing changed")

	// Written again in place, without links.
	third := s.issue(t, "third")
	for _, name := range []string{"tls.crt", "tls.key"} {
		content, err := os.ReadFile(filepath.Join(third, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(s.link, name), content, 0o600))
	}
	s.refresh()
	require.Equal(t, "third", s.name(t))
}

func TestBrokenCertificateIsNotTaken(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	broken := s.issue(t, "broken")
	require.NoError(t, os.WriteFile(filepath.Join(broken, "tls.key"), []byte("no key"), 0o600))
	s.mount(t, broken)
	for range 3 {
		s.refresh()
		require.Equal(t, "first", s.name(t))
	}
	lines := s.log.lines()
	require.Len(t, lines, 1, "said once")
	require.Contains(t, lines[0], "level=ERROR")
	require.Contains(t, lines[0], s.keyFile)

	// A key of another certificate is another reason.
	key, err := os.ReadFile(filepath.Join(s.issue(t, "other"), "tls.key"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(broken, "tls.key"), key, 0o600))
	s.refresh()
	require.Equal(t, "first", s.name(t))
	require.Len(t, s.log.lines(), 2)

	require.NoError(t, os.Remove(filepath.Join(broken, "tls.crt")))
	s.refresh()
	require.Equal(t, "first", s.name(t))
	lines = s.log.lines()
	require.Len(t, lines, 3)
	require.Contains(t, lines[2], s.certFile)

	s.mount(t, s.issue(t, "mended"))
	require.Equal(t, "mended", s.name(t))
	lines = s.log.lines()
	require.Len(t, lines, 4)
	require.Contains(t, lines[3], "in use from now on")

	s.mount(t, broken)
	require.Equal(t, "mended", s.name(t))
	require.Len(t, s.log.lines(), 5, "broken anew is said anew")
}

func TestManyHandshakesWhileItChanges(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	names := []string{"first", "second", "third", "fourth"}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				name, err := s.connect(t)
				if err != nil || !slices.Contains(names, name) {
					t.Errorf("certificate %q, error %v", name, err)
				}
			}
		})
	}
	for _, name := range names[1:] {
		s.mount(t, s.issue(t, name))
	}
	all.Wait()
	require.Equal(t, "fourth", s.name(t))
}

func TestCertificatesAtStart(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	certFile, keyFile := ca.Issue(t, "a", "127.0.0.1")
	_, otherKey := ca.Issue(t, "b", "127.0.0.1")
	missing := filepath.Join(t.TempDir(), "none")

	for _, tt := range []struct {
		names tlsfiles.Names
		want  []string
	}{
		{tlsfiles.Names{}, nil},
		{tlsfiles.Names{Cert: certFile, Key: keyFile}, nil},
		{tlsfiles.Names{CA: ca.CAFile}, nil},
		{
			tlsfiles.Names{CA: missing, Cert: missing, Key: keyFile},
			[]string{"TLS_CA_FILE: open " + missing, "TLS_CERT_FILE: open " + missing},
		},
		{tlsfiles.Names{Cert: certFile, Key: missing}, []string{"TLS_KEY_FILE: open " + missing}},
		{tlsfiles.Names{Cert: certFile, Key: otherKey}, []string{"TLS_CERT_FILE and TLS_KEY_FILE: ", otherKey}},
		{
			tlsfiles.Names{CA: keyFile, Cert: keyFile, Key: keyFile},
			[]string{"TLS_CA_FILE: " + keyFile + " holds no certificate", "TLS_CERT_FILE and"},
		},
	} {
		_, err := tlsfiles.Open(tt.names, nil, nil)
		if tt.want == nil {
			require.NoError(t, err)
		}
		for _, want := range tt.want {
			require.ErrorContains(t, err, want)
		}
	}

	log := &logged{}
	certFile, keyFile = ca.IssueExpired(t, "old", "127.0.0.1")
	_, err := tlsfiles.Open(tlsfiles.Names{Cert: certFile, Key: keyFile}, nil, slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, err, "to serve an expired certificate is better than not to serve")
	require.Len(t, log.lines(), 1)
	require.Contains(t, log.lines()[0], "expired")
}

func TestAClientReadsAgain(t *testing.T) {
	t.Parallel()
	old, replacement := testcert.New(t), testcert.New(t)
	log := &logged{}
	watched := reload.New(slog.New(slog.NewTextHandler(log, nil)))
	names := tlsfiles.Names{CA: old.CAFile, Cert: old.ClientCertFile, Key: old.ClientKeyFile}
	files, err := tlsfiles.Open(names, part(watched), nil)
	require.NoError(t, err)
	before := files.Client()
	require.True(t, old.ClientTLS(t).RootCAs.Equal(before.RootCAs))
	mine, err := before.GetClientCertificate(nil)
	require.NoError(t, err)

	// What is half replaced is not taken, neither half of it.
	replace := func(file, by string) {
		text, err := os.ReadFile(by)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, text, 0o600))
	}
	replace(old.CAFile, replacement.CAFile)
	replace(old.ClientCertFile, replacement.ClientCertFile)
	watched.Refresh()
	require.True(t, before.RootCAs.Equal(files.Client().RootCAs))
	same, err := before.GetClientCertificate(nil)
	require.NoError(t, err)
	require.Same(t, mine, same)
	require.Len(t, log.lines(), 1, "said once")

	replace(old.ClientKeyFile, replacement.ClientKeyFile)
	watched.Refresh()
	require.True(t, replacement.ClientTLS(t).RootCAs.Equal(files.Client().RootCAs))
	other, err := files.Client().GetClientCertificate(nil)
	require.NoError(t, err)
	require.NotEqual(t, mine.Certificate, other.Certificate)
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	config := s.ca.ClientTLS(t)
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	_, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.address)
	require.ErrorContains(t, err, "protocol version")
}
