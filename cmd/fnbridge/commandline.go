package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config/setting"
)

// assist has root and all commands below it say what may be meant by a command or flag that they do not know, and
// complete names of sinks and samples in a shell.
func assist(root *cobra.Command) {
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
			var known []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
			if near := setting.Nearest(unknown.GetSpecifiedName(), known); near != "" {
				err = fmt.Errorf("%w: did you mean --%s?", err, near)
			}
		}
		return usageError{err}
	})
	each(root, func(cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			cmd.Args = knownCommand
		}
		for flag, complete := range map[string]func(context.Context) []string{
			"sink": sinksForShell, "undelivered": journalSinksForShell, "sample": samplesForShell,
		} {
			if cmd.Flags().Lookup(flag) == nil {
				continue
			}
			err := cmd.RegisterFlagCompletionFunc(flag,
				func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
					return complete(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
				})
			if err != nil {
				panic(err) // the flag has two completions
			}
		}
	})
}

func each(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, below := range cmd.Commands() {
		each(below, f)
	}
}

// knownCommand is for commands that only have others below them.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())
	known := make([]string, 0, len(cmd.Commands()))
	for _, below := range cmd.Commands() {
		if below.IsAvailableCommand() {
			known = append(known, below.Name())
		}
	}
	if near := setting.Nearest(args[0], known); near != "" {
		err = fmt.Errorf("%w: did you mean %q?", err, near)
	}
	return usageError{err}
}

// sinksForShell returns the sinks of the environment, and nothing while that is wrong.
func sinksForShell(context.Context) []string {
	cfg, _, err := app.LoadConfig(os.Environ())
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		names = append(names, s.Name)
	}
	return names
}

// journalSinksForShell returns the sinks that the journal knows, those that have left the environment too.
func journalSinksForShell(ctx context.Context) []string {
	cfg, err := journalDirectory()
	if err != nil {
		return nil
	}
	s, err := admin.ReadStatus(ctx, cfg.DataDir)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(s.Sinks))
	for _, sink := range s.Sinks {
		names = append(names, sink.Sink)
	}
	return names
}

// firstIsSink completes the first argument of a command about a sink that the journal knows.
func firstIsSink(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return journalSinksForShell(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
}

func samplesForShell(context.Context) []string {
	samples := admin.Samples()
	names := make([]string, 0, len(samples))
	for _, s := range samples {
		names = append(names, s.Name)
	}
	return names
}
