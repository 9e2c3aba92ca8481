package bridge

import (
	"log/slog"
	"time"
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
	// Logger may be nil.
	Logger *slog.Logger
}

// TailStart says from where a sink's events are read back. The zero TailStart reads what is stored from now on.
type TailStart struct {
	All   bool      // everything that is stored
	Since time.Time // what was stored from this time on; All comes first
}
