package ingest

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/bridge/loglimit"
)

// NewServer returns a server for the public listener, with a bound on every wait and on the size of headers.
// The caller starts and stops it, and sets TLSConfig for TLS.
//
// logger, which may be nil, gets what the server itself has to say (TLS handshakes, connections), a few lines a
// second at most.
//
// Requests that are no HTTP (400), or have headers of more than 32 KiB (431), are answered by net/http
// itself, in plain text. The number of connections is bounded by LimitConnections.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:                      h,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is answered by h as well
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  20 * time.Second, // headers and body
		WriteTimeout:                 30 * time.Second, // from the end of the headers: the body, the store and the answer
		IdleTimeout:                  60 * time.Second,
		MaxHeaderBytes:               32 << 10,
		// A connection over HTTP/2 holds many requests; the limit on webhooks in flight is beside this one.
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 128},
		ErrorLog: slog.NewLogLogger(loglimit.New(logger, time.Now).Handler(), slog.LevelWarn),
	}
}
