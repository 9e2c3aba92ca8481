// Package tlsfiles reads what TLS needs from PEM files, and reads it again when the files change.
package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Names are the paths of PEM files. In errors each has the name of its setting, such as TLS_CA_FILE.
type Names struct {
	// CA holds the authorities to trust. Empty: those of the system.
	CA string
	// Cert is a certificate chain and Key its private key. Both are empty for none.
	Cert, Key string
}

// Files are read again whenever a connection is made. Until all of them can be used, as in the middle of being
// replaced, what was read last stays in use. There is no goroutine. It is safe for concurrent use.
type Files struct {
	names  Names
	logger *slog.Logger

	current atomic.Pointer[content]

	mu     sync.Mutex // held while reading
	broken string     // the error that was logged last, "" when the files were fine since
}

type content struct {
	ca, cert, key []byte
	authorities   *x509.CertPool   // nil without a CA
	pair          *tls.Certificate // nil without a Cert
}

// Open reads the files. The error names each that is wrong, and says what is wrong with it. The logger, which may be
// nil, gets a line for new content, and for each new reason not to take it.
func Open(names Names, logger *slog.Logger) (*Files, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	f := &Files{names: names, logger: logger}
	now, err := names.read(nil)
	if err != nil {
		return nil, err
	}
	f.current.Store(now)
	f.warnExpired(now)
	return f, nil
}

// Server returns a configuration for a listener: TLS 1.2 or newer, with the certificate.
func (f *Files) Server() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.latest().pair, nil },
	}
}

// Client returns a configuration for connections that are made now: TLS 1.2 or newer, with the authorities of this
// moment, and the certificate, if there is one.
func (f *Files) Client() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.latest().authorities}
	if f.names.Cert != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return f.latest().pair, nil
		}
	}
	return config
}

// latest returns what the files hold, or held when they could be used last.
func (f *Files) latest() *content {
	// One connection reads; the others go on with what there is, also while the disk stands still.
	if f.mu.TryLock() {
		defer f.mu.Unlock()
		f.refresh()
	}
	return f.current.Load()
}

func (f *Files) refresh() {
	before := f.current.Load()
	now, err := f.names.read(before)
	if err != nil {
		if f.broken != err.Error() {
			f.broken = err.Error()
			f.logger.Error("the files of TLS cannot be read again; what was read before stays in use until they are mended",
				slog.Any("error", err))
		}
		return
	}
	f.broken = ""
	if now == before {
		return
	}
	f.current.Store(now)
	attrs := []any{}
	if now.pair != nil {
		attrs = []any{
			slog.String("file", f.names.Cert), slog.Time("not_after", now.pair.Leaf.NotAfter),
			slog.String("serial", now.pair.Leaf.SerialNumber.Text(16)),
		}
	}
	f.logger.Info("the files of TLS have been read again", attrs...)
	f.warnExpired(now)
}

func (f *Files) warnExpired(now *content) {
	if now.pair != nil && time.Now().After(now.pair.Leaf.NotAfter) {
		f.logger.Warn("the TLS certificate has expired: the other side will refuse it; renew it",
			slog.String("file", f.names.Cert), slog.Time("not_after", now.pair.Leaf.NotAfter))
	}
}

// read returns what the files hold: before, which may be nil, if that is the same.
func (n Names) read(before *content) (*content, error) {
	now := &content{}
	var problems []error
	for _, file := range []struct {
		setting, name string
		text          *[]byte
	}{{"TLS_CA_FILE", n.CA, &now.ca}, {"TLS_CERT_FILE", n.Cert, &now.cert}, {"TLS_KEY_FILE", n.Key, &now.key}} {
		if file.name == "" {
			continue
		}
		var err error
		if *file.text, err = os.ReadFile(file.name); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", file.setting, err))
		}
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	if before != nil && bytes.Equal(now.ca, before.ca) &&
		bytes.Equal(now.cert, before.cert) && bytes.Equal(now.key, before.key) {
		return before, nil
	}
	if n.CA != "" {
		now.authorities = x509.NewCertPool()
		if !now.authorities.AppendCertsFromPEM(now.ca) {
			problems = append(problems, fmt.Errorf("TLS_CA_FILE: %s holds no certificate in PEM format", n.CA))
		}
	}
	if n.Cert != "" {
		pair, err := tls.X509KeyPair(now.cert, now.key)
		if err != nil {
			problems = append(problems, fmt.Errorf("TLS_CERT_FILE and TLS_KEY_FILE: %s with %s: %w", n.Cert, n.Key, err))
		}
		now.pair = &pair
	}
	return now, errors.Join(problems...)
}
