package main

import (
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/config/setting"
)

// timeFlag is a moment on the command line: a time as RFC 3339 writes it, or how long ago it was.
type timeFlag struct{ time.Time }

// Set implements pflag.Value.
func (f *timeFlag) Set(s string) error {
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		f.Time = at
		return nil
	}
	ago, err := setting.ParseDuration(s)
	if err != nil || ago < 0 {
		return errors.New("give how long ago, such as 90m, 2h or 3d, or a time such as 2026-01-31T08:00:00Z")
	}
	f.Time = time.Now().Add(-ago)
	return nil
}

// String implements pflag.Value.
func (f *timeFlag) String() string {
	if f.IsZero() {
		return ""
	}
	return f.Format(time.RFC3339Nano)
}

// Type implements pflag.Value.
func (*timeFlag) Type() string { return "time" }

// durationFlag is how long something may take on the command line.
type durationFlag time.Duration

// Set implements pflag.Value.
func (f *durationFlag) Set(s string) error {
	d, err := setting.ParseDuration(s)
	if err != nil || d < 0 {
		return errors.New("give how long, such as 30s, 2m or 1d")
	}
	*f = durationFlag(d)
	return nil
}

// String implements pflag.Value.
func (f *durationFlag) String() string {
	if *f == 0 {
		return ""
	}
	return time.Duration(*f).String()
}

// Type implements pflag.Value.
func (*durationFlag) Type() string { return "duration" }

// takeFrom takes the duration that stands among the arguments and returns the others: pflag gives a flag whose value
// may be left out only what is behind a "=", and "--wait 30s" is what people write.
func (f *durationFlag) takeFrom(args []string) []string {
	for i, arg := range args {
		if f.Set(arg) == nil {
			return slices.Delete(args, i, i+1)
		}
	}
	return args
}

// timeRange is what --since and --until select.
type timeRange struct{ since, until timeFlag }

// add adds both flags to a command; what says what has the time.
func (r *timeRange) add(cmd *cobra.Command, what string) {
	cmd.Flags().Var(&r.since, "since", "only those "+what+" at or after this time: 90m, 2h or 3d ago, or as RFC 3339 "+
		"has it")
	cmd.Flags().Var(&r.until, "until", "only those "+what+" before this time")
}

func (r *timeRange) check() error {
	if !r.since.IsZero() && !r.until.IsZero() && !r.since.Before(r.until.Time) {
		return usageError{errors.New("--since must lie before --until")}
	}
	return nil
}
