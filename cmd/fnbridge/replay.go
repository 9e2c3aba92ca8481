package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
)

type replayOptions struct {
	request admin.ReplayRequest
	times   timeRange
	all     bool
	dryRun  bool
	json    bool
}

func replayCommand(c console) *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Publish events again that a sink was sent before",
		Long: `Has the running bridge publish again what its journal still holds, for as long as FNBRIDGE_RETENTION keeps it: the events of
the webhooks that were received in a range of time, with the ids that they had. They go behind what the bridge receives meanwhile. JetStream stores them again, also within its dedupe window. What has
not reached the sink yet is on its way anyway, and left out.

Ctrl-C ends the replay. --dry-run only counts, and works without a running bridge, too.
`,
		Example: `  fnbridge replay --since 2h
  fnbridge replay --sink kafka --since 2026-01-31T08:00:00Z --until 2026-01-31T09:00:00Z --application invoices
  fnbridge replay --all --route 'application.*.request.failed' --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return replay(cmd.Context(), c, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.request.Sink, "sink", "", "name of the sink (may be left out when there is one)")
	o.times.add(cmd, "received")
	f.BoolVar(&o.all, "all", false, "everything that the journal holds, instead of --since and --until")
	addEventFilter(cmd, &o.request.EventFilter)
	f.BoolVar(&o.dryRun, "dry-run", false, "only count what would be published")
	jsonFlag(cmd, &o.json)
	return cmd
}

func replay(ctx context.Context, c console, o replayOptions) error {
	ranged := !o.times.since.IsZero() || !o.times.until.IsZero()
	switch {
	case !ranged && !o.all:
		return usageError{errors.New("say from when on: --since 2h, a time, or --all")}
	case ranged && o.all:
		return usageError{errors.New("--all stands for every time: leave it out, or --since and --until")}
	}
	if err := o.times.check(); err != nil {
		return err
	}
	o.request.Since, o.request.Until = o.times.since.Time, o.times.until.Time
	cfg, err := journalDirectory()
	if err != nil {
		return err
	}
	if o.dryRun {
		routes := make(map[string]string, len(cfg.Sinks))
		for _, s := range cfg.Sinks {
			routes[s.Name] = s.Routes
		}
		p, err := admin.CountReplay(ctx, cfg.DataDir, o.request, app.EventOptions(cfg), routes)
		if err != nil {
			return noJournal(err, cfg)
		}
		return printReplayCount(c, p, o.json)
	}
	v := &replayView{console: c, json: o.json, progress: newProgress(c), begun: time.Now()}
	v.waiting()
	p, err := admin.Replay(ctx, cfg.DataDir, o.request, v.update)
	v.progress.clear()
	switch {
	case ctx.Err() != nil && err != nil:
		return fmt.Errorf("interrupted: %s", replayed(p))
	case errors.Is(err, admin.ErrNotRunning):
		return fmt.Errorf("%w\nA replay goes through the running bridge: start \"fnbridge serve\" on %s, or count with --dry-run", err, cfg.DataDir)
	case err != nil && p.Events > 0:
		return fmt.Errorf("%w\nUntil then: %s", err, replayed(p))
	case err != nil:
		return err
	}
	return v.end(p)
}

func printReplayCount(c console, p admin.ReplayProgress, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(c.out).Encode(struct {
			Sink     string `json:"sink"`
			Webhooks int64  `json:"webhooks"`
			Events   int64  `json:"events"`
		}{p.Sink, p.Webhooks, p.Events})
	}
	_, err := fmt.Fprintf(c.out, "%s of %s would be published to sink %s again.\n", plural(int(p.Events), "event"), plural(int(p.Webhooks), "webhook"), p.Sink)
	return err
}

// replayed says how far a replay came.
func replayed(p admin.ReplayProgress) string {
	text := fmt.Sprintf("%s published, from %d of %s", plural(int(p.Published), "event"), p.WebhooksRead, plural(int(p.Webhooks), "webhook"))
	if p.DeadLetters > 0 {
		text += fmt.Sprintf("; %s (\"fnbridge dead-letters list\")", plural(int(p.DeadLetters), "dead letter"))
	}
	return text
}

// replayView shows a replay.
type replayView struct {
	console
	json     bool
	progress *progress
	begun    time.Time
}

func (v *replayView) waiting() {
	if v.errTerminal && !v.json {
		v.progress.show("waiting for the sink; \"fnbridge status\" says how it is. Ctrl-C ends the replay")
	}
}

func (v *replayView) update(p admin.ReplayProgress) {
	if v.json {
		_ = json.NewEncoder(v.out).Encode(p) // the last line tells whether it can be written
		return
	}
	text := replayed(p)
	elapsed := time.Since(v.begun)
	if done := p.Published + p.DeadLetters; done > 0 && elapsed >= time.Second {
		text += fmt.Sprintf(", %.0f events/s", float64(done)/elapsed.Seconds())
	}
	if p.WebhooksRead > 0 && p.WebhooksRead < p.Webhooks && elapsed >= time.Second {
		left := time.Duration(float64(elapsed) * float64(p.Webhooks-p.WebhooksRead) / float64(p.WebhooksRead))
		text += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	v.progress.show(text)
}

func (v *replayView) end(p admin.ReplayProgress) error {
	if v.json {
		return json.NewEncoder(v.out).Encode(struct {
			admin.ReplayProgress
			Done bool `json:"done"`
		}{p, true})
	}
	fmt.Fprintf(v.out, "%s, to sink %s, in %s.\n", replayed(p), p.Sink, time.Since(v.begun).Round(time.Millisecond))
	return nil
}
