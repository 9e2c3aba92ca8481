// Command fnbridge receives Tensorlake's webhooks and publishes them as events to NATS JetStream and Apache Kafka.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/config"
)

// Exit codes, as shells and supervisors see them.
const (
	exitOK     = 0
	exitFailed = 1 // what was asked for did not work
	exitUsage  = 2 // the configuration or the command line is wrong
)

func main() {
	ctx, restore := signal.NotifyContext(context.Background(), stopSignals()...)
	// A second signal ends the process at once: whoever sends it does not want to wait.
	context.AfterFunc(ctx, restore)
	isTerminal := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	os.Exit(run(ctx, console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdout),
		errTerminal: isTerminal(os.Stderr), size: outSize, asks: isTerminal(os.Stdin) && isTerminal(os.Stderr),
	}, os.Args[1:]))
}

// stopSignals are those that end the process in order. SIGHUP is none where somebody keeps it away, as nohup does: to
// ask for a signal would turn it on again.
func stopSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// console is where a command reads and writes.
type console struct {
	in          io.Reader
	out, err    io.Writer
	terminal    bool // out is a terminal
	errTerminal bool // err is a terminal
	// size is how many columns and rows the terminal at out has; rows are 0 where it does not say.
	size func() (columns, rows int)
	asks bool // in and err are a terminal: somebody can be asked something
}

// outSize is the size of the terminal at standard output.
func outSize() (columns, rows int) {
	columns, rows, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || columns < watchColumns/2 {
		return watchColumns, 0
	}
	return columns, rows
}

// usageError is a mistake on the command line or in the environment: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errReported ends a command with exit code 1 when everything has been said already.
var errReported = errors.New("reported")

// run is the whole program but for the process around it.
func run(ctx context.Context, c console, args []string) int {
	var version bool
	root := &cobra.Command{
		Use:   "fnbridge",
		Short: "Forwards Tensorlake webhooks as CloudEvents to NATS JetStream and Apache Kafka, at least once",
		Long: `fnbridge verifies the webhooks that Tensorlake sends about requests, sandboxes
and workflows, makes them durable, turns them into CloudEvents, and publishes
these to NATS JetStream or Apache Kafka.

It is configured with environment variables: "fnbridge env" lists them.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				_, err := fmt.Fprintln(c.out, build())
				return err
			}
			return cmd.Help()
		},
	}
	// Cobra's own flag of this name links text/template, and with it every method of every type: 5 MB of the binary.
	root.Flags().BoolVarP(&version, "version", "v", false, "print the version")
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.AddCommand(serveCommand(c), sendCommand(c), tailCommand(c), findCommand(c), checkCommand(c), statusCommand(c),
		deadLettersCommand(c), sinksCommand(c), replayCommand(c), journalCommand(c), envCommand(c), versionCommand(c))
	assist(root)
	c.wrapHelp(root)

	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	var wrongConfig config.Errors
	var unknownSink *admin.UnknownSinkError
	errs := c.err
	if cmd.Name() == serveName {
		errs = briefWriter{errs}
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	case errors.As(err, &wrongConfig):
		fmt.Fprintf(errs, "fnbridge: the configuration is wrong:\n%s\nRun \"fnbridge env\" for every variable and its "+
			"meaning.\n", indent(wrongConfig.Error()))
		return exitUsage
	case errors.As(err, &usage), errors.As(err, &unknownSink), isUnknownCommand(err):
		fmt.Fprintf(errs, "fnbridge: %v\nRun \"%s --help\" for what it can do.\n", err, cmd.CommandPath())
		return exitUsage
	default:
		fmt.Fprintf(errs, "fnbridge: %v\n", err)
		return exitFailed
	}
}
