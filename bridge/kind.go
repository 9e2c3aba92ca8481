package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/fnbridge/fnbridge/bridge/reload"
)

// SinkOptions are what a sink of any kind is made with, beside the settings that its kind declares.
type SinkOptions struct {
	// Name is the sink's name in logs and errors.
	Name string
	// Format is how an event is written: binary, structured or plain, as bridge/cloudevents has them.
	Format string
	// DeadLetter is where dead letters are published to, and empty for nowhere.
	DeadLetter string
	// EmbeddedURL is where the embedded server is reached, for a sink that has no server of its own.
	EmbeddedURL string
	// EmbeddedToken is what the embedded server asks for; empty: nothing. It is for a sink that has no server of its own.
	EmbeddedToken string
	// RunsEmbedded tells that this process runs the embedded server. It alone changes the streams there; a command beside
	// it may have been given other settings.
	RunsEmbedded bool
	// EmbeddedMaxBytes is how many bytes of the embedded server's volume a stream of the sink may take, 0 for no limit. It
	// is for a sink that has no server of its own.
	EmbeddedMaxBytes int64
	// EmbeddedSync has what the embedded server acknowledges be on the disk. Nil: it is there when it is acknowledged.
	EmbeddedSync Syncer
	// Files tell where the settings came from and what people call them, and hear of their change. Nil: nothing changes.
	Files *reload.Part
	// Logger may be nil.
	Logger *slog.Logger
}

// Syncer has what a server on this machine has acknowledged be on its disk. It is safe for concurrent use.
type Syncer interface {
	// SyncFailures counts the syncs that the disk could not do. Each may have thrown away what was not on the disk yet,
	// although the server has it still.
	SyncFailures() int64
	// Sync returns nil once all that was sent since SyncFailures returned failures, and acknowledged before the call, is
	// on the disk. Its error says that ctx ended first, or that SyncFailures has grown.
	Sync(ctx context.Context, failures int64) error
}

// TailStart says from where a sink's events are read back. The zero TailStart reads what is stored from now on.
type TailStart struct {
	All   bool      // everything that is stored
	Since time.Time // what was stored from this time on; All comes first
	// End ends the reading at what is stored when it begins. Otherwise it goes on.
	End bool
	// Patience is for how long a broker that cannot be read is waited for; 0: as long as it takes.
	Patience time.Duration
}

// Waited returns nil unless the broker has not been read since that time for longer than there is patience, and err is
// the cause.
func (s TailStart) Waited(since time.Time, err error) error {
	if s.Patience == 0 || time.Since(since) < s.Patience {
		return nil
	}
	return fmt.Errorf("nothing could be read for %s: %w", s.Patience, err)
}
