package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/config"
)

func deadLettersCommand(c console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "Look at, send again or drop events that a sink could not store",
		Long: `A dead letter is an event that a sink's broker can never store as it is, such as
one that is too large, or one that was given up after
FNBRIDGE_<SINK>_GIVE_UP_AFTER. It stays in the journal, whole and with the
reason, until it is sent again with success or dropped.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(deadLettersListCommand(c), deadLettersShowCommand(c),
		deadLettersRetryCommand(c), deadLettersDropCommand(c))
	return cmd
}

// letterSelection is how a command is told which dead letters it is about.
type letterSelection struct {
	sink   string
	reason string
	events admin.EventFilter
	times  timeRange
	all    bool
}

func (s *letterSelection) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.sink, "sink", "", "only those of this sink")
	f.StringVar(&s.reason, "reason", "", "only those with this reason; a * in it stands for any text")
	addEventFilter(cmd, &s.events)
	s.times.add(cmd, "tried last")
}

// addAll adds --all, for a command that changes something and so must be told what.
func (s *letterSelection) addAll(cmd *cobra.Command) {
	s.add(cmd)
	cmd.Flags().BoolVar(&s.all, "all", false, "every dead letter")
}

func (s *letterSelection) filter(args []string) (admin.DeadLetterFilter, error) {
	if err := s.times.check(); err != nil {
		return admin.DeadLetterFilter{}, err
	}
	f := admin.DeadLetterFilter{
		Sink: s.sink, Reason: s.reason, Filter: s.events, Since: s.times.since.Time, Until: s.times.until.Time,
	}
	for _, arg := range args {
		id, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || id < 1 {
			return f, usageError{fmt.Errorf("%q is no dead letter's id: these are numbers, as \"fnbridge dead-letters list\" "+
				"shows them", arg)}
		}
		f.IDs = append(f.IDs, id)
	}
	return f, nil
}

// selected tells whether the command line selects something rather than everything.
func (s *letterSelection) selected(args []string) bool {
	return len(args) > 0 || s.sink != "" || s.reason != "" || !s.events.IsZero() ||
		!s.times.since.IsZero() || !s.times.until.IsZero()
}

// mustSelect is filter for a command that changes something.
func (s *letterSelection) mustSelect(args []string) (admin.DeadLetterFilter, error) {
	switch selected := s.selected(args); {
	case !selected && !s.all:
		return admin.DeadLetterFilter{}, usageError{errors.New("say which dead letters: give their ids, a filter such as " +
			"--sink, or --all")}
	case selected && s.all:
		return admin.DeadLetterFilter{}, usageError{errors.New("--all means every dead letter: leave it out, or the ids " +
			"and filters")}
	default:
		return s.filter(args)
	}
}

func deadLettersListCommand(c console) *cobra.Command {
	var s letterSelection
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [id...]",
		Short: "List dead letters, oldest first",
		Long: `Reads the data directory, beside a running "fnbridge serve" or without one. With
--json each line is one dead letter, with its whole event.`,
		Example: `  fnbridge dead-letters list
  fnbridge dead-letters list --since 2h --route 'application.invoices.>'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usageError{errors.New("--limit must be at least 1")}
			}
			f, err := s.filter(args)
			if err != nil {
				return err
			}
			if asJSON {
				e := encoder(c.out)
				return readDeadLetters(cmd.Context(), f, limit, func(l admin.DeadLetter) error { return e.Encode(l) })
			}
			var letters []admin.DeadLetter
			// One more tells that there are more.
			err = readDeadLetters(cmd.Context(), f, limit+1, func(l admin.DeadLetter) error {
				l.Data = nil // which may be large, and is not shown
				letters = append(letters, l)
				return nil
			})
			switch {
			case err != nil:
				return err
			case len(letters) == 0 && s.selected(args):
				_, err := fmt.Fprintln(c.out, "No dead letter matches.")
				return err
			default:
				return printDeadLetters(c, letters, limit, time.Now())
			}
		},
	}
	s.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "at most this many")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func readDeadLetters(
	ctx context.Context, f admin.DeadLetterFilter, limit int, each func(admin.DeadLetter) error,
) error {
	cfg, err := journalDirectory()
	if err != nil {
		return err
	}
	if err := admin.ReadDeadLetters(ctx, cfg.DataDir, f, limit, each); err != nil {
		return noJournal(err, cfg)
	}
	return nil
}

func printDeadLetters(c console, letters []admin.DeadLetter, limit int, now time.Time) error {
	more := len(letters) > limit
	letters = letters[:min(len(letters), limit)]
	if len(letters) == 0 {
		_, err := fmt.Fprintln(c.out, "No dead letters.")
		return err
	}
	rows := make([][]string, 0, len(letters))
	for _, l := range letters {
		retry := "-"
		if l.RetryAt != nil {
			retry = "asked for " + ageText(l.RetryAt, now) + " ago"
		}
		rows = append(rows, []string{
			strconv.FormatInt(l.ID, 10), l.Sink, l.LastAt.Local().Format(time.DateTime),
			strconv.Itoa(l.Attempts), retry, l.Type, l.WebhookID, l.Reason,
		})
	}
	err := c.table([]string{"ID", "SINK", "LAST TRIED", "TRIES", "RETRY", "TYPE", "WEBHOOK", "REASON"}, rows)
	if err != nil {
		return err
	}
	if more {
		fmt.Fprintf(c.out, "Shown are the first %d; --limit shows more.\n", limit)
	}
	if c.terminal {
		fmt.Fprintln(c.out, c.wrap(0, "\"fnbridge dead-letters show ID\" shows one whole, \"retry\" sends it again, "+
			"\"drop\" deletes it."))
	}
	return nil
}

func deadLettersShowCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show id...",
		Short: "Show dead letters whole: the event, its data, why and when",
		Long: `Reads the data directory, beside a running "fnbridge serve" or without one. With
--json each line is one dead letter.`,
		Example: `  fnbridge dead-letters show 12`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("say which dead letters: give their ids, as \"fnbridge dead-letters list\" shows " +
					"them")}
			}
			f, err := (&letterSelection{}).filter(args)
			if err != nil {
				return err
			}
			var failed error
			for i, id := range f.IDs { // one by one: each may be large
				found := false
				err := readDeadLetters(cmd.Context(), admin.DeadLetterFilter{IDs: []int64{id}}, 1, func(l admin.DeadLetter) error {
					found = true
					if asJSON {
						return encoder(c.out).Encode(l)
					}
					if i > 0 {
						fmt.Fprintln(c.out)
					}
					return showDeadLetter(c, l)
				})
				if err != nil {
					return err
				}
				if !found {
					fmt.Fprintln(c.err, "fnbridge: "+noSuchLetters([]int64{id}))
					failed = errReported
				}
			}
			return failed
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func noSuchLetters(ids []int64) string {
	texts := make([]string, 0, len(ids))
	for _, id := range ids {
		texts = append(texts, strconv.FormatInt(id, 10))
	}
	return "there is no dead letter " + strings.Join(texts, ", ") + ": it may have been sent or dropped since; " +
		"\"fnbridge dead-letters list\" shows what there is"
}

// maxShownData is how much of an event's data a terminal gets: many dead letters are here because they are large.
const maxShownData = 16 << 10

func showDeadLetter(c console, l admin.DeadLetter) error {
	moment := func(t *time.Time, none string) string {
		if t == nil {
			return none
		}
		return t.Local().Format(time.RFC3339)
	}
	about := slices.DeleteFunc([][2]string{
		{"dead letter", strconv.FormatInt(l.ID, 10)},
		{"sink", l.Sink},
		{"reason", l.Reason},
		{"tries", strconv.Itoa(l.Attempts)},
		{"since", moment(&l.FirstAt, "")},
		{"last tried", moment(&l.LastAt, "")},
		{"retry asked for", moment(l.RetryAt, "no")},
		{"published", moment(l.PublishedAt, "not to a dead-letter address")},
		{"webhook", fmt.Sprintf("%s, event %d of it", l.WebhookID, l.EventIndex+1)},
		{"event id", l.EventID},
		{"type", l.Type},
		{"source", l.Source},
		{"subject", l.Subject},
		{"time", moment(&l.Time, "")},
		{"partition key", l.PartitionKey},
		{"application", l.Application},
		{"route", strings.Join(l.Route, ".")},
		{"data", bytesText(int64(len(l.Data)))},
	}, func(pair [2]string) bool { return pair[1] == "" })
	if err := c.fields(about); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c.out, "\n"+shownData(c, l.Data)); err != nil {
		return err
	}
	if !c.terminal {
		return nil
	}
	advice := fmt.Sprintf("Once its reason is mended, \"fnbridge dead-letters retry %d\" sends it again; if nobody "+
		"needs it, \"fnbridge dead-letters drop %d\" deletes it.", l.ID, l.ID)
	if l.RetryAt != nil {
		advice = "It is about to be sent again: it goes from the list once its sink has it, and shows its new reason if " +
			"it fails again."
	}
	_, err := fmt.Fprintln(c.out, "\n"+c.wrap(0, advice))
	return err
}

// shownData is an event's data for people: laid out on a terminal, in one line elsewhere.
func shownData(c console, data json.RawMessage) string {
	if !c.terminal {
		return printable(oneLine(data))
	}
	var b bytes.Buffer
	if json.Indent(&b, data, "", "  ") != nil {
		b.Write(data)
	}
	text := b.Bytes()
	if len(text) <= maxShownData {
		return printableLines(string(text))
	}
	return printableLines(strings.ToValidUTF8(string(text[:maxShownData]), "")) +
		fmt.Sprintf("\n… %s more: --json prints all of it", bytesText(int64(len(text)-maxShownData)))
}

func deadLettersRetryCommand(c console) *cobra.Command {
	var s letterSelection
	var wait, asJSON bool
	cmd := &cobra.Command{
		Use:   "retry [id...]",
		Short: "Send dead letters again",
		Long: `Has the running bridge send dead letters again, each to the sink that it is of;
without one, "fnbridge serve" does so when it starts. One that reaches its sink
is deleted. One that fails again stays, with the new reason and all its tries
counted. --wait waits until all have been tried.`,
		Example: `  fnbridge dead-letters retry 12 13
  fnbridge dead-letters retry --sink nats --since 3d
  fnbridge dead-letters retry --all --wait`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := s.mustSelect(args)
			if err != nil {
				return err
			}
			return retryDeadLetters(cmd.Context(), c, f, wait, asJSON)
		},
	}
	s.addAll(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until all have been tried, and show how far it is")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func retryDeadLetters(ctx context.Context, c console, f admin.DeadLetterFilter, wait, asJSON bool) error {
	cfg, all, _, err := countDeadLetters(ctx, f)
	if err != nil {
		return err
	}
	before, err := admin.ReadRetries(ctx, cfg.DataDir, 0)
	if err != nil {
		return err
	}
	var change admin.Change
	if all.Letters > 0 {
		if change, err = admin.RetryDeadLetters(ctx, cfg.DataDir, f); err != nil {
			return err
		}
	}
	if wait && all.Letters > 0 {
		after := before.Newest
		if change.Letters < all.Letters { // another try of some was asked for before
			after = before.Ended
		}
		return waitForRetries(ctx, c, cfg, after, change, asJSON)
	}
	if asJSON {
		return encoder(c.out).Encode(change)
	}
	text := "Asked for another try of " + plural(int(change.Letters), "dead letter") + ". \"fnbridge dead-letters " +
		"list\" shows what comes back."
	switch {
	case all.Letters == 0:
		text = "No dead letter matches."
	case change.Letters == 0:
		text = "Another try was asked for already: \"fnbridge dead-letters list\" shows when."
	case !change.Running:
		text = plural(int(change.Letters), "dead letter") + " will be sent again when \"fnbridge serve\" starts: it does " +
			"not run now."
	}
	_, err = fmt.Fprintln(c.out, text)
	return err
}

// waitForRetries returns when the retries after that of the given number have ended. The end of ctx does not end them.
func waitForRetries(
	ctx context.Context, c console, cfg *config.Config, after int64, asked admin.Change, asJSON bool,
) error {
	if !asked.Running {
		fmt.Fprintln(c.err, "The dead letters are sent again when \"fnbridge serve\" starts: it does not run now.")
	}
	p := newProgress(c)
	defer p.clear()
	again := time.NewTicker(replayInterval)
	defer again.Stop()
	for {
		r, err := admin.ReadRetries(ctx, cfg.DataDir, after)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && !r.Running {
			p.clear()
			return showRetries(c, r, asJSON)
		}
		p.at(r.Published+r.DeadLetters, asked.Letters, "dead letters", "")
		select {
		case <-ctx.Done():
			return errors.New("interrupted, but the dead letters are sent again all the same")
		case <-again.C:
		}
	}
}

// showRetries says how retries ended. Letters that failed again are a failure.
func showRetries(c console, r admin.Retries, asJSON bool) (err error) {
	if asJSON {
		err = encoder(c.out).Encode(r)
	} else {
		_, err = fmt.Fprintf(c.out, "%s sent, %d failed again.\n", plural(int(r.Published), "dead letter"), r.DeadLetters)
	}
	if err == nil && r.DeadLetters > 0 {
		return errReported
	}
	return err
}

// countDeadLetters counts what f selects. An id that is not there is an error.
func countDeadLetters(ctx context.Context, f admin.DeadLetterFilter) (
	cfg *config.Config, all admin.DeadLetterCount, sinks []admin.DeadLetterCount, err error,
) {
	if cfg, err = journalDirectory(); err != nil {
		return nil, all, nil, err
	}
	all, sinks, missing, err := admin.CountDeadLetters(ctx, cfg.DataDir, f)
	if err != nil {
		return nil, all, nil, noJournal(err, cfg)
	}
	if len(missing) > 0 {
		return nil, all, nil, errors.New(noSuchLetters(missing))
	}
	return cfg, all, sinks, nil
}

func deadLettersDropCommand(c console) *cobra.Command {
	var s letterSelection
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use:   "drop [id...]",
		Short: "Delete dead letters for good",
		Long: `Deletes dead letters, beside a running "fnbridge serve" or without one. Their
events then never reach their sink, unless another try of one is under way at
that moment, and the space that they take in the journal is free. It asks first;
without a terminal it needs --yes.`,
		Example: `  fnbridge dead-letters drop 12
  fnbridge dead-letters drop --sink kafka --until 30d --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := s.mustSelect(args)
			if err != nil {
				return err
			}
			if !yes && !c.asks {
				return usageError{errors.New("there is no terminal to ask on whether to drop them: add --yes")}
			}
			return dropDeadLetters(cmd.Context(), c, f, yes, asJSON)
		},
	}
	s.addAll(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func dropDeadLetters(ctx context.Context, c console, f admin.DeadLetterFilter, yes, asJSON bool) error {
	cfg, all, sinks, err := countDeadLetters(ctx, f)
	if err != nil {
		return err
	}
	if !yes && all.Letters > 0 {
		if f, err = asCounted(ctx, f, all); err != nil {
			return err
		}
		answer, err := c.confirm(ctx, dropQuestion(all, sinks))
		if err != nil {
			return err
		}
		if !answer {
			fmt.Fprintln(c.err, "Nothing was dropped.")
			return errReported
		}
	}
	var change admin.Change
	if all.Letters > 0 {
		if change, err = admin.DropDeadLetters(ctx, cfg.DataDir, f); err != nil {
			if change.Letters > 0 {
				err = fmt.Errorf("%w; %s had been dropped before", err, plural(int(change.Letters), "dead letter"))
			}
			return err
		}
	}
	if asJSON {
		return encoder(c.out).Encode(change)
	}
	text := "Dropped " + plural(int(change.Letters), "dead letter") + "."
	if all.Letters == 0 {
		text = "No dead letter matches."
	}
	_, err = fmt.Fprintln(c.out, text)
	return err
}

// asCounted narrows f to what was counted, so that an answer does not drop what becomes a dead letter while somebody
// thinks about it. Letters whose time lies in the future, since a clock was wrong, are left as they are.
func asCounted(
	ctx context.Context, f admin.DeadLetterFilter, counted admin.DeadLetterCount,
) (admin.DeadLetterFilter, error) {
	now := time.Now()
	if !f.Until.IsZero() && f.Until.Before(now) {
		return f, nil
	}
	bounded := f
	bounded.Until = now
	_, all, _, err := countDeadLetters(ctx, bounded)
	if err != nil || all.Letters != counted.Letters {
		return f, err
	}
	return bounded, nil
}

// dropQuestion says what would be gone.
func dropQuestion(all admin.DeadLetterCount, sinks []admin.DeadLetterCount) string {
	parts := make([]string, 0, len(sinks))
	for _, s := range sinks {
		parts = append(parts, fmt.Sprintf("%d of sink %s", s.Letters, s.Sink))
	}
	return fmt.Sprintf("Drop %s for good (%s; %s of data)?",
		plural(int(all.Letters), "dead letter"), strings.Join(parts, ", "), bytesText(all.Bytes))
}
