package ops

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/bridge/loglimit"
)

// NewServer returns a server for the operations listener, with a bound on every wait and on the size
// of headers. Its errors go to logger, which may be nil, a few lines a second
// at most. The caller starts and stops it.
func NewServer(h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:                      h,
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is answered by h as well
		ReadHeaderTimeout:            5 * time.Second,
		ReadTimeout:                  10 * time.Second,
		WriteTimeout:                 30 * time.Second,
		IdleTimeout:                  60 * time.Second,
		MaxHeaderBytes:               4 << 10, // and 4 KiB that net/http reads beyond it
		ErrorLog:                     slog.NewLogLogger(loglimit.New(logger, time.Now).Handler(), slog.LevelWarn),
	}
}
