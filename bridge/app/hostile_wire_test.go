package app_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wireRequest is a request as it goes over the wire. What is empty is what a webhook has.
type wireRequest struct {
	line    string
	headers []string
	host    string
	body    string
	length  string // Content-Length; "none" leaves it out
}

func (r wireRequest) text() string {
	if r.line == "" {
		r.line = "POST /webhooks/tensorlake HTTP/1.1"
	}
	if r.host == "" {
		r.host = "Host: fnbridge.test"
	}
	lines := append([]string{r.line, r.host, "Content-Type: application/json"}, r.headers...)
	switch r.length {
	case "":
		lines = append(lines, fmt.Sprintf("Content-Length: %d", len(r.body)))
	case "none":
	default:
		lines = append(lines, "Content-Length: "+r.length)
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + r.body
}

// signedHeaders are what a sender that knows the secret sends, for any timestamp whatever.
func signedHeaders(id, body, timestamp string) []string {
	return []string{"Svix-Id: " + id, "Svix-Timestamp: " + timestamp, "Svix-Signature: " + signature(id, body, timestamp)}
}

func signature(id, body, timestamp string) string {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, timestamp, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// inChunks is a body in chunks of n bytes.
func inChunks(body string, n int) string {
	var b strings.Builder
	for body != "" {
		n = min(n, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String() + "0\r\n\r\n"
}

func dialBridge(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(bound)))
	return conn.(*net.TCPConn)
}

// exchange sends text on a connection of its own and reads the first answer that is final. The error is io.EOF, or
// tells of a reset, when the connection ends without one. With half set, the sender says that nothing more comes.
func exchange(t *testing.T, address, text string, half bool) (status int, answer string, err error) {
	t.Helper()
	method, _, _ := strings.Cut(text, " ") // the answer to a HEAD has no body
	conn := dialBridge(t, address)
	sent := make(chan struct{})
	go func() { // the bridge may answer before it has read it all
		defer close(sent)
		_, _ = io.WriteString(conn, text)
		if half {
			_ = conn.CloseWrite()
		}
	}()
	defer func() {
		_ = conn.Close()
		<-sent
	}()
	reader := bufio.NewReader(conn)
	for {
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			return 0, "", err
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode >= 200 {
			return response.StatusCode, string(body), err
		}
	}
}
