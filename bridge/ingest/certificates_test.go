package ingest_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

// served is a server whose certificate is in two files.
type served struct {
	ca                *testcert.CA
	certFile, keyFile string // symbolic links, as Kubernetes mounts them
	link              string // what they go through
	clock             *clock
	log               *logged
	address           string
}

func serveTLS(t *testing.T) *served {
	t.Helper()
	dir := t.TempDir()
	s := &served{
		ca: testcert.New(t), clock: newClock(), log: &logged{},
		certFile: filepath.Join(dir, "tls.crt"), keyFile: filepath.Join(dir, "tls.key"), link: filepath.Join(dir, "..data"),
	}
	s.mount(t, s.issue(t, "first"))
	require.NoError(t, os.Symlink(filepath.Join("..data", "tls.crt"), s.certFile))
	require.NoError(t, os.Symlink(filepath.Join("..data", "tls.key"), s.keyFile))
	certificates, err := ingest.NewCertificates(s.certFile, s.keyFile, slog.New(slog.NewTextHandler(s.log, nil)))
	require.NoError(t, err)
	ingest.SetClock(certificates, s.clock.now)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.address = listener.Addr().String()
	server := ingest.NewServer(http.NotFoundHandler(), nil)
	server.TLSConfig = certificates.TLSConfig()
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return s
}

// issue makes a directory with a pair for this name.
func (s *served) issue(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile := s.ca.Issue(t, name, "127.0.0.1")
	require.NoError(t, os.Rename(certFile, filepath.Join(dir, "tls.crt")))
	require.NoError(t, os.Rename(keyFile, filepath.Join(dir, "tls.key")))
	return dir
}

// mount lets the link point to dir, at once, as kubelet does it.
func (s *served) mount(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.Symlink(dir, s.link+".new"))
	require.NoError(t, os.Rename(s.link+".new", s.link))
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
	require.Equal(t, "first", s.name(t), "the files are looked at once a second")
	s.clock.move()
	require.Equal(t, "second", s.name(t))
	require.Equal(t, "second", s.name(t))

	lines := s.log.at(slog.LevelInfo)
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "TLS certificate read again")
	require.Contains(t, lines[0], "not_after=")
	s.clock.move()
	require.Equal(t, "second", s.name(t))
	require.Len(t, s.log.at(slog.LevelInfo), 1, "nothing changed")

	// Written again in place, without links.
	third := s.issue(t, "third")
	for _, name := range []string{"tls.crt", "tls.key"} {
		content, err := os.ReadFile(filepath.Join(third, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(s.link, name), content, 0o600))
	}
	s.clock.move()
	require.Equal(t, "third", s.name(t))
}

func TestBrokenCertificateIsNotTaken(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	broken := s.issue(t, "broken")
	require.NoError(t, os.WriteFile(filepath.Join(broken, "tls.key"), []byte("no key"), 0o600))
	s.mount(t, broken)
	for range 3 {
		s.clock.move()
		require.Equal(t, "first", s.name(t))
	}
	lines := s.log.at(slog.LevelInfo)
	require.Len(t, lines, 1, "said once, not once a second")
	require.Contains(t, lines[0], "level=ERROR")
	require.Contains(t, lines[0], s.keyFile)

	// A key of another certificate is another reason.
	key, err := os.ReadFile(filepath.Join(s.issue(t, "other"), "tls.key"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(broken, "tls.key"), key, 0o600))
	s.clock.move()
	require.Equal(t, "first", s.name(t))
	require.Len(t, s.log.at(slog.LevelInfo), 2)

	require.NoError(t, os.Remove(filepath.Join(broken, "tls.crt")))
	s.clock.move()
	require.Equal(t, "first", s.name(t))
	lines = s.log.at(slog.LevelInfo)
	require.Len(t, lines, 3)
	require.Contains(t, lines[2], s.certFile)

	s.mount(t, s.issue(t, "mended"))
	s.clock.move()
	require.Equal(t, "mended", s.name(t))
	lines = s.log.at(slog.LevelInfo)
	require.Len(t, lines, 4)
	require.Contains(t, lines[3], "TLS certificate read again")

	s.mount(t, broken)
	s.clock.move()
	require.Equal(t, "mended", s.name(t))
	require.Len(t, s.log.at(slog.LevelInfo), 5, "broken anew is said anew")
}

func TestManyHandshakesWhileItChanges(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	names := []string{"first", "second", "third", "fourth"}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				s.clock.move()
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
	s.clock.move()
	require.Equal(t, "fourth", s.name(t))
}

func TestCertificatesAtStart(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	certFile, keyFile := ca.Issue(t, "a", "127.0.0.1")
	_, otherKey := ca.Issue(t, "b", "127.0.0.1")
	missing := filepath.Join(t.TempDir(), "none")

	_, err := ingest.NewCertificates(certFile, keyFile, nil)
	require.NoError(t, err)
	_, err = ingest.NewCertificates(missing, keyFile, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "TLS certificate: ")
	require.ErrorContains(t, err, missing)
	_, err = ingest.NewCertificates(certFile, missing, nil)
	require.ErrorContains(t, err, "TLS key: ")
	_, err = ingest.NewCertificates(certFile, otherKey, nil)
	require.ErrorContains(t, err, otherKey)
	_, err = ingest.NewCertificates(keyFile, keyFile, nil)
	require.ErrorContains(t, err, keyFile)

	log := &logged{}
	certFile, keyFile = ca.IssueExpired(t, "old", "127.0.0.1")
	_, err = ingest.NewCertificates(certFile, keyFile, slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, err, "to serve an expired certificate is better than not to serve")
	require.Len(t, log.at(slog.LevelWarn), 1)
	require.Contains(t, log.at(slog.LevelWarn)[0], "expired")
}

func TestOldTLSIsRefused(t *testing.T) {
	t.Parallel()
	s := serveTLS(t)
	config := s.ca.ClientTLS(t)
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	_, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.address)
	require.ErrorContains(t, err, "protocol version")
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true})
	r := signed(t, "Svix", "msg_1", workflowPayload, time.Now())
	a := e.postHTTP2(t, r, strings.NewReader(r.body), int64(len(r.body)))
	require.Equal(t, http.StatusAccepted, a.status, a.body)
	a = e.postHTTP2(t, r, strings.NewReader(r.body), -1)
	require.Equal(t, http.StatusOK, a.status, a.body)
	requireProblem(t, e.postHTTP2(t, r, strings.NewReader(pad(1<<20+1)), -1), http.StatusRequestEntityTooLarge, "at most")
	requireProblem(t, e.postHTTP2(t, r, strings.NewReader(pad(1<<20+1)), 1<<20+1), http.StatusRequestEntityTooLarge, "has 1048577 bytes")
}

func TestSlowBodyOverHTTP2(t *testing.T) {
	t.Parallel()
	e := start(t, setup{tls: true, server: shortBody})
	body, writer := io.Pipe()
	t.Cleanup(func() { _ = writer.Close() })
	requireProblem(t, e.postHTTP2(t, request{header: http.Header{}}, body, -1), http.StatusRequestTimeout, "in time")
}

// postHTTP2 sends r's headers with a body of that length, or of unknown length (-1), over HTTP/2.
func (e *endpoint) postHTTP2(t *testing.T, r request, body io.Reader, length int64) answer {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(e.server.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	sent, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.server.URL+ingest.Path, body)
	require.NoError(t, err)
	sent.Header = r.header.Clone()
	sent.Header.Set("Content-Type", "application/json")
	sent.ContentLength = length
	response, err := transport.RoundTrip(sent)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, 2, response.ProtoMajor)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response.StatusCode, response.Header, response.Close, string(text)}
}
