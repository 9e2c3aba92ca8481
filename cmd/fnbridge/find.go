package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
)

type findOptions struct {
	request admin.FindRequest
	since   timeFlag
	json    bool
}

func findCommand(c console) *cobra.Command {
	var o findOptions
	cmd := &cobra.Command{
		Use:   "find [id]",
		Short: "Find what became of a request, invocation, sandbox, event or webhook",
		Long: `Searches the webhooks in the journal, newest first, for an id, or with --text
for any text in their payloads, and says of each when it was received, which
events it became, and where each sink stands with them:

  acknowledged   the sink has it
  waiting        it is on its way, behind so many webhooks
  dead letter    the sink could not store it: its number, and why
  dropped        it was a dead letter that somebody dropped
  not wanted     it matches none of the sink's routes of today
  before sink    it was accepted before the sink was first configured
  sink absent    it was accepted while the sink was not configured

An event of the last two is acknowledged once a replay has published it, as long
as "fnbridge replay list" shows that replay.

The address is the one that the sink's configuration of today gives the event. A
running bridge searches by itself, in short reads, two searches at a time;
without one the command reads the data directory. Webhooks leave the journal
when FNBRIDGE_RETENTION has passed and all sinks have them.`,
		Example: `  fnbridge find req_41
  fnbridge find msg_2xk --json
  fnbridge find --text 'out of memory' --since 2h --limit 10`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.request.ID = args[0]
			}
			return find(cmd.Context(), c, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.request.Text, "text", "", "any text in the payload, in its case")
	f.Var(&o.since, "since", "only webhooks received at or after this time: 90m, 2h or 3d ago, or as RFC 3339 has it")
	f.IntVar(&o.request.Limit, "limit", 20, "at most this many webhooks")
	jsonFlag(cmd, &o.json)
	return cmd
}

func find(ctx context.Context, c console, o findOptions) error {
	switch {
	case o.request.ID == "" && o.request.Text == "":
		return usageError{errors.New("say what to find: an id, or --text and a text")}
	case o.request.Limit < 1:
		return usageError{errors.New("--limit must be at least 1")}
	}
	o.request.Since = o.since.Time
	cfg, err := loadForEvents("ROUTES", "SUBJECT", "TOPIC", "KEY") // what an address depends on
	if err != nil {
		return err
	}
	p := newProgress(c)
	defer p.clear()
	found := 0
	err = admin.Find(ctx, cfg.DataDir, o.request, app.EventOptions(cfg), app.AdminSinks(cfg),
		func(at admin.FindProgress) {
			p.at(at.Searched, at.Webhooks, "webhooks", "")
		}, func(f *admin.Found) error {
			p.clear()
			found++
			if o.json {
				return encoder(c.out).Encode(f)
			}
			if found > 1 {
				fmt.Fprintln(c.out)
			}
			return printFound(c, f)
		})
	p.clear()
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted before the whole journal was searched")
	case err != nil:
		return noJournal(err, cfg)
	case found == 0:
		if !o.json {
			fmt.Fprintln(c.err, "Nothing in the journal matches.")
		}
		return errReported
	case found == o.request.Limit && !o.json:
		fmt.Fprintf(c.err, "\nShown are the newest %d; --limit shows more.\n", found)
	}
	return nil
}

func printFound(c console, f *admin.Found) error {
	w := &strings.Builder{}
	fmt.Fprintf(w, "webhook %s\n", printable(f.WebhookID))
	fmt.Fprintf(w, "  received %s, number %d, %s, %s\n", f.ReceivedAt.Local().Format("2006-01-02 15:04:05.000"),
		f.Number, bytesText(int64(f.Bytes)), plural(f.EventCount, "event"))
	for i := range f.Events {
		e := &f.Events[i]
		fmt.Fprintf(w, "\n  event %d of %d: %s\n", e.Index+1, f.EventCount, printable(e.Type))
		about := "id " + printable(e.ID)
		if e.Subject != "" {
			about += ", subject " + printable(e.Subject)
		}
		fmt.Fprintf(w, "    %s\n", c.wrap(6, about))
		for j := range e.Sinks {
			fmt.Fprintf(w, "    %s\n", c.wrap(6, e.Sinks[j].Sink+": "+fateText(&e.Sinks[j], &f.Sinks[j])))
		}
	}
	if more := f.EventCount - len(f.Events); more > 0 {
		fmt.Fprintf(w, "\n  and %s more, altogether:\n", plural(more, "event"))
		for _, s := range f.Sinks {
			var parts []string
			for _, fate := range admin.Fates() {
				if n := s.Events[fate]; n > 0 {
					parts = append(parts, fmt.Sprintf("%d %s", n, fateWords(fate)))
				}
			}
			fmt.Fprintf(w, "    %s\n", c.wrap(6, s.Sink+": "+strings.Join(parts, ", ")))
		}
	}
	_, err := fmt.Fprint(c.out, w)
	return err
}

func fateWords(f admin.Fate) string { return strings.ReplaceAll(string(f), "_", " ") }

// fateText says what became of an event at a sink.
func fateText(e *admin.EventAtSink, s *admin.FoundSink) string {
	text := fateWords(e.Fate)
	if e.Address != "" {
		text += " at " + printable(e.Address)
	}
	if e.Key != "" {
		text += " with the key " + printable(e.Key)
	}
	l := e.DeadLetter
	switch {
	case e.Fate == admin.Waiting && s.Ahead > 0:
		text += fmt.Sprintf(", behind %s", plural(int(s.Ahead), "webhook"))
	case e.Fate == admin.Waiting:
		text += ", next in line"
	case e.Fate == admin.Acknowledged && s.MayBeMissing:
		text += "; the broker went back since and may have lost it (\"fnbridge status\")"
	case l == nil:
	case l.DroppedAt != nil:
		text += fmt.Sprintf(": number %d, dropped %s: %s", l.ID, l.DroppedAt.Local().Format(time.DateTime),
			printable(l.Reason))
	default:
		tries := "1 try"
		if l.Attempts != 1 {
			tries = fmt.Sprintf("%d tries", l.Attempts)
		}
		text += fmt.Sprintf(": number %d, %s, last %s: %s", l.ID, tries,
			l.LastAt.Local().Format(time.DateTime), printable(l.Reason))
		if l.RetryAt != nil {
			text += "; about to be sent again"
		}
	}
	if !s.Configured {
		text += "; the sink is not configured now"
	}
	return text
}
