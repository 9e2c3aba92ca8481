package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

type tailOptions struct {
	sink  string
	all   bool
	since time.Duration
	count int
	json  bool

	events admin.EventFilter
}

func tailCommand(c console) *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print events as they reach a sink",
		Long: `Subscribes to a sink's broker as any consumer does, and prints each event: when it was stored, its address, its data.
With --json each line is the event as a structured CloudEvent, with its address beside it.`,
		Example: `  fnbridge tail
  fnbridge tail --since 1h
  fnbridge tail --route 'application.*.request.failed,workflow.*.*.failure'
  fnbridge tail --sink kafka --all --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return tail(cmd.Context(), c, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.sink, "sink", "", "name of the sink (default: the first of FNBRIDGE_SINKS)")
	f.BoolVar(&o.all, "all", false, "begin with the oldest event that is stored")
	f.DurationVar(&o.since, "since", 0, "begin with what was stored this long ago, such as 1h")
	f.IntVar(&o.count, "count", 0, "end after this many events (default: go on until interrupted)")
	addEventFilter(cmd, &o.events)
	jsonFlag(cmd, &o.json)
	return cmd
}

var errEnough = errors.New("enough")

func tail(ctx context.Context, c console, o tailOptions) error {
	if o.all && o.since != 0 {
		return usageError{errors.New("--all and --since exclude each other")}
	}
	if o.count < 0 || o.since < 0 {
		return usageError{errors.New("--count and --since must not be negative")}
	}
	cfg, warnings, err := loadConfig(c)
	if err != nil {
		return err
	}
	printWarnings(c.err, warnings)
	sink, err := pickSink(cfg, o.sink)
	if err != nil {
		return err
	}
	start := admin.TailStart{All: o.all}
	if o.since > 0 {
		start.Since = time.Now().Add(-o.since)
	}
	if c.terminal && !o.json {
		fmt.Fprintf(c.err, "Waiting for events from sink %s. Ctrl-C ends.\n", sink.Name)
	}
	seen := 0
	log := slog.New(slog.NewTextHandler(c.err, nil))
	err = admin.Tail(ctx, sinkOf(cfg, sink, log), start, o.events, func(r admin.Received) error {
		if err := printReceived(c, r, o.json); err != nil {
			return err
		}
		if seen++; seen == o.count {
			return errEnough
		}
		return nil
	})
	if ctx.Err() == nil && !errors.Is(err, errEnough) {
		return err
	}
	return nil // Ctrl-C, or as many as were asked for
}

func pickSink(cfg *config.Config, name string) (config.Sink, error) {
	if name == "" {
		return cfg.Sinks[0], nil
	}
	for _, s := range cfg.Sinks {
		if s.Name == name {
			return s, nil
		}
	}
	return config.Sink{}, usageError{fmt.Errorf("no sink is called %q; FNBRIDGE_SINKS has %s", name, sinkNames(cfg))}
}

// sinkOf is a configured sink as commands go to its broker. log, which may be nil, hears of a broker that is away.
func sinkOf(cfg *config.Config, s config.Sink, log *slog.Logger) admin.Sink {
	return admin.Sink{
		Name: s.Name, Kind: s.Kind, Options: app.SinkOptions(cfg, s, log), Format: s.Format, Routes: s.Routes,
		Embedded: s.Embedded,
	}
}

func sinkNames(cfg *config.Config) string {
	names := make([]string, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func printReceived(c console, r admin.Received, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(c.out).Encode(r)
	}
	_, err := fmt.Fprintf(c.out, "%s  %s  %s\n", r.StoredAt.Local().Format("15:04:05.000"), printable(r.Address), printable(oneLine(r.Event.Data)))
	return err
}

// oneLine is data without the line breaks and indents that its sender may have put into it.
func oneLine(data []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return string(data)
	}
	return b.String()
}
