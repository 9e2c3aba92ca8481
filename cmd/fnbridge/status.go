package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

func statusCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the journal and how far each sink is",
		Long: `Reads the data directory, beside a running "fnbridge serve" or without one, and asks the operations listener whether
the bridge runs. It never writes. With FNBRIDGE_ACK=sinks, where nothing is stored, it asks the operations listener alone.

A sink is up, degraded (it takes only part of the events), down (it takes none; they are tried again by themselves)
or blocked (somebody has to mend what its last error says).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := dataDirectory()
			if err != nil {
				return err
			}
			if cfg.AcksFromSinks() {
				return liveStatus(cmd.Context(), c, cfg, asJSON)
			}
			s, err := admin.ReadStatus(cmd.Context(), cfg.DataDir)
			if err != nil {
				return noJournal(err, cfg)
			}
			notLive := admin.CheckLive(cmd.Context(), app.LocalAddress(cfg.OpsListen))
			if asJSON {
				e := json.NewEncoder(c.out)
				e.SetIndent("", "  ")
				return e.Encode(struct {
					Live bool `json:"live"`
					admin.Status
				}{notLive == nil, s})
			}
			if notLive == nil {
				fmt.Fprintf(c.out, "bridge   running: %s answers\n", cfg.OpsListen)
			} else {
				fmt.Fprintf(c.out, "bridge   not running, or its operations listener is not at %s; below is what it left\n", cfg.OpsListen)
			}
			return printStatus(c, s, time.Now())
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// dataDirectory reads the configuration for a command that only looks into the data directory: of all variables, only
// FNBRIDGE_DATA_DIR has to be right for that.
func dataDirectory() (*config.Config, error) {
	cfg, _, err := app.LoadConfig(os.Environ())
	if cfg == nil {
		return nil, err
	}
	return cfg, nil
}

var errNoJournal = errors.New("with FNBRIDGE_ACK=sinks there is no journal: webhooks are published before they are answered, and what a sink can never store " +
	"goes to FNBRIDGE_<SINK>_DEAD_LETTER or is answered 422. To look at a journal from before, run this command with FNBRIDGE_ACK=journal")

// journalDirectory is dataDirectory for a command that needs a journal.
func journalDirectory() (*config.Config, error) {
	cfg, err := dataDirectory()
	if err == nil && cfg.AcksFromSinks() {
		return nil, errNoJournal
	}
	return cfg, err
}

// liveStatus shows the status of a bridge that stores nothing.
func liveStatus(ctx context.Context, c console, cfg *config.Config, asJSON bool) error {
	s, err := admin.ReadLiveStatus(ctx, app.LocalAddress(cfg.OpsListen))
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.out, s)
	}
	ready := "ready"
	if !s.Ready {
		ready = "not ready: " + printable(s.NotReady)
	}
	fmt.Fprintf(c.out, "bridge   running (%s), %s\n", cfg.OpsListen, ready)
	fmt.Fprintf(c.out, "queue    %s, %s, not stored here: a webhook is answered when its sinks have it\n\n", plural(s.Webhooks, "webhook"), bytesText(s.Bytes))
	now := time.Now()
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SINK\tSTATE\tREQUIRED\tUNDER WAY\tLAST ERROR")
	for _, sink := range s.Sinks {
		state, required, lastError := sink.State, "yes", "-"
		if state == "" {
			state = "unknown"
		}
		if !sink.Required {
			required = "no"
		}
		if sink.LastError != "" {
			lastError = fmt.Sprintf("%s ago: %s", ageText(sink.LastErrorAt, now), printable(clip(sink.LastError, 160)))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", sink.Sink, state, required, plural(int(sink.Webhooks), "webhook"), lastError)
	}
	return w.Flush()
}

// noJournal says of a data directory without a journal what to do about it. Other errors stay as they are.
func noJournal(err error, cfg *config.Config) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("there is no journal in %s: set FNBRIDGE_DATA_DIR to the directory that \"fnbridge serve\" uses, or start it there first", cfg.DataDir)
}

func printStatus(c console, s admin.Status, now time.Time) error {
	fmt.Fprintf(c.out, "journal  %s of %s, %s, newest is number %d\n\n",
		bytesText(s.JournalBytes), bytesText(s.JournalMaxBytes), plural(int(s.Webhooks), "webhook"), s.Head)
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SINK\tSTATE\tBACKLOG\tOLDEST\tDEAD LETTERS\tLAST ERROR")
	for _, sink := range s.Sinks {
		lastError := "-"
		if sink.LastError != "" {
			lastError = fmt.Sprintf("%s ago: %s", ageText(sink.LastErrorAt, now), printable(clip(sink.LastError, 160)))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", sink.Sink, stateText(sink), plural(int(sink.BacklogWebhooks), "webhook"),
			ageText(sink.OldestUndelivered, now), sink.DeadLetters, lastError)
	}
	return w.Flush()
}

// stateText is a sink's state for people.
func stateText(s admin.SinkStatus) string {
	switch {
	case !s.Configured:
		return "not configured"
	case s.State == "":
		return "unknown"
	default:
		return s.State
	}
}
