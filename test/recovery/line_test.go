//go:build linux

package recovery

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

const (
	lineName = "broker.test"
	// cutFor is longer than a silent cut is to go unnoticed. Each try has cutStep more than the one before, so that the
	// end has no fixed place among what clients do every few seconds.
	cutFor, cutStep, cutSteps = 8 * time.Second, 700 * time.Millisecond, 7
	// outages is how many short outages there are, and how long the broker is away and there.
	outages             = 10
	outageDown, between = 5 * time.Second, 2 * time.Second
)

// line is the way to a broker, by a name.
type line struct {
	whole  *testing.T // of all scenarios
	target string
	port   string
	names  *nameServer
	host   string
	proxy  *faultproxy.Proxy
}

// newLine makes the way to target, which everybody in this process finds by its name. It ends with the test.
func newLine(t *testing.T, target string) *line {
	t.Helper()
	l := &line{whole: t, target: target, host: "127.0.0.1", names: serveNames(t)}
	l.proxy = faultproxy.New(t, target)
	_, port, err := net.SplitHostPort(l.proxy.Addr())
	require.NoError(t, err)
	l.port = port
	l.names.set(l.host)
	return l
}

func (l *line) address() string { return net.JoinHostPort(lineName, l.port) }

// cut cuts the cable, and mends it.
func (l *line) cut(t *testing.T, r *rig) {
	t.Helper()
	l.proxy.Sever()
	last(t, cutFor+time.Duration(r.try%cutSteps)*cutStep)
	l.proxy.Resume()
	r.servesNow()
}

func (l *line) open() {
	l.whole.Helper()
	l.proxy = faultproxy.At(l.whole, net.JoinHostPort(l.host, l.port), l.target)
}

// move takes the broker to another address. Its name follows.
func (l *line) move(t *testing.T, r *rig) {
	t.Helper()
	l.proxy.Close()
	last(t, time.Second)
	if l.host == "127.0.0.1" {
		l.host = "127.0.0.2"
	} else {
		l.host = "127.0.0.1"
	}
	l.names.set(l.host)
	l.open()
	r.servesNow()
}

// flap lets the broker be there for short times only.
func (l *line) flap(t *testing.T, r *rig) {
	t.Helper()
	for range outages {
		l.proxy.Close()
		last(t, outageDown)
		l.open()
		r.servesNow()
		last(t, between)
	}
}

// interrupt cuts every connection. Nothing else is wrong.
func (l *line) interrupt(t *testing.T, r *rig) {
	t.Helper()
	r.noteInFlight(t)
	l.proxy.Cut()
}

// interruptBacklog cuts every connection while what has gathered in an outage is published.
func (l *line) interruptBacklog(t *testing.T, r *rig) {
	t.Helper()
	l.proxy.Close()
	last(t, outageDown)
	l.open()
	r.awaitInFlight(t)
	l.interrupt(t, r)
}

// nameServer is the name server of this process, which knows one name.
type nameServer struct {
	mu   sync.Mutex
	host [4]byte
}

func (n *nameServer) set(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	copy(n.host[:], net.ParseIP(host).To4())
}

// serveNames has this process ask a name server of its own until the test ends.
func serveNames(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &nameServer{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.serve(conn)
	}()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = conn.Close()
		<-ended
	})
	return n
}

func (n *nameServer) serve(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var question dnsmessage.Message
		if question.Unpack(buffer[:size]) != nil || len(question.Questions) == 0 {
			continue
		}
		q := question.Questions[0]
		answer := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: question.ID, Response: true, Authoritative: true, RecursionAvailable: true},
			Questions: question.Questions,
		}
		switch {
		case q.Name.String() != lineName+".":
			answer.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			n.mu.Lock()
			answer.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
				Body:   &dnsmessage.AResource{A: n.host},
			}}
			n.mu.Unlock()
		}
		if packed, err := answer.Pack(); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}
