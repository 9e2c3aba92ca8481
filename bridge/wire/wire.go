// Package wire dials brokers so that a connection that has died without a word, as behind a cable that is cut, is
// noticed. It has the time limits of connections that all sinks share, in one place.
package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// These are not for users to turn. None is shorter than a broker far away needs: a round trip of 150 ms, of which TCP,
// TLS and a login take six.
const (
	// Silence is how long a connection may hear nothing, or have something unacknowledged by the other machine, while
	// an answer is due: then it is cut. It is well above a round trip, a lost packet that is sent again after 1 s, and a
	// pause of the broker's own, and short enough to be back soon.
	Silence = 5 * time.Second
	// Connect bounds dialling, and again the handshakes: TCP sends its first packet again after 1 and 3 s.
	Connect = 5 * time.Second
	// RetryMin and RetryMax bound the wait after a try to connect that failed: at once after a cut, and never so long that
	// a broker that is back waits to be noticed.
	RetryMin = 50 * time.Millisecond
	RetryMax = 250 * time.Millisecond
	// RetryBlocked is the same when somebody has to mend something first, such as a password: a server logs each try, and
	// may lock out who tries too often.
	RetryBlocked = 5 * time.Second
	// Beside is how long a try may hang before another begins beside it: its packets may have gone into a cable that has
	// been mended since.
	Beside = 500 * time.Millisecond
)

// Dial connects to address (host:port), looking up its name anew. The system notices when the machine there is gone.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		Timeout: Connect,
		// While nothing is on its way, TCP asks.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: Silence / 5, Interval: Silence / 5, Count: 4},
		Control:         control,
	}
	return d.DialContext(ctx, network, address)
}

// Conn is a connection that is cut when it has heard nothing for Silence, once Watch has been called. Whoever calls
// that asks the other side often enough.
type Conn struct {
	net.Conn
	watched atomic.Bool
}

// Watch begins to measure. What deadlines there are for reading end then.
func (c *Conn) Watch() error {
	c.watched.Store(true)
	return c.SetReadDeadline(time.Now().Add(Silence))
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if c.watched.Load() {
		if err := c.SetReadDeadline(time.Now().Add(Silence)); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.watched.Load() {
		err = fmt.Errorf("nothing was heard for %s: %w", Silence, err)
	}
	return n, err
}
