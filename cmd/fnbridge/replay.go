package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

type replayOptions struct {
	request admin.ReplayRequest
	times   timeRange
	all     bool
	dryRun  bool
	wait    bool
	json    bool
}

func replayCommand(c console) *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Publish events again that a sink was sent before",
		Long: `Has a sink get again what the journal still holds, for as long as
FNBRIDGE_RETENTION keeps it: the events of the webhooks that were received in a
range of time, with the ids that they had. JetStream stores them again, also
within its dedupe window. What has not reached the sink yet is on its way
anyway, and left out.

The replay is stored before the command returns: the running bridge makes it
beside what it receives, or else the next one does, and it goes on after a
restart. "replay list" shows how far it is, "replay cancel" ends it, --wait
waits for its end. It keeps what it has yet to publish in the journal; when that
is nearly full, it ends.`,
		Example: `  fnbridge replay --since 2h --wait
  fnbridge replay --sink kafka --application invoices \
    --since 2026-01-31T08:00:00Z --until 2026-01-31T09:00:00Z
  fnbridge replay --all --route 'application.*.request.failed' --dry-run
  fnbridge replay --all --rate 500`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return replay(cmd.Context(), c, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.request.Sink, "sink", "", "name of the sink (may be left out when there is one)")
	o.times.add(cmd, "received")
	f.BoolVar(&o.all, "all", false, "begin with the oldest webhook that the journal holds, instead of --since")
	addEventFilter(cmd, &o.request.EventFilter)
	f.Float64Var(&o.request.Rate, "rate", 0, "at most this many events a second (0: no limit)")
	f.BoolVar(&o.wait, "wait", false, "wait for the end, and show how far it is")
	f.BoolVar(&o.dryRun, "dry-run", false, "only count what would be published")
	jsonFlag(cmd, &o.json)
	cmd.AddCommand(replayListCommand(c), replayCancelCommand(c))
	return cmd
}

func replay(ctx context.Context, c console, o replayOptions) error {
	since := !o.times.since.IsZero()
	switch {
	case !since && !o.all:
		return usageError{errors.New("say from when on: --since 2h, a time, or --all")}
	case since && o.all:
		return usageError{errors.New("--all begins with the oldest webhook: leave it out, or --since")}
	case o.request.Rate != 0 && !(o.request.Rate >= minRate && o.request.Rate <= math.MaxFloat64): // catches NaN, too
		return usageError{fmt.Errorf("--rate must be at least %g events a second; 0: no limit", minRate)}
	case o.dryRun && o.wait:
		return usageError{errors.New("--dry-run publishes nothing to --wait for: leave one of them out")}
	}
	if err := o.times.check(); err != nil {
		return err
	}
	o.request.Since, o.request.Until = o.times.since.Time, o.times.until.Time
	if o.dryRun {
		return countReplay(ctx, c, o)
	}
	cfg, err := journalDirectory()
	if err != nil {
		return err
	}
	r, err := admin.AskReplay(ctx, cfg.DataDir, o.request)
	if err != nil {
		return noJournal(err, cfg)
	}
	switch {
	case o.wait:
		return waitForReplay(ctx, c, cfg, r, o.json)
	case o.json:
		return encoder(c.out).Encode(r)
	case r.Running:
		fmt.Fprintf(c.out, "Replay %d to sink %s has begun. \"fnbridge replay list\" shows how far it is, \"fnbridge "+
			"replay cancel %d\" ends it.\n",
			r.Replay, r.Sink, r.Replay)
	default:
		fmt.Fprintf(c.out, "Replay %d to sink %s begins when \"fnbridge serve\" starts: it does not run now.\n",
			r.Replay, r.Sink)
	}
	return nil
}

func countReplay(ctx context.Context, c console, o replayOptions) error {
	cfg, err := loadForEvents("ROUTES")
	if err != nil {
		return err
	}
	routes := make(map[string]string, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		routes[s.Name] = s.Routes
	}
	sink, webhooks, events, err := admin.CountReplay(ctx, cfg.DataDir, o.request, app.EventOptions(cfg), routes)
	if err != nil {
		return noJournal(err, cfg)
	}
	if o.json {
		return encoder(c.out).Encode(struct {
			Sink     string `json:"sink"`
			Webhooks int64  `json:"webhooks"`
			Events   int64  `json:"events"`
		}{sink, webhooks, events})
	}
	_, err = fmt.Fprintf(c.out, "%s, from %s in that time, would be published to sink %s again.\n",
		plural(int(events), "event"), plural(int(webhooks), "webhook"), sink)
	return err
}

// waitForReplay returns when a replay has ended. The end of ctx does not end it.
func waitForReplay(ctx context.Context, c console, cfg *config.Config, r admin.Replay, asJSON bool) error {
	if !r.Running {
		fmt.Fprintf(c.err, "Replay %d begins when \"fnbridge serve\" starts: it does not run now.\n", r.Replay)
	}
	p := newProgress(c)
	defer p.clear()
	begun, webhooks := time.Now(), r.Webhooks
	again := time.NewTicker(replayInterval)
	defer again.Stop()
	for r.State == admin.ReplayRunning {
		if asJSON {
			_ = encoder(c.out).Encode(r) // the last line tells whether it can be written
		} else {
			p.at(webhooks-r.Webhooks, webhooks, "webhooks", replayed(r))
		}
		select {
		case <-ctx.Done():
			p.clear()
			return fmt.Errorf("interrupted, but replay %d goes on: \"fnbridge replay cancel %d\" ends it", r.Replay, r.Replay)
		case <-again.C:
		}
		all, err := admin.ReadReplays(ctx, cfg.DataDir)
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			return err
		}
		at := slices.IndexFunc(all, func(one admin.Replay) bool { return one.Replay == r.Replay })
		if at < 0 {
			return fmt.Errorf("replay %d is gone: the sink %s was forgotten", r.Replay, r.Sink)
		}
		r = all[at]
	}
	p.clear()
	if asJSON {
		if err := encoder(c.out).Encode(r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.out, "%s, to sink %s, in %s.\n", replayed(r), r.Sink, time.Since(begun).Round(time.Millisecond))
	}
	if r.State != admin.ReplayDone {
		return fmt.Errorf("replay %d %s", r.Replay, endText(r.State))
	}
	return nil
}

// replayInterval is how often --wait looks how far a replay is.
const replayInterval = 250 * time.Millisecond

// replayed says how far a replay came.
func replayed(r admin.Replay) string {
	text := plural(int(r.Published), "event") + " published"
	if r.DeadLetters > 0 {
		text += fmt.Sprintf("; %s (\"fnbridge dead-letters list\")", plural(int(r.DeadLetters), "dead letter"))
	}
	return text
}

func endText(state string) string {
	switch state {
	case admin.ReplayNoRoom:
		return "was ended, since the journal is nearly full"
	case admin.ReplayCancelled:
		return "was cancelled"
	default:
		return "is " + state
	}
}

func replayListCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List replays: those that run, and the last of those that have ended",
		Long: `Reads the data directory, beside a running "fnbridge serve" or without one.
LETTERS are the events that became dead letters, LEFT the webhooks that are yet
to be read. With --json each line is one replay.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := journalDirectory()
			if err != nil {
				return err
			}
			replays, err := admin.ReadReplays(cmd.Context(), cfg.DataDir)
			if err != nil {
				return noJournal(err, cfg)
			}
			if asJSON {
				e := encoder(c.out)
				for _, r := range replays {
					if err := e.Encode(r); err != nil {
						return err
					}
				}
				return nil
			}
			return printReplays(c, replays)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printReplays(c console, replays []admin.Replay) error {
	if len(replays) == 0 {
		_, err := fmt.Fprintln(c.out, "No replays.")
		return err
	}
	var rows [][]string
	for _, r := range replays {
		rows = append(rows, []string{
			fmt.Sprint(r.Replay), r.Sink, r.State, r.AskedAt.Local().Format(time.DateTime),
			fmt.Sprint(r.Events), fmt.Sprint(r.Published), fmt.Sprint(r.DeadLetters), fmt.Sprint(r.Webhooks),
		})
	}
	return c.table([]string{"REPLAY", "SINK", "STATE", "ASKED", "EVENTS", "PUBLISHED", "LETTERS", "LEFT"}, rows)
}

func replayCancelCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "cancel number",
		Short: "End a replay",
		Long: `Ends a replay, whether a bridge runs or not. What is under way to the sink at
that moment reaches it.`,
		Example: "  fnbridge replay cancel 3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || number < 1 {
				return usageError{fmt.Errorf("%q is no replay's number, as \"fnbridge replay list\" shows them", args[0])}
			}
			cfg, err := journalDirectory()
			if err != nil {
				return err
			}
			cancelled, err := admin.CancelReplay(cmd.Context(), cfg.DataDir, number)
			switch {
			case err != nil:
				return noJournal(err, cfg)
			case asJSON:
				err = encoder(c.out).Encode(struct {
					Replay    int64 `json:"replay"`
					Cancelled bool  `json:"cancelled"`
				}{number, cancelled})
			case cancelled:
				_, err = fmt.Fprintf(c.out, "Replay %d was cancelled.\n", number)
			}
			if err == nil && !cancelled {
				err = fmt.Errorf("no replay %d runs: \"fnbridge replay list\" shows those that do", number)
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
