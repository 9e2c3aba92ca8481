package ingest

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/bridge/loglimit"
)

// maxHeaderBytes bounds the headers of a request. A webhook has less than 2 KiB, and proxies add a little. Parsed, the
// smallest headers take many times their size, and a connection may bring them before anything else of it is known.
const maxHeaderBytes = 8 << 10

// readAhead is what net/http reads beyond MaxHeaderBytes, in bytes.
const readAhead = 4 << 10

// ConnectionMemory is the most memory that a connection takes beside bodies, in bytes: its buffers and stacks, those of
// TLS, and the headers of one request, parsed.
const ConnectionMemory = 320 << 10

// NewServer returns a server for the public listener, with a bound on every wait and on the size of headers.
// The caller starts and stops it, and sets TLSConfig for TLS.
//
// logger, which may be nil, gets what the server itself has to say (TLS handshakes, connections), a few lines a
// second at most.
//
// Requests that are no HTTP (400), or have headers of more than 8 KiB (431), are answered by net/http
// itself, in plain text. The number of connections is bounded by LimitConnections. HTTP/2 is not spoken: no sender of
// webhooks needs it, and a connection would hold many requests.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      h,
		Protocols:                    &protocols,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is answered by h as well
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  20 * time.Second, // headers and body
		WriteTimeout:                 30 * time.Second, // from the end of the headers: the body, the store and the answer
		// Longer than any load balancer keeps a connection (Google's: 600 s), so that it is the balancer that ends it: a
		// request that is on its way while this side closes is lost to it. LimitConnections takes back what is needed.
		IdleTimeout:    620 * time.Second,
		MaxHeaderBytes: maxHeaderBytes - readAhead,
		ErrorLog:       slog.NewLogLogger(loglimit.New(logger, time.Now).Handler(), slog.LevelWarn),
	}
}
