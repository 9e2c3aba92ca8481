// Package testcert makes a certificate authority and certificates for tests that speak TLS on loopback.
package testcert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// CA is a private certificate authority. Its files live as long as the test.
type CA struct {
	// CAFile is the authority's certificate in PEM.
	CAFile string
	// ServerCertFile and ServerKeyFile are PEM files for a server at localhost, 127.0.0.1 and ::1.
	ServerCertFile, ServerKeyFile string
	// ClientCertFile and ClientKeyFile are PEM files for a client named "fnbridge".
	ClientCertFile, ClientKeyFile string
	// Pool trusts the authority and nothing else.
	Pool *x509.CertPool

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority with a server's and a client's certificate.
func New(tb testing.TB) *CA {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template := &x509.Certificate{
		SerialNumber:          serial(tb),
		Subject:               pkix.Name{CommonName: "fnbridge test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(tb, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(tb, err)

	ca := &CA{dir: tb.TempDir(), cert: cert, key: key, Pool: x509.NewCertPool()}
	ca.Pool.AddCert(cert)
	ca.CAFile = filepath.Join(ca.dir, "ca.pem")
	writePEM(tb, ca.CAFile, "CERTIFICATE", der)
	ca.ServerCertFile, ca.ServerKeyFile = ca.Issue(tb, "localhost", "localhost", "127.0.0.1", "::1")
	ca.ClientCertFile, ca.ClientKeyFile = ca.Issue(tb, "fnbridge")
	return ca
}

// Issue signs a certificate for a server at hosts (names and addresses), or with no hosts for a client, and returns
// its PEM files. A second call with the same common name replaces the files, as a rotation does.
func (ca *CA) Issue(tb testing.TB, commonName string, hosts ...string) (certFile, keyFile string) {
	tb.Helper()
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour),
		NotAfter:  time.Now().Add(24 * time.Hour),
	}
	return ca.issue(tb, template, commonName, hosts)
}

// IssueExpired is Issue for a certificate whose time is over.
func (ca *CA) IssueExpired(tb testing.TB, commonName string, hosts ...string) (certFile, keyFile string) {
	tb.Helper()
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-2 * time.Hour),
		NotAfter:  time.Now().Add(-time.Hour),
	}
	return ca.issue(tb, template, commonName, hosts)
}

func (ca *CA) issue(
	tb testing.TB, template *x509.Certificate, commonName string, hosts []string,
) (certFile, keyFile string) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	template.SerialNumber = serial(tb)
	template.Subject = pkix.Name{CommonName: commonName}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(hosts) > 0 {
		// Brokers of a cluster are clients of one another too.
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	require.NoError(tb, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(tb, err)
	certFile = filepath.Join(ca.dir, commonName+".pem")
	keyFile = filepath.Join(ca.dir, commonName+"-key.pem")
	writePEM(tb, certFile, "CERTIFICATE", der)
	writePEM(tb, keyFile, "PRIVATE KEY", keyDER)
	return certFile, keyFile
}

// ServerTLS returns the configuration of a server with the authority's server certificate. With
// requireClient it takes only clients with a certificate of this authority.
func (ca *CA) ServerTLS(tb testing.TB, requireClient bool) *tls.Config {
	tb.Helper()
	cert, err := tls.LoadX509KeyPair(ca.ServerCertFile, ca.ServerKeyFile)
	require.NoError(tb, err)
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientCAs: ca.Pool}
	if requireClient {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config
}

// ClientTLS returns the configuration of a client that trusts the authority and shows its client certificate.
func (ca *CA) ClientTLS(tb testing.TB) *tls.Config {
	tb.Helper()
	cert, err := tls.LoadX509KeyPair(ca.ClientCertFile, ca.ClientKeyFile)
	require.NoError(tb, err)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, RootCAs: ca.Pool}
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	require.NoError(tb, err)
	return n
}

// writePEM replaces the file in one step, so that a reader sees the old file or the new one.
func writePEM(tb testing.TB, file, kind string, der []byte) {
	tb.Helper()
	block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	require.NoError(tb, os.WriteFile(file+".new", block, 0o600))
	require.NoError(tb, os.Rename(file+".new", file))
}
