package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

const serveName = "serve"

func serveCommand(c console) *cobra.Command {
	return &cobra.Command{
		Use:   serveName,
		Short: "Run the bridge",
		Long: `Runs the bridge until SIGINT, SIGTERM or SIGHUP, which nohup keeps away. Then
it stops taking webhooks, finishes what is under way within
FNBRIDGE_SHUTDOWN_TIMEOUT and exits with 0. Events that have not reached a sink
by then wait in the data directory.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), c) },
	}
}

// gcPercent is how much of its live heap, in percent, a bridge allocates until memory is collected, unless GOGC says
// otherwise. Little lives on: nearly all goes with its webhook.
const gcPercent = 200

func serve(ctx context.Context, c console) error {
	if _, isSet := os.LookupEnv("GOGC"); !isSet { //nolint:forbidigo // Go's variable, and not the bridge's
		debug.SetGCPercent(gcPercent)
	}
	limitMemory()
	c.err = briefWriter{c.err} // nor does the start wait for who reads no more
	cfg, warnings, err := loadConfig(c)
	if err != nil {
		return err
	}
	// A process whose log nobody reads any more goes on.
	signal.Ignore(syscall.SIGPIPE)
	lines := newLogWriter(c.out)
	c.out = lines
	logger := newLogger(c, cfg)
	stop := make(chan struct{})
	var saying sync.WaitGroup
	saying.Go(func() { lines.sayLeftOut(logger, stop) })
	defer func() {
		close(stop)
		saying.Wait()
		_ = lines.Close() // nor is there anybody to tell
	}()
	for _, w := range warnings {
		logger.Warn("configuration", "variable", w.Variable, "warning", w.Message)
	}
	b := build()
	a, err := app.New(ctx, app.Options{
		Config: cfg, Logger: logger, Version: b.Version, Revision: b.Revision, Warnings: warnings,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// loadConfig reads the environment. The error lists all that is wrong with it.
func loadConfig(c console) (*config.Config, []config.Warning, error) {
	cfg, warnings, err := app.LoadConfig(os.Environ())
	if err != nil {
		printWarnings(c.err, warnings) // a misspelt variable may be why another is missing
		return nil, warnings, err
	}
	return cfg, warnings, nil
}

// printWarnings shows what is odd about the environment, for commands that have no log.
func printWarnings(w io.Writer, warnings []config.Warning) {
	for _, warning := range warnings {
		fmt.Fprintf(w, "warning: %s: %s\n", warning.Variable, warning.Message)
	}
}

// newLogger writes text to a terminal and JSON elsewhere, unless the configuration says otherwise. Both quote what
// they print, so that no value can begin a line of its own.
func newLogger(c console, cfg *config.Config) *slog.Logger {
	o := &slog.HandlerOptions{Level: cfg.LogLevel}
	format := strings.ToLower(cfg.LogFormat)
	if format == "text" || (format == "" && c.terminal) {
		return slog.New(slog.NewTextHandler(c.out, o))
	}
	return slog.New(slog.NewJSONHandler(c.out, o))
}
