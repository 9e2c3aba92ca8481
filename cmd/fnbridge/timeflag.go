package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// timeFlag is a moment on the command line: a time as RFC 3339 writes it, or how long ago it was.
type timeFlag struct{ time.Time }

// Set implements pflag.Value.
func (f *timeFlag) Set(s string) error {
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		f.Time = at
		return nil
	}
	ago, err := parseAgo(s)
	if err != nil {
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

// parseAgo reads a duration that may begin with days: 3d, 1d12h.
func parseAgo(s string) (time.Duration, error) {
	var ago time.Duration
	rest := s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, err
		}
		ago, rest = time.Duration(n)*24*time.Hour, after
	}
	if rest == "" && ago > 0 {
		return ago, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, err
	}
	if d < 0 {
		return 0, fmt.Errorf("%s lies in the future", s)
	}
	return ago + d, nil
}

// timeRange is what --since and --until select.
type timeRange struct{ since, until timeFlag }

// add adds both flags to a command; what says what has the time.
func (r *timeRange) add(cmd *cobra.Command, what string) {
	cmd.Flags().Var(&r.since, "since", "only those "+what+" at or after this time: 90m, 2h or 3d ago, or as RFC 3339 has it")
	cmd.Flags().Var(&r.until, "until", "only those "+what+" before this time")
}

func (r *timeRange) check() error {
	if !r.since.IsZero() && !r.until.IsZero() && !r.since.Before(r.until.Time) {
		return usageError{errors.New("--since must lie before --until")}
	}
	return nil
}
