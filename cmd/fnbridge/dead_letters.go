package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/app"
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
	var sink string
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Long:  `Reads the data directory, beside a running "fnbridge serve" or without one. With --json each line is one dead letter, with its whole event.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usageError{errors.New("--limit must be at least 1")}
			}
			cfg, err := dataDirectory()
			if err != nil {
				return err
			}
			letters, err := app.ReadDeadLetters(cmd.Context(), cfg, sink, limit)
			if err != nil {
				return noJournal(err, cfg)
			}
			return printDeadLetters(c, letters, limit, asJSON)
		},
	}
	cmd.Flags().StringVar(&sink, "sink", "", "only those of this sink")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printDeadLetters(c console, letters []app.DeadLetter, limit int, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(c.out)
		for _, l := range letters {
			if err := e.Encode(l); err != nil {
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
			printable(clip(l.Type, 60)), printable(clip(l.WebhookID, 40)), printable(clip(l.Reason, 120)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(letters) == limit {
		fmt.Fprintf(c.out, "Shown are the first %d; --limit shows more.\n", limit)
	}
	return nil
}

// clip keeps a long text from breaking a table.
func clip(s string, runes int) string {
	r := []rune(s)
	if len(r) <= runes {
		return s
	}
	return string(r[:runes-1]) + "…"
}
