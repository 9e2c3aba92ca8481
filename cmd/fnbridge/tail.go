package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

type tailOptions struct {
	sink  string
	all   bool
	end   bool
	since timeFlag
	count int
	json  bool

	forward string

	events admin.EventFilter
}

func tailCommand(c console) *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Print events as they reach a sink",
		Long: `Subscribes to a sink's broker as any consumer does, and prints each event: when
it was stored, its address, its data. With --json each line is the event as a
structured CloudEvent, with its address beside it. A broker that is away is
waited for, with --end for 15 s.

With --forward each event is posted to a service of yours as an HTTP CloudEvent
in binary mode, one after the other, with a line for each answer. A service that
is down is waited for; 408, 425, 429 and 5xx are tried again, five times in all;
any other answer stands. What other consumers get is the same with and without
it: nothing is acknowledged, and no consumer is left behind at the broker.`,
		Example: `  fnbridge tail
  fnbridge tail --since 1h
  fnbridge tail --route 'application.*.request.failed,workflow.*.*.failure'
  fnbridge tail --sink kafka --all --end --json
  fnbridge tail --forward http://localhost:3000/hook --since 1h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return tail(cmd.Context(), c, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.sink, "sink", "", "name of the sink (default: the first of FNBRIDGE_SINKS)")
	f.BoolVar(&o.all, "all", false, "begin with the oldest event that is stored")
	f.Var(&o.since, "since", "begin with what was stored at this time: 90m, 2h or 3d ago, or as RFC 3339 has it")
	f.BoolVar(&o.end, "end", false, "end with what is stored now, instead of going on")
	f.IntVar(&o.count, "count", 0, "end after this many events (default: go on until interrupted)")
	f.StringVar(&o.forward, "forward", "", "post each event to the service at this URL, such as "+
		"http://localhost:3000/hook")
	addEventFilter(cmd, &o.events)
	jsonFlag(cmd, &o.json)
	return cmd
}

// endPatience is for how long tail --end waits for a broker that is away.
const endPatience = 15 * time.Second

var errEnough = errors.New("enough")

func tail(ctx context.Context, c console, o tailOptions) error {
	if o.all && !o.since.IsZero() {
		return usageError{errors.New("--all and --since exclude each other")}
	}
	if o.end && !o.all && o.since.IsZero() {
		return usageError{errors.New("--end needs --all or --since: without them it begins with what is stored from now on")}
	}
	if o.count < 0 {
		return usageError{errors.New("--count must not be negative")}
	}
	cfg, err := loadForSinks(c)
	if err != nil {
		return err
	}
	sink, err := pickSink(cfg, o.sink)
	if err != nil {
		return err
	}
	show, end, err := o.output(ctx, c, cfg, sink)
	if err != nil {
		return err
	}
	defer end()
	start := admin.TailStart{All: o.all, Since: o.since.Time, End: o.end}
	if o.end {
		start.Patience = endPatience
	}
	if c.terminal && !o.json && !o.end {
		fmt.Fprintf(c.err, "Waiting for events from sink %s. Ctrl-C ends.\n", sink.Name)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if out, ok := c.out.(*os.File); ok {
		go func() { // as long as the process: "| head" has enough before the next event comes
			if awaitClosed(out) {
				stop()
			}
		}()
	}
	seen, failed := 0, 0
	log := slog.New(slog.NewTextHandler(c.err, nil))
	from := app.AdminSink(cfg, sink, log)
	defer app.WatchFiles(ctx, cfg, &from.Options, log)()
	err = admin.Tail(ctx, from, start, o.events, func(r admin.Received) error {
		ok, err := show(r)
		if err != nil {
			return err
		}
		if !ok {
			failed++
		}
		if seen++; seen == o.count {
			return errEnough
		}
		return nil
	})
	switch {
	case ctx.Err() == nil && !errors.Is(err, errEnough):
		return err
	case failed > 0:
		return fmt.Errorf("the service did not take %d of %s", failed, plural(seen, "event"))
	default:
		return nil // Ctrl-C, nobody reads on, or as many as were asked for
	}
}

// output returns what shows an event, and tells whether that went well, and what is to be called at the end.
func (o *tailOptions) output(ctx context.Context, c console, cfg *config.Config, sink config.Sink) (
	show func(admin.Received) (bool, error), end func(), err error,
) {
	if o.forward == "" {
		return func(r admin.Received) (bool, error) { return true, printReceived(c, r, o.json) }, func() {}, nil
	}
	if sink.Format == "plain" {
		return nil, nil, fmt.Errorf("sink %s publishes in the plain format, whose events have no attributes and cannot be "+
			"forwarded as CloudEvents: forward those of another sink, or set %s to binary", sink.Name,
			cfg.Variable(sink.Name, "FORMAT"))
	}
	f, err := admin.NewForwarder(o.forward)
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("--forward: %w", err)}
	}
	return func(r admin.Received) (bool, error) {
		said := "" // a service that is away is said once
		return f.Forward(ctx, r, func(a admin.Forwarded) {
			if text := fmt.Sprint(a.Status, a.Err); a.Status != 0 || text != said {
				said = text
				printForwarded(c, r, a, o.json)
			}
		})
	}, f.Close, nil
}

// printForwarded prints what a service said to an event.
func printForwarded(c console, r admin.Received, a admin.Forwarded, asJSON bool) {
	problem := a.Detail
	if a.Err != nil {
		problem = a.Err.Error()
	}
	if asJSON {
		_ = encoder(c.out).Encode(struct { // the next event tells whether it can be written
			Address string  `json:"address"`
			EventID string  `json:"event_id"`
			Type    string  `json:"type"`
			Try     int     `json:"try"`
			Status  int     `json:"status,omitempty"`
			OK      bool    `json:"ok"`
			Problem string  `json:"problem,omitempty"`
			Seconds float64 `json:"seconds"`
			Again   float64 `json:"again_in_seconds,omitempty"`
		}{r.Address, r.Event.ID, r.Event.Type, a.Try, a.Status, a.OK(), problem, a.Took.Seconds(), a.Again.Seconds()})
		return
	}
	text := "no answer"
	if a.Status != 0 {
		text = fmt.Sprintf("%d in %s", a.Status, a.Took.Round(time.Millisecond))
	}
	if problem != "" {
		text += ": " + c.clip(problem, 200)
	}
	if a.Again > 0 {
		text += fmt.Sprintf(" (try %d, again in %s)", a.Try, a.Again)
	}
	fmt.Fprintln(c.out, c.wrap(2, time.Now().Format("15:04:05.000")+"  "+printable(r.Address)+"  "+printable(text)))
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

func sinkNames(cfg *config.Config) string {
	names := make([]string, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

func printReceived(c console, r admin.Received, asJSON bool) error {
	if asJSON {
		return encoder(c.out).Encode(r)
	}
	line := r.StoredAt.Local().Format("15:04:05.000") + "  " + printable(r.Address)
	data := printable(oneLine(r.Event.Data))
	if columns := c.columns(); columns > 0 && utf8.RuneCountInString(line+"  "+data) > columns {
		data = "\n  " + c.wrapJSON(2, data)
	} else {
		data = "  " + data
	}
	_, err := fmt.Fprintln(c.out, line+data)
	return err
}
