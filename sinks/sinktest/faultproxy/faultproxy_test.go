package faultproxy_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/sinks/sinktest/child"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo starts a server that sends back what it gets, and tells of each byte.
func echo(t *testing.T) (addr string, got <-chan byte) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	bytes := make(chan byte, 1000)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					b, err := r.ReadByte()
					if err != nil {
						return
					}
					bytes <- b
					if _, err := conn.Write([]byte{b}); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String(), bytes
}

func dial(t *testing.T, p *faultproxy.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	_, err := conn.Write([]byte(text))
	require.NoError(t, err)
}

func receive(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	got := make([]byte, len(want))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func requireSilent(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err := conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

func requireCut(t *testing.T, conn net.Conn) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
}

func TestStall(t *testing.T) {
	addr, got := echo(t)
	p := faultproxy.New(t, addr)
	conn := dial(t, p)
	send(t, conn, "a")
	receive(t, conn, "a")
	require.Equal(t, byte('a'), <-got)

	p.Stall()
	send(t, conn, "b")
	requireSilent(t, conn)
	require.Empty(t, got, "requests wait too")
	late := dial(t, p)
	send(t, late, "c")
	requireSilent(t, late)

	p.Resume()
	receive(t, conn, "b")
	receive(t, late, "c")
}

func TestStallAnswers(t *testing.T) {
	addr, got := echo(t)
	p := faultproxy.New(t, addr)
	conn := dial(t, p)
	p.StallAnswersAfter(2)
	send(t, conn, "abcd")
	receive(t, conn, "ab")
	requireSilent(t, conn)
	for _, want := range "abcd" {
		require.Equal(t, byte(want), <-got, "requests pass")
	}
	p.Resume()
	receive(t, conn, "cd")
}

func TestCutAnswers(t *testing.T) {
	addr, _ := echo(t)
	p := faultproxy.New(t, addr)
	conn, other := dial(t, p), dial(t, p)
	cut := p.CutAnswersAfter(2)
	send(t, conn, "abcd")
	receive(t, conn, "ab")
	<-cut
	requireCut(t, conn)
	send(t, other, "x")
	receive(t, other, "x")
}

func TestCut(t *testing.T) {
	addr, _ := echo(t)
	p := faultproxy.New(t, addr)
	conn := dial(t, p)
	send(t, conn, "a")
	receive(t, conn, "a")
	p.Cut()
	requireCut(t, conn)
	again := dial(t, p)
	send(t, again, "b")
	receive(t, again, "b")
}

func TestDelayAnswers(t *testing.T) {
	addr, got := echo(t)
	p := faultproxy.New(t, addr)
	conn := dial(t, p)
	p.DelayAnswers(time.Hour)
	send(t, conn, "a")
	require.Equal(t, byte('a'), <-got)
	requireSilent(t, conn)
	p.Resume()
	receive(t, conn, "a")

	p.DelayAnswers(30 * time.Millisecond)
	began := time.Now()
	send(t, conn, "b")
	receive(t, conn, "b")
	require.GreaterOrEqual(t, time.Since(began), 30*time.Millisecond)
}

func TestDistance(t *testing.T) {
	const distance, pieces = 50 * time.Millisecond, 200
	addr, _ := echo(t)
	p := faultproxy.New(t, addr)
	p.Distance(distance)
	began := time.Now()
	conn := dial(t, p)
	send(t, conn, "a")
	receive(t, conn, "a")
	require.GreaterOrEqual(t, time.Since(began), 4*distance, "a round trip to connect, and one for the byte")

	began = time.Now()
	for range pieces {
		send(t, conn, "b")
	}
	receive(t, conn, strings.Repeat("b", pieces))
	require.GreaterOrEqual(t, time.Since(began), 2*distance)
	require.Less(t, time.Since(began), pieces*distance, "one piece after the other")
	p.Cut()
	requireCut(t, conn)
}

func TestServerAway(t *testing.T) {
	port, err := child.ReservePort()
	require.NoError(t, err)
	defer port.Release()
	requireCut(t, dial(t, faultproxy.New(t, port.Address())))
}

func TestSever(t *testing.T) {
	addr, got := echo(t)
	p := faultproxy.New(t, addr)
	before := dial(t, p)
	send(t, before, "a")
	receive(t, before, "a")
	require.Equal(t, byte('a'), <-got)

	p.Sever()
	meanwhile := dial(t, p)
	for _, conn := range []net.Conn{before, meanwhile} {
		send(t, conn, "b")
		requireSilent(t, conn)
	}
	p.Resume()
	for _, conn := range []net.Conn{before, meanwhile} {
		send(t, conn, "c")
		requireSilent(t, conn)
	}
	require.Empty(t, got)
	after := dial(t, p)
	send(t, after, "d")
	receive(t, after, "d")
}
