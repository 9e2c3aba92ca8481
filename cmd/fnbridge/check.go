package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks"
)

// liveTimeout bounds check --live: a health check that takes longer has failed.
const liveTimeout = 3 * time.Second

func checkCommand(c console) *cobra.Command {
	var live, asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Validate the configuration and try every sink",
		Long: `Validates the configuration, then asks the broker of every sink whether events could be published now.
It publishes nothing; a stream or topic that the bridge may create is created. Exit code 0: all is well;
1: a sink cannot be published to; 2: the configuration is wrong.

With --live it only asks the running bridge's operations listener whether the process lives, as a container's health check does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if live {
				return checkLive(cmd.Context())
			}
			return check(cmd.Context(), c, timeout, asJSON)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "only ask the running bridge whether it lives")
	cmd.Flags().DurationVar(&timeout, "timeout", 15*time.Second, "how long each sink may take to answer")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// checkResult is what a check found of one sink.
type checkResult struct {
	Sink  string `json:"sink"`
	Kind  string `json:"kind"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Cause is "blocked" if somebody has to mend something, "retry" if it may pass by itself.
	Cause string `json:"cause,omitempty"`
}

func check(ctx context.Context, c console, timeout time.Duration, asJSON bool) error {
	cfg, warnings, err := loadConfig()
	if err != nil {
		return err
	}
	printWarnings(c.err, warnings)
	if !asJSON {
		fmt.Fprintln(c.out, "configuration  ok")
	}
	var failed error
	for _, s := range cfg.Sinks {
		r := checkSink(ctx, cfg, s, timeout)
		if !r.OK {
			failed = errReported
		}
		if err := printCheck(c, r, asJSON); err != nil {
			return err
		}
	}
	return failed
}

func checkSink(ctx context.Context, cfg *config.Config, s config.Sink, timeout time.Duration) checkResult {
	r := checkResult{Sink: s.Name, Kind: s.Kind}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sink, err := sinks.New(app.SinkOptions(cfg, s, slog.New(slog.DiscardHandler))) //nolint:contextcheck // Close ends what it starts
	if err != nil {
		err = bridge.Blocked(err) // one of the settings, or a file that they name
	} else {
		err = errors.Join(sink.Check(ctx), sink.Close(context.WithoutCancel(ctx)))
	}
	if err == nil {
		r.OK = true
		return r
	}
	r.Error = err.Error()
	r.Cause = bridge.KindOf(err).String()
	if s.NATS != nil && len(s.NATS.URL) == 0 {
		r.Error += "\nThis sink uses the embedded server, which runs while \"fnbridge serve\" does."
	}
	return r
}

func printCheck(c console, r checkResult, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(c.out).Encode(r)
	}
	text := "ok"
	if !r.OK {
		text = "cannot be published to (" + r.Cause + ")\n" + indent(printableLines(r.Error))
	}
	_, err := fmt.Fprintf(c.out, "sink %s (%s)  %s\n", r.Sink, r.Kind, text)
	return err
}

func checkLive(ctx context.Context) error {
	cfg, _, err := config.Load()
	if cfg == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+app.LocalAddress(cfg.OpsListen)+"/livez", http.NoBody)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the bridge does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("the bridge answers %s: %s", resp.Status, printable(strings.TrimSpace(string(text))))
	}
	return nil
}
