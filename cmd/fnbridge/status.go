package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/config"
)

func statusCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the journal and how far each sink is",
		Long:  `Reads the data directory, beside a running "fnbridge serve" or without one. It never writes.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := openReader(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			s, err := r.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.out)
				e.SetIndent("", "  ")
				return e.Encode(statusJSON(s))
			}
			return printStatus(c, s, time.Now())
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// openReader opens the data directory beside whatever uses it. Only FNBRIDGE_DATA_DIR has to be right for that.
func openReader(ctx context.Context) (*journal.Reader, error) {
	cfg, _, err := config.Load()
	if cfg == nil {
		return nil, err
	}
	return journal.OpenReader(ctx, cfg.DataDir)
}

func printStatus(c console, s journal.Status, now time.Time) error {
	fmt.Fprintf(c.out, "journal  %s of %s, %s, newest number %d\n\n",
		bytesText(s.Bytes), bytesText(s.MaxBytes), plural(int(s.Webhooks), "webhook"), s.Head)
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SINK\tSTATE\tBACKLOG\tOLDEST\tDEAD LETTERS\tLAST ERROR")
	for _, sink := range s.Sinks {
		lastError := "-"
		if sink.State.LastError != "" {
			lastError = fmt.Sprintf("%s ago: %s", ageText(sink.State.LastErrorAt, now), printable(clip(sink.State.LastError, 160)))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", sink.Sink, stateText(sink), plural(int(sink.Backlog), "webhook"),
			ageText(sink.OldestUndelivered, now), sink.DeadLetters, lastError)
	}
	return w.Flush()
}

// stateText is a sink's state in a word.
func stateText(s journal.SinkStatus) string {
	switch {
	case !s.Configured:
		return "not configured"
	case s.State.State == "":
		return "unknown"
	default:
		return s.State.State
	}
}

// statusJSON is a status as programs get it. Times that are not there are left out.
func statusJSON(s journal.Status) any {
	type sink struct {
		Sink              string     `json:"sink"`
		Configured        bool       `json:"configured"`
		State             string     `json:"state"`
		Since             *time.Time `json:"since,omitempty"`
		BacklogWebhooks   int64      `json:"backlog_webhooks"`
		OldestUndelivered *time.Time `json:"oldest_undelivered_received_at,omitempty"`
		DeadLetters       int64      `json:"dead_letters"`
		LastError         string     `json:"last_error,omitempty"`
		LastErrorAt       *time.Time `json:"last_error_at,omitempty"`
		Cursor            int64      `json:"cursor"`
	}
	type document struct {
		JournalBytes    int64      `json:"journal_bytes"`
		JournalMaxBytes int64      `json:"journal_max_bytes"`
		Webhooks        int64      `json:"webhooks"`
		Head            int64      `json:"head"`
		Oldest          *time.Time `json:"oldest_received_at,omitempty"`
		Sinks           []sink     `json:"sinks"`
	}
	d := document{s.Bytes, s.MaxBytes, s.Webhooks, s.Head, optional(s.OldestReceivedAt), []sink{}}
	for _, k := range s.Sinks {
		d.Sinks = append(d.Sinks, sink{
			k.Sink, k.Configured, stateText(k), optional(k.State.Since), k.Backlog, optional(k.OldestUndelivered),
			k.DeadLetters, k.State.LastError, optional(k.State.LastErrorAt), k.Cursor,
		})
	}
	return d
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
