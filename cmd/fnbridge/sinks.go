package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/config"
)

func sinksCommand(c console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sinks",
		Short: "Look at the sinks that the journal knows, and rename or forget those that left",
		Long: `A sink that is taken out of FNBRIDGE_SINKS keeps what was accepted while it was
in the list, however long that is: it counts against FNBRIDGE_JOURNAL_MAX_BYTES.
Back in the list, it goes on with that, and then with what comes from then on.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(sinksListCommand(c), sinksRenameCommand(c), sinksForgetCommand(c))
	return cmd
}

func sinksListCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sinks that the journal knows, and what waits for each",
		Long: `Reads the data directory, beside a running "fnbridge serve" or without one. With
--json each line is one sink.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := journalDirectory()
			if err != nil {
				return err
			}
			s, err := admin.ReadStatus(cmd.Context(), cfg.DataDir)
			if err != nil {
				return noJournal(err, cfg)
			}
			if !asJSON {
				return printSinks(c, s.Sinks, time.Now())
			}
			e := encoder(c.out)
			for _, sink := range s.Sinks {
				if err := e.Encode(sink); err != nil {
					return err
				}
			}
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printSinks(c console, sinks []admin.SinkStatus, now time.Time) error {
	if len(sinks) == 0 {
		_, err := fmt.Fprintln(c.out, "No sinks.")
		return err
	}
	var rows [][]string
	for _, s := range sinks {
		configured := "yes"
		if !s.Configured {
			configured = "no"
			if s.RemovedAt != nil {
				configured = "no, for " + ageText(s.RemovedAt, now)
			}
		}
		rows = append(rows, []string{
			s.Sink, configured, plural(int(s.BacklogWebhooks), "webhook"),
			ageText(s.OldestUndelivered, now), fmt.Sprint(s.DeadLetters),
		})
	}
	return c.table([]string{"SINK", "CONFIGURED", "BACKLOG", "OLDEST", "DEAD LETTERS"}, rows)
}

// removedSinks says of each sink that is not configured any more, and for which something is kept, what to do about it.
func removedSinks(c console, sinks []admin.SinkStatus) {
	for _, s := range sinks {
		if !s.Configured && s.BacklogWebhooks+s.DeadLetters > 0 {
			held := heldText(admin.Held{Webhooks: s.BacklogWebhooks, DeadLetters: s.DeadLetters})
			fmt.Fprintln(c.out, "\n"+c.wrap(0, fmt.Sprintf("Sink %s is not configured, and the journal keeps %s for it. "+
				"\"fnbridge sinks rename %s NEW\" gives it to another name, \"fnbridge sinks forget %s\" drops it; back in "+
				"FNBRIDGE_SINKS, it goes on.", s.Sink, held, s.Sink, s.Sink)))
		}
	}
}

// heldText counts what the journal holds for a sink.
func heldText(h admin.Held) string {
	parts := []string{plural(int(h.Webhooks), "webhook")}
	if h.DeadLetters > 0 {
		parts = append(parts, plural(int(h.DeadLetters), "dead letter"))
	}
	if h.Streams > 0 {
		parts = append(parts, fmt.Sprintf("%d replays and retries", h.Streams))
	}
	return strings.Join(parts, ", ")
}

func sinksForgetCommand(c console) *cobra.Command {
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "forget name",
		Short: "Drop what is kept for a sink that is not configured any more",
		Long: `Drops for good what waits for a sink, its dead letters, replays and retries, and
what the journal knows of it, beside a running "fnbridge serve" or without one.
The sink must have left FNBRIDGE_SINKS, and a bridge have been started without
it. Configured again, it is a new sink. It asks first; without a terminal it
needs --yes.`,
		Example: `  fnbridge sinks forget audit`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: firstIsSink,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes && !c.asks {
				return usageError{errors.New("there is no terminal to ask on whether to drop what is kept for it: add --yes")}
			}
			return forgetSink(cmd.Context(), c, args[0], yes, asJSON)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func forgetSink(ctx context.Context, c console, sink string, yes, asJSON bool) error {
	cfg, err := journalDirectory()
	if err != nil {
		return err
	}
	held, configured, err := admin.CountHeld(ctx, cfg.DataDir, sink)
	if err != nil {
		return noJournal(err, cfg)
	}
	if !yes && !configured {
		answer, err := c.confirm(ctx, fmt.Sprintf("Forget sink %s and drop for good what is kept for it (%s)?",
			sink, heldText(held)))
		if err != nil {
			return err
		}
		if !answer {
			fmt.Fprintln(c.err, "Nothing was dropped.")
			return errReported
		}
	}
	change, err := admin.ForgetSink(ctx, cfg.DataDir, sink)
	switch {
	case err != nil:
		return err
	case asJSON:
		return encoder(c.out).Encode(change)
	}
	_, err = fmt.Fprintf(c.out, "Sink %s is forgotten. Dropped: %s.\n", sink, heldText(change.Held))
	return err
}

func sinksRenameCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rename old new",
		Short: "Give what is kept for a sink to another name",
		Long: `What waits for the sink, its dead letters, replays and retries go along, and
under the new name delivery goes on where it was. Neither name may be configured
in a bridge that runs: stop it, rename, change FNBRIDGE_SINKS and its variables,
and start it again. If it has already run with the new name, that sink takes
over what waits for the old one, and gets nothing twice.`,
		Example: `  fnbridge sinks rename kafka events`,
		Args:    cobra.ExactArgs(2), ValidArgsFunction: firstIsSink,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := config.CheckSinkName(args[1]); err != nil {
				return usageError{err}
			}
			cfg, err := journalDirectory()
			if err != nil {
				return err
			}
			change, err := admin.RenameSink(cmd.Context(), cfg.DataDir, args[0], args[1])
			switch {
			case err != nil:
				return noJournal(err, cfg)
			case asJSON:
				return encoder(c.out).Encode(change)
			}
			_, err = fmt.Fprintf(c.out, "Sink %s is now %s, with %s. In FNBRIDGE_SINKS it has to be %s when the bridge "+
				"starts next.\n",
				change.Sink, change.To, heldText(change.Held), change.To)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
