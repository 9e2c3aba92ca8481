package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// speaksTimeout is how long a server is asked what it speaks.
const speaksTimeout = time.Second

// Speaks asks a server that takes connections and does not answer what it speaks: HTTP, HTTPS, or TLS of another kind.
// It returns "" when that cannot be told.
func Speaks(ctx context.Context, address string) string {
	ctx, cancel := context.WithTimeout(ctx, speaksTimeout)
	defer cancel()
	conn, err := Dial(ctx, "tcp", address)
	if err != nil {
		return ""
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(address)
	client := tls.Client(conn, &tls.Config{
		ServerName: host, InsecureSkipVerify: true, //nolint:gosec // it is not trusted with anything
		NextProtos: []string{"h2", "http/1.1"}, // servers of HTTP take one of them, and brokers none
	})
	err = client.HandshakeContext(ctx)
	_, alert := errors.AsType[tls.AlertError](err)
	op, _ := errors.AsType[*net.OpError](err)
	switch {
	case IsHTTP(err):
		return "HTTP"
	case err == nil && client.ConnectionState().NegotiatedProtocol != "":
		return "HTTPS"
	case err == nil, alert, op != nil && op.Op == "remote error":
		return "TLS"
	default:
		return ""
	}
}

// IsHTTP tells whether a TLS handshake failed since the other side answers in plain HTTP.
func IsHTTP(err error) bool {
	record, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok && string(record.RecordHeader[:]) == "HTTP/"
}
