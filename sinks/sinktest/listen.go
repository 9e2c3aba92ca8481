package sinktest

import (
	"errors"
	"io"
	"net"
)

// ListenPlain listens for kfake brokers that speak no TLS. Such a one takes a handshake of TLS for the length of a
// request, makes room for its 369 MB and waits for them. Here it waits without the room. A sink tries TLS at a broker
// that ends connections, to say what it is.
func ListenPlain(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	return plainListener{l}, err
}

type plainListener struct{ net.Listener }

// Accept implements net.Listener.
func (l plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &plainConn{Conn: conn}, nil
}

type plainConn struct {
	net.Conn
	begun bool
}

// Read implements net.Conn.
func (c *plainConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n == 0 || c.begun {
		return n, err
	}
	c.begun = true
	const handshake = 0x16
	if b[0] != handshake {
		return n, err
	}
	_, _ = io.Copy(io.Discard, c.Conn)
	return 0, errors.New("it speaks TLS")
}
