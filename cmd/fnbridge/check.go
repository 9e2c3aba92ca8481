package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

func checkCommand(c console) *cobra.Command {
	var live, asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Validate the configuration and try every sink",
		Long: `Validates the configuration, then asks the broker of every sink whether events could be published now.
It stores nothing; a stream or topic that the bridge may create is created. That dead letters could not be published to
an address of their own is a warning, since events can be all the same; so is a topic that may lose what it has
acknowledged. Exit code 0: all is well;
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

func check(ctx context.Context, c console, timeout time.Duration, asJSON bool) error {
	cfg, warnings, err := loadConfig(c)
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

func checkSink(ctx context.Context, cfg *config.Config, s config.Sink, timeout time.Duration) admin.SinkCheck {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return admin.CheckSink(ctx, sinkOf(cfg, s, nil))
}

func printCheck(c console, r admin.SinkCheck, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(c.out).Encode(r)
	}
	text := "ok"
	if !r.OK {
		text = "cannot be published to, " + outlook(r.Cause) + "\n" + indent(printableLines(r.Error))
	}
	if r.Warning != "" {
		text += "\n" + indent(printableLines("warning: dead letters cannot be published to their address: "+r.Warning))
	}
	for _, warning := range r.Warnings {
		text += "\n" + indent(printableLines("warning: "+warning))
	}
	_, err := fmt.Fprintf(c.out, "sink %s (%s)  %s\n", r.Sink, r.Kind, text)
	return err
}

// outlook says for people what the cause of a failed check means.
func outlook(cause string) string {
	if cause == "blocked" {
		return "until somebody mends it"
	}
	return "though that may pass by itself"
}

func checkLive(ctx context.Context) error {
	cfg, _, err := app.LoadConfig(os.Environ())
	if cfg == nil {
		return err
	}
	return admin.CheckLive(ctx, app.LocalAddress(cfg.OpsListen))
}
