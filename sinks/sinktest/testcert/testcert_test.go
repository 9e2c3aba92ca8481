package testcert_test

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/sinks/sinktest/testcert"
)

func TestHandshake(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	stranger := testcert.New(t)

	expired := ca.ServerTLS(t, false)
	certFile, keyFile := ca.IssueExpired(t, "expired", "localhost")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	expired.Certificates = []tls.Certificate{cert}

	tests := map[string]struct {
		server, client *tls.Config
		host           string
		wantErr        bool
	}{
		"by name":           {ca.ServerTLS(t, true), ca.ClientTLS(t), "localhost", false},
		"by address":        {ca.ServerTLS(t, true), ca.ClientTLS(t), "127.0.0.1", false},
		"another name":      {ca.ServerTLS(t, true), ca.ClientTLS(t), "example.com", true},
		"another authority": {ca.ServerTLS(t, true), stranger.ClientTLS(t), "localhost", true},
		"expired":           {expired, ca.ClientTLS(t), "localhost", true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.client.ServerName = tc.host
			listener, err := tls.Listen("tcp", "127.0.0.1:0", tc.server)
			require.NoError(t, err)
			defer listener.Close()
			type result struct {
				peer string
				err  error
			}
			served := make(chan result, 1)
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					served <- result{err: err}
					return
				}
				defer conn.Close()
				server, _ := conn.(*tls.Conn)
				err = server.HandshakeContext(t.Context())
				if err != nil {
					served <- result{err: err}
					return
				}
				served <- result{peer: server.ConnectionState().PeerCertificates[0].Subject.CommonName}
			}()
			conn, err := (&tls.Dialer{Config: tc.client}).DialContext(t.Context(), "tcp", listener.Addr().String())
			if err == nil {
				require.NoError(t, conn.Close())
			}
			got := <-served
			if tc.wantErr {
				require.Error(t, err)
				var bad *tls.CertificateVerificationError
				require.ErrorAs(t, err, &bad)
				return
			}
			require.NoError(t, err)
			require.NoError(t, got.err)
			require.Equal(t, "fnbridge", got.peer)
		})
	}
}

func TestIssueReplacesTheFiles(t *testing.T) {
	t.Parallel()
	ca := testcert.New(t)
	before, err := tls.LoadX509KeyPair(ca.ClientCertFile, ca.ClientKeyFile)
	require.NoError(t, err)
	certFile, keyFile := ca.Issue(t, "fnbridge")
	require.Equal(t, ca.ClientCertFile, certFile)
	after, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	require.NotEqual(t, before.Certificate, after.Certificate)
}
