// Package insist goes on while the journal fails.
package insist

import (
	"context"
	"log/slog"
	"time"
)

// Pause is the wait after the journal failed to read or to write.
const Pause = time.Second

// Read calls read until it succeeds, and tells whether it did before ctx ended. The log has when the journal fails
// and when it no longer does.
func Read(ctx context.Context, log *slog.Logger, sink string, read func() error) bool {
	for failed := false; ; failed = true {
		err := read()
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			if failed {
				log.Info("the journal can be read again", "sink", sink)
			}
			return true
		}
		if !failed {
			log.Error("the journal cannot be read; trying again every second", "sink", sink, "error", err)
		}
		Wait(ctx, Pause)
	}
}

// Wait waits for d, or until ctx ends.
func Wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
