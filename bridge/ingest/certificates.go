package ingest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is how long a look at the files is good for.
const checkEvery = time.Second

// Certificates is a certificate and its key in two files. They are read again when they change. There is no goroutine:
// the files are looked at when a client connects, at most once a second. A file has changed when it is replaced, is
// written again, or is reached through a symbolic link that now points elsewhere, as Kubernetes mounts secrets.
// It is safe for concurrent use.
type Certificates struct {
	certFile, keyFile string
	logger            *slog.Logger
	now               func() time.Time

	current   atomic.Pointer[tls.Certificate]
	start     time.Time
	nextCheck atomic.Int64 // nanoseconds after start, so that a clock that is set back does no harm

	mu     sync.Mutex // held while looking and loading
	seen   [2]fs.FileInfo
	broken string // the error that was logged last, "" when the files were fine since
}

// NewCertificates reads a certificate chain and its private key, both in PEM. The error names the file and what is
// wrong with it. The logger, which may be nil, gets a line for each new pair, and for each new reason not to take one.
func NewCertificates(certFile, keyFile string, logger *slog.Logger) (*Certificates, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{certFile: certFile, keyFile: keyFile, logger: logger, now: time.Now}
	seen, err := c.look()
	if err != nil {
		return nil, err
	}
	pair, err := c.load()
	if err != nil {
		return nil, err
	}
	c.seen = seen
	c.current.Store(pair)
	c.start = c.now()
	c.nextCheck.Store(int64(checkEvery))
	c.warnExpired(pair)
	return c, nil
}

// TLSConfig returns a configuration for a server: TLS 1.2 or newer, with these certificates.
func (c *Certificates) TLSConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.GetCertificate}
}

// GetCertificate is for tls.Config. It never fails: while the files are broken, it returns the pair that was read last.
func (c *Certificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	// One handshake looks; the others go on with what there is.
	if int64(c.now().Sub(c.start)) >= c.nextCheck.Load() && c.mu.TryLock() {
		c.refresh()
		c.mu.Unlock()
	}
	return c.current.Load(), nil
}

// refresh takes the files when they have changed or were broken. The caller holds mu.
func (c *Certificates) refresh() {
	defer func() { c.nextCheck.Store(int64(c.now().Sub(c.start) + checkEvery)) }()
	// Look first, so that a change while loading is seen the next time.
	seen, err := c.look()
	if err == nil && c.broken == "" && same(seen, c.seen) {
		return
	}
	var pair *tls.Certificate
	if err == nil {
		pair, err = c.load()
	}
	if err != nil {
		if c.broken != err.Error() {
			c.broken = err.Error()
			c.logger.Error(
				"the TLS certificate cannot be read again; the one read before stays in use until the files are mended",
				slog.Any("error", err))
		}
		return
	}
	c.seen, c.broken = seen, ""
	c.current.Store(pair)
	c.logger.Info("TLS certificate read again", slog.String("file", c.certFile),
		slog.Time("not_after", pair.Leaf.NotAfter), slog.String("serial", pair.Leaf.SerialNumber.Text(16)))
	c.warnExpired(pair)
}

func (c *Certificates) warnExpired(pair *tls.Certificate) {
	if c.now().After(pair.Leaf.NotAfter) {
		c.logger.Warn("the TLS certificate has expired: senders will refuse to connect; renew it",
			slog.String("file", c.certFile), slog.Time("not_after", pair.Leaf.NotAfter))
	}
}

func (c *Certificates) look() (seen [2]fs.FileInfo, err error) {
	var errs [2]error
	seen[0], errs[0] = os.Stat(c.certFile)
	seen[1], errs[1] = os.Stat(c.keyFile)
	if errs[0] != nil {
		errs[0] = fmt.Errorf("TLS certificate: %w", errs[0])
	}
	if errs[1] != nil {
		errs[1] = fmt.Errorf("TLS key: %w", errs[1])
	}
	return seen, errors.Join(errs[:]...)
}

func (c *Certificates) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	return &pair, nil
}

func same(a, b [2]fs.FileInfo) bool {
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}
