package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

func checkCommand(c console) *cobra.Command {
	var live, asJSON bool
	timeout := durationFlag(15 * time.Second)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Validate the configuration and try every sink",
		Long: `Goes through what a bridge needs, and says of each step what was found or what
to do: configuration, webhook secrets, data directory and free space, the public
listener and its certificate; of every sink the name, the connection, TLS, the
login, the clock, stream or topic with its limits, and whether events could be
published now. It stores nothing; a stream or topic that the bridge may create
is created.

A tick is well, "!" a warning, which ends nothing, "–" what cannot be told. That
dead letters could not be published to an address of their own is a warning, and
so is a stream or topic that may lose what it has acknowledged, or that is full
within a day. A bridge that runs with this configuration is asked whether it
takes webhooks. Exit code 0: all is well;
1: a step fails, or the bridge is not ready; 2: the configuration is wrong.

With --json the first line is the bridge and this machine, and each other line a
sink.

With --live it only asks the running bridge's operations listener whether the
process lives, as a container's health check does.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if live {
				return checkLive(cmd.Context())
			}
			if timeout == 0 {
				return usageError{errors.New("--timeout is 0: give more, such as 15s")}
			}
			return check(cmd.Context(), c, time.Duration(timeout), asJSON)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "only ask the running bridge whether it lives")
	cmd.Flags().Var(&timeout, "timeout", "how long each sink may take to answer")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func check(ctx context.Context, c console, timeout time.Duration, asJSON bool) error {
	cfg, found, err := loadConfig(c)
	if err != nil {
		return err
	}
	warnings := app.Warnings(cfg, found)
	if !asJSON {
		for _, w := range warnings {
			fmt.Fprintf(c.err, "warning: %s\n", printable(w.Text))
		}
	}
	r := checkBridge(ctx, cfg)
	r.Warnings = warnings
	if err := printBridge(c, r, asJSON); err != nil {
		return err
	}
	ok := r.OK
	for _, s := range cfg.Sinks {
		r := checkSink(ctx, cfg, s, timeout)
		ok = ok && r.OK
		if err := printCheck(c, r, asJSON); err != nil {
			return err
		}
	}
	if !ok {
		return errReported
	}
	return nil
}

// checkBridge goes through the steps on this machine, and asks the bridge that runs with this configuration, if one
// does, whether it takes webhooks.
func checkBridge(ctx context.Context, cfg *config.Config) admin.BridgeCheck {
	r := admin.BridgeCheck{Bridge: cfg.OpsListen}
	for _, step := range app.Examine(ctx, cfg) {
		shown := admin.ShownStep(step)
		r.Steps = append(r.Steps, shown)
		if step.Err != nil && r.Error == "" {
			r.Error = shown.Detail
		}
	}
	// That none runs, which is the error, is none of this command's business.
	r.NotReady, _ = admin.AskReady(ctx, app.LocalAddress(cfg.OpsListen))
	r.Error = cmp.Or(r.NotReady, r.Error)
	r.OK = r.Error == ""
	return r
}

func printBridge(c console, r admin.BridgeCheck, asJSON bool) error {
	if asJSON {
		return encoder(c.out).Encode(r)
	}
	fmt.Fprintln(c.out, "configuration  ok")
	for _, step := range r.Steps {
		if err := printStep(c, step, ""); err != nil {
			return err
		}
	}
	if r.NotReady == "" {
		return nil
	}
	_, err := fmt.Fprintf(c.out, "bridge         not ready%s\n", c.below("  ", printableLines(r.NotReady)))
	return err
}

// printStep prints a step with its mark, behind an indent.
func printStep(c console, s admin.CheckStep, indent string) error {
	mark := map[string]string{"ok": "✓", "warning": "!", "failed": "✗", "skipped": "–"}[s.State]
	beside := fmt.Sprintf("%s%s %-22s ", indent, mark, s.Step)
	first, more, _ := strings.Cut(printableLines(s.Detail), "\n")
	text := beside + c.wrap(utf8.RuneCountInString(beside), first)
	_, err := fmt.Fprintln(c.out, text+c.below(indent+"    ", more))
	return err
}

func checkSink(ctx context.Context, cfg *config.Config, s config.Sink, timeout time.Duration) admin.SinkCheck {
	return admin.CheckSink(ctx, app.AdminSink(cfg, s, nil), app.Largest(cfg, s), timeout)
}

func printCheck(c console, r admin.SinkCheck, asJSON bool) error {
	if asJSON {
		return encoder(c.out).Encode(r)
	}
	text := "ok"
	if !r.OK {
		text = "cannot be published to, " + outlook(r.Cause) + c.below("  ", printableLines(r.Error))
	}
	if r.Warning != "" {
		text += c.below("  ", printableLines("warning: dead letters cannot be published to their address: "+r.Warning))
	}
	if r.Storage != nil {
		text += c.below("  ", printable(storageText(*r.Storage, time.Now())))
	}
	for _, warning := range r.Warnings {
		text += c.below("  ", printableLines("warning: "+warning.Text))
	}
	if _, err := fmt.Fprintf(c.out, "sink %s (%s)  %s\n", r.Sink, r.Kind, text); err != nil {
		return err
	}
	for _, step := range r.Steps {
		if err := printStep(c, step, "  "); err != nil {
			return err
		}
	}
	return nil
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
