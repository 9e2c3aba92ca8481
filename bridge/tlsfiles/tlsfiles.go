// Package tlsfiles makes of PEM files what TLS needs, and of their new content once they change.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge/reload"
)

// Names are the paths of PEM files.
type Names struct {
	// CA holds the authorities to trust. Empty: those of the system.
	CA string
	// Cert is a certificate chain and Key its private key. Both are empty for none.
	Cert, Key string
}

// Files are in use as they were when all of them could be used last. It is safe for concurrent use.
type Files struct {
	names   Names
	current *reload.Value[*content]
}

type content struct {
	ca          string
	authorities *x509.CertPool   // nil without a CA
	pair        *tls.Certificate // nil without a Cert
}

// LogValue tells the certificates apart.
func (c *content) LogValue() slog.Value {
	if c.pair == nil {
		return slog.GroupValue()
	}
	return slog.GroupValue(
		slog.Time("not_after", c.pair.Leaf.NotAfter), slog.String("serial", c.pair.Leaf.SerialNumber.Text(16)))
}

// Open reads the files, and reads them again when those of part are. The error names each that is wrong, and says what
// is wrong with it. The logger, which may be nil, hears of a certificate that has expired.
func Open(names Names, part *reload.Part, logger *slog.Logger) (*Files, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	f := &Files{names: names}
	var err error
	f.current, err = reload.Open(part,
		func(texts []string) (*content, error) {
			now, err := names.parse(part, texts[0], texts[1], texts[2])
			if err == nil && now.pair != nil && time.Now().After(now.pair.Leaf.NotAfter) {
				logger.Warn("the TLS certificate has expired: the other side will refuse it; renew it",
					slog.String("file", names.Cert), slog.Time("not_after", now.pair.Leaf.NotAfter))
			}
			return now, err
		},
		reload.Text{Setting: "TLS_CA_FILE", Path: names.CA},
		reload.Text{Setting: "TLS_CERT_FILE", Path: names.Cert},
		reload.Text{Setting: "TLS_KEY_FILE", Path: names.Key})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Server returns a configuration for a listener: TLS 1.2 or newer, with the certificate of each moment.
func (f *Files) Server() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.current.Get().pair, nil },
	}
}

// Client returns a configuration for connections that are made now: TLS 1.2 or newer, with the authorities of this
// moment, and the certificate, if there is one.
func (f *Files) Client() *tls.Config {
	now := f.current.Get()
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: now.authorities}
	if now.pair != nil {
		// Unlike one in Certificates, it is sent whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return now.pair, nil }
	}
	return config
}

// Public returns a configuration for a connection that is made now to somebody else than the files are for: with the
// system's authorities beside those of the files, and without the certificate.
func (f *Files) Public() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.names.CA == "" {
		return config
	}
	authorities, err := x509.SystemCertPool()
	if err != nil {
		authorities = x509.NewCertPool()
	}
	authorities.AppendCertsFromPEM([]byte(f.current.Get().ca))
	config.RootCAs = authorities
	return config
}

// parse makes the content of texts. In errors the files have the names that part has for their settings.
func (n Names) parse(part *reload.Part, ca, cert, key string) (*content, error) {
	now := &content{ca: ca}
	var problems []error
	if n.CA != "" {
		now.authorities = x509.NewCertPool()
		if !now.authorities.AppendCertsFromPEM([]byte(ca)) {
			problems = append(problems, fmt.Errorf("%s: %s holds no certificate in PEM format",
				part.Variable("TLS_CA_FILE"), n.CA))
		}
	}
	if n.Cert != "" {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s and %s: %s with %s: %w",
				part.Variable("TLS_CERT_FILE"), part.Variable("TLS_KEY_FILE"), n.Cert, n.Key, err))
		}
		now.pair = &pair
	}
	return now, errors.Join(problems...)
}
