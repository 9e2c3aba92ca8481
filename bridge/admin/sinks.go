package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/fnbridge/fnbridge/bridge/journal"
)

// Where the control socket takes changes of sinks that are no longer configured.
const (
	forgetPath = "/v1/sinks/forget"
	renamePath = "/v1/sinks/rename"
)

// Held is what the journal holds for a sink.
type Held = journal.Held

// SinkChange is what became of a sink.
type SinkChange struct {
	Sink string `json:"sink"`
	// To is its new name; empty if it was forgotten.
	To string `json:"to,omitempty"`
	// Held was dropped, or has gone along.
	Held
	// Running tells whether a running bridge did it, and not the command by itself.
	Running bool `json:"running"`
}

// CountHeld counts what the journal in dir holds for a sink, and tells whether that is configured. One that the journal
// does not know is an *UnknownSinkError. It works beside a running bridge and writes nothing.
func CountHeld(ctx context.Context, dir, sink string) (h Held, configured bool, err error) {
	r, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return h, false, err
	}
	defer r.Close()
	status, err := r.Status(ctx)
	if err != nil {
		return h, false, err
	}
	s, err := sinkOf(status, sink)
	if err != nil {
		return h, false, err
	}
	streams, err := r.AllStreams(ctx)
	h = Held{Webhooks: s.Backlog, DeadLetters: s.DeadLetters}
	for i := range streams {
		if streams[i].Sink == sink && streams[i].End == "" {
			h.Streams++
		}
	}
	return h, s.Configured, err
}

// ForgetSink drops all that the journal in dir holds for a sink that is not configured any more, and what it knows of
// it. After an error some dead letters may be gone.
func ForgetSink(ctx context.Context, dir, sink string) (SinkChange, error) {
	return changeSink(ctx, dir, forgetPath, SinkChange{Sink: sink}, forgetSink)
}

// RenameSink gives what the journal in dir holds for a sink to another name, under which the next bridge goes on. The
// sink's old and new name must not be configured in a bridge that runs. A sink of the new name that came after the old
// one had left takes over what waits for that one.
func RenameSink(ctx context.Context, dir, sink, to string) (SinkChange, error) {
	return changeSink(ctx, dir, renamePath, SinkChange{Sink: sink, To: to}, renameSink)
}

func changeSink(
	ctx context.Context, dir, path string, c SinkChange,
	do func(context.Context, *journal.Journal, SinkChange) (SinkChange, error),
) (SinkChange, error) {
	if _, _, err := CountHeld(ctx, dir, c.Sink); err != nil {
		return c, err
	}
	asked := c
	running, err := changeJournal(ctx, dir, path, asked, &c, func(j *journal.Journal) (err error) {
		c, err = do(ctx, j, asked)
		return err
	})
	c.Running = running
	return c, err
}

func forgetSink(ctx context.Context, j *journal.Journal, c SinkChange) (_ SinkChange, err error) {
	c.Held, err = j.ForgetSink(ctx, c.Sink)
	if err != nil && c.DeadLetters > 0 {
		err = fmt.Errorf("%w; %d dead letters were dropped before", err, c.DeadLetters)
	}
	return c, err
}

func renameSink(ctx context.Context, j *journal.Journal, c SinkChange) (_ SinkChange, err error) {
	c.Held, err = j.RenameSink(ctx, c.Sink, c.To)
	return c, err
}

// changesSink answers requests to forget or to rename a sink.
func (p Parts) changesSink(
	verb string, do func(context.Context, *journal.Journal, SinkChange) (SinkChange, error),
) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked SinkChange
		if !readRequest(w, r, &asked) {
			return
		}
		c, err := do(r.Context(), p.Journal, asked)
		if err != nil {
			refuse(w, http.StatusUnprocessableEntity, err)
			return
		}
		p.Logger.Info("a command changed a sink that is not configured", "change", verb, "sink", c.Sink, "to", c.To,
			"webhooks", c.Webhooks, "dead_letters", c.DeadLetters, "streams", c.Streams)
		answer(w, c)
	}
}
