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
			defer r.Close() //nolint:errcheck // nothing was written
			s, err := r.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(c.out)
				e.SetIndent("", "  ")
				return e.Encode(s)
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
		bytesText(s.BytesUsed), bytesText(s.BytesMax), plural(int(s.Webhooks), "webhook"), s.Head)
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SINK\tSTATE\tBACKLOG\tOLDEST\tDEAD LETTERS\tLAST ERROR")
	for _, sink := range s.Sinks {
		state := sink.State.State
		if state == "" {
			state = "unknown"
		}
		lastError := "-"
		if sink.State.LastError != "" {
			lastError = fmt.Sprintf("%s ago: %s", ageText(sink.State.LastErrorAt, now), printable(clip(sink.State.LastError, 160)))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", sink.Name, state, plural(int(sink.Backlog), "webhook"),
			ageText(sink.Oldest, now), sink.DeadLetters, lastError)
	}
	return w.Flush()
}
