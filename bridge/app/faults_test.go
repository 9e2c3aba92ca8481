package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/embeddednats"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

// certificate writes a new self-signed certificate for 127.0.0.1 over the files.
func certificate(t *testing.T, certFile, keyFile, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		temporary := path + ".new"
		require.NoError(t, os.WriteFile(temporary, pem.EncodeToMemory(block), 0o600))
		require.NoError(t, os.Rename(temporary, path))
	}
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return parsed
}

func TestThePublicListenerServesTLSAndTakesANewCertificate(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	roots := x509.NewCertPool()
	roots.AddCert(certificate(t, certFile, keyFile, "first"))
	r := start(t, t.TempDir(), map[string]string{"TLS_CERT_FILE": certFile, "TLS_KEY_FILE": keyFile})
	r.scheme = "https"
	r.http.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots} //nolint:forcetypeassert // start made it
	r.mustPost("msg_1", workflow, http.StatusAccepted)
	r.awaitLog("https://" + r.Addr().String())

	roots.AddCert(certificate(t, certFile, keyFile, "second"))
	require.Eventually(t, func() bool {
		conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{RootCAs: roots})
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName == "second"
	}, bound, 50*time.Millisecond)
	r.http.CloseIdleConnections()
	r.mustPost("msg_2", workflowOf("invocation_2"), http.StatusAccepted)
	r.inStream(4)
}

func TestAStopFinishesTheRequestUnderWayAndIsNotReadyMeanwhile(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, nil)
	status, _ := r.get("/readyz")
	require.Equal(t, http.StatusOK, status)

	body, write := io.Pipe()
	req := r.signed("msg_slow", workflow)
	req.Body, req.ContentLength = body, int64(len(workflow))
	answered := make(chan int, 1)
	go func() {
		resp, err := r.http.Do(req)
		if err != nil {
			answered <- 0
			return
		}
		defer resp.Body.Close()
		answered <- resp.StatusCode
	}()
	_, err := io.WriteString(write, workflow[:20])
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, "fnbridge_webhooks_in_flight 1")
	}, bound, 5*time.Millisecond)

	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	require.Eventually(t, func() bool {
		status, text := r.get("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(text, "shutting down")
	}, bound, 5*time.Millisecond)
	status, _ = r.get("/livez")
	require.Equal(t, http.StatusOK, status)
	_, err = io.WriteString(write, workflow[20:])
	require.NoError(t, err)
	require.NoError(t, write.Close())
	require.Equal(t, http.StatusAccepted, <-answered)
	require.NoError(t, <-stopped)

	again := start(t, dir, nil)
	again.inStream(2)
}

func TestAStopWithASinkThatHangsKeepsItsTime(t *testing.T) {
	// Connections are taken, and nothing is ever answered.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	r := start(t, t.TempDir(), map[string]string{
		"SINKS": "nats,kafka", "NATS_URL": "nats://" + l.Addr().String(),
		"KAFKA_BROKERS": l.Addr().String(), "SHUTDOWN_TIMEOUT": "200ms",
	})
	r.mustPost("msg_1", workflow, http.StatusAccepted)
	began := time.Now()
	require.NoError(t, r.stop())
	require.Less(t, time.Since(began), 30*time.Second, "the sinks would hang for 40 s")
	require.NotContains(t, r.log.String(), "level=ERROR")
}

func TestAFullJournalRefusesUntilTheSinkIsBack(t *testing.T) {
	server, err := embeddednats.Start(t.Context(), embeddednats.Options{Listen: "127.0.0.1:0", Dir: t.TempDir()})
	require.NoError(t, err)
	proxy := faultproxy.New(t, server.Addr().String())
	proxy.Stall()
	r := start(t, t.TempDir(), map[string]string{
		"NATS_URL": "nats://" + proxy.Addr(), "JOURNAL_MAX_BYTES": "1MiB", "MAX_BODY": "256KiB",
	})
	t.Cleanup(func() {
		require.NoError(t, r.stop())
		require.NoError(t, server.Shutdown(context.WithoutCancel(t.Context())))
	})
	padding := strings.Repeat("x", 200_000) // so that small webhooks still fit
	accepted := 0
	var answer string
	for ; ; accepted++ {
		require.Less(t, accepted, 20, "1 MiB does not hold this much")
		status, text, err := r.post(fmt.Sprintf("msg_%d", accepted),
			fmt.Sprintf(`{"job_id":"job_%d","status":"success","text":%q}`, accepted, padding))
		require.NoError(t, err)
		if status != http.StatusAccepted {
			require.Equal(t, http.StatusServiceUnavailable, status)
			answer = text
			break
		}
	}
	require.Positive(t, accepted)
	require.Contains(t, answer, "full")
	require.Contains(t, r.awaitReady(http.StatusServiceUnavailable), "webhooks are refused: ")
	require.InDelta(t, 1, r.sample(`fnbridge_refusing{reason="journal_full"}`), 0)
	require.JSONEq(t, `{"webhook_id":"msg_0","duplicate":true}`,
		r.mustPost("msg_0", fmt.Sprintf(`{"job_id":"job_0","status":"success","text":%q}`, padding), http.StatusOK),
		"what is known needs no room")

	proxy.Resume()
	last := fmt.Sprintf(`{"job_id":"job_last","status":"success","text":%q}`, padding)
	require.Eventually(t, func() bool {
		status, _, err := r.post("msg_last", last)
		require.NoError(t, err)
		return status == http.StatusAccepted
	}, bound, 20*time.Millisecond)
	inStream(t, server.ClientURL(), "TENSORLAKE", accepted+1)
	r.awaitReady(http.StatusOK)
}
