package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/journal"
)

func deadLettersCommand(c console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "Look at events that a sink's broker can never store",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deadLettersListCommand(c))
	return cmd
}

func deadLettersListCommand(c console) *cobra.Command {
	var filter journal.DeadLetterFilter
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Long:  `Reads the data directory, beside a running "fnbridge serve" or without one. With --json each line is one dead letter, with its whole event.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if filter.Limit < 1 {
				return usageError{errors.New("--limit must be at least 1")}
			}
			r, err := openReader(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			letters, err := r.DeadLetters(cmd.Context(), filter)
			if err != nil {
				return err
			}
			return printDeadLetters(c, letters, filter.Limit, asJSON)
		},
	}
	cmd.Flags().StringVar(&filter.Sink, "sink", "", "only those of this sink")
	cmd.Flags().IntVar(&filter.Limit, "limit", 100, "at most this many")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printDeadLetters(c console, letters []journal.DeadLetter, limit int, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(c.out)
		for _, l := range letters {
			if err := e.Encode(deadLetterJSON(l)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(letters) == 0 {
		_, err := fmt.Fprintln(c.out, "No dead letters.")
		return err
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSINK\tLAST TRIED\tTRIES\tTYPE\tWEBHOOK\tREASON")
	for _, l := range letters {
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t%s\t%s\n", l.ID, l.Sink, l.LastAt.Local().Format(time.DateTime), l.Attempts,
			printable(clip(l.EventType, 60)), printable(clip(l.WebhookID, 40)), printable(clip(l.Reason, 120)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(letters) == limit {
		fmt.Fprintf(c.out, "Shown are the first %d; --limit shows more.\n", limit)
	}
	return nil
}

// deadLetterJSON is a dead letter as programs get it: its data as JSON, not as base64. One that is not JSON is a string.
func deadLetterJSON(l journal.DeadLetter) any {
	data := json.RawMessage(l.Data)
	if !json.Valid(data) {
		data, _ = json.Marshal(string(l.Data)) // a string can always be
	}
	return struct {
		ID           int64           `json:"id"`
		Sink         string          `json:"sink"`
		Reason       string          `json:"reason"`
		Attempts     int             `json:"attempts"`
		FirstAt      time.Time       `json:"first_at"`
		LastAt       time.Time       `json:"last_at"`
		WebhookID    string          `json:"webhook_id"`
		EventIndex   int             `json:"event_index"`
		EventID      string          `json:"event_id"`
		Type         string          `json:"type"`
		Source       string          `json:"source"`
		Subject      string          `json:"subject,omitempty"`
		Time         time.Time       `json:"time"`
		PartitionKey string          `json:"partition_key"`
		Data         json.RawMessage `json:"data"`
	}{
		l.ID, l.Sink, l.Reason, l.Attempts, l.FirstAt, l.LastAt, l.WebhookID, l.EventIndex, l.EventID,
		l.EventType, l.EventSource, l.EventSubject, l.EventTime, l.PartitionKey, data,
	}
}

// clip keeps a long text from breaking a table.
func clip(s string, runes int) string {
	r := []rune(s)
	if len(r) <= runes {
		return s
	}
	return string(r[:runes-1]) + "…"
}
