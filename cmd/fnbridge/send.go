package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

// samplePayload is the webhook that Tensorlake's documentation shows.
const samplePayload = `{"workflow_name": "workflow_XXXX", "invocation_id": "%s", "fn_status": {"fn_A": "success", "fn_B": "failure"}}`

// The rates that --rate takes: a ticker's interval is a whole number of nanoseconds.
const (
	minRate = 0.001
	maxRate = 1e6
)

type sendOptions struct {
	url      string
	id       string
	count    int
	rate     float64
	fresh    bool
	insecure bool
	json     bool
	wait     time.Duration // for the events at the sinks; 0: do not

	export   string // a file of exported webhooks to send instead, - for standard input
	fromLine int    // of that file
}

func sendCommand(c console) *cobra.Command {
	var o sendOptions
	cmd := &cobra.Command{
		Use:   "send [file | -]",
		Short: "Sign and post a webhook as Tensorlake does",
		Long: `Signs a payload with the bridge's webhook secret and posts it, as Tensorlake does.
The payload is a file, "-" for standard input, or by default a sample workflow with two functions.

The secret is the first of FNBRIDGE_WEBHOOK_SECRETS, else the one that "fnbridge serve" made in the data directory.

The same payload always becomes events with the same ids, and JetStream drops what it has seen within its dedupe
window (10 minutes). --fresh gives each sample an invocation of its own; --count does so too.

With --wait it then reads from every sink, as any consumer does, until the events of the webhook are there. Exit code 1: they are not, after
that long.

With --from-export it sends what "fnbridge journal export" wrote: each webhook under its own id, signed anew, and so with the time of
this sending. The bridge recognises those that it has, and their events have the ids that they had. It goes on after a webhook
that is refused, and says where to go on when it cannot.`,
		Example: `  fnbridge send
  fnbridge send --count 1000 --rate 200
  fnbridge send --fresh --wait 30s
  fnbridge send payload.json
  echo '{"job_id":"job_1","status":"successful"}' | fnbridge send -
  fnbridge send --from-export webhooks.jsonl --rate 100 --url https://other.example.com/webhooks/tensorlake`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.export == "" && !cmd.Flags().Changed("from-line") {
				return send(cmd.Context(), c, o, args)
			}
			for _, name := range []string{"id", "count", "fresh", "wait"} {
				if cmd.Flags().Changed(name) {
					return usageError{fmt.Errorf("--%s does not go with --from-export", name)}
				}
			}
			return sendExport(cmd.Context(), c, o, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.url, "url", "", "where to post (default: the bridge that FNBRIDGE_LISTEN describes, on this machine)")
	f.StringVar(&o.id, "id", "", "webhook id (default: a new one; give one twice to see it recognised)")
	f.IntVar(&o.count, "count", 1, "how many webhooks to send")
	f.Float64Var(&o.rate, "rate", 0, "webhooks a second (default: one after the other, as fast as they are answered)")
	f.BoolVar(&o.fresh, "fresh", false, "give the sample a new invocation id")
	f.DurationVar(&o.wait, "wait", 0, "wait for the events at every sink, at most this long, such as 30s")
	f.StringVar(&o.export, "from-export", "", "send the webhooks of this file, which \"fnbridge journal export\" wrote; - is standard input")
	f.IntVar(&o.fromLine, "from-line", 1, "begin with this line of the export")
	f.BoolVar(&o.insecure, "insecure-tls", false, "accept any certificate")
	jsonFlag(cmd, &o.json)
	return cmd
}

func send(ctx context.Context, c console, o sendOptions, args []string) error {
	if o.count < 1 {
		return usageError{errors.New("--count must be at least 1")}
	}
	if err := o.checkRate(); err != nil {
		return err
	}
	if o.id != "" && o.count > 1 {
		return usageError{errors.New("--id goes with one webhook: drop --count")}
	}
	if err := o.checkWait(); err != nil {
		return err
	}
	payload, sample, err := readPayload(c, args)
	if err != nil {
		return err
	}
	if o.fresh && !sample {
		return usageError{errors.New("--fresh goes with the sample payload: it does not change a payload of yours")}
	}
	s, err := newSender(c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.sendAll(ctx, o, payload, sample)
}

func (o sendOptions) checkRate() error {
	if o.rate != 0 && !(o.rate >= minRate && o.rate <= maxRate) { // catches NaN, too
		return usageError{fmt.Errorf("--rate must be from %g to %g webhooks a second", minRate, maxRate)}
	}
	return nil
}

func (o sendOptions) checkWait() error {
	switch {
	case o.wait < 0:
		return usageError{errors.New("--wait must not be negative")}
	case o.wait > 0 && o.count > 1:
		return usageError{errors.New("--wait goes with one webhook: drop --count")}
	default:
		return nil
	}
}

// pace returns a channel that has a value whenever the next webhook may go, and what ends it. Without a rate it is nil.
func (o sendOptions) pace() (due <-chan time.Time, stop func()) {
	if o.rate == 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(time.Duration(float64(time.Second) / o.rate))
	return ticker.C, ticker.Stop
}

func newSender(c console, o sendOptions) (*sender, error) {
	cfg, _, err := config.Load()
	if cfg == nil {
		return nil, err
	}
	posts, err := app.NewSender(cfg, o.url, o.insecure)
	if err != nil {
		return nil, err
	}
	return &sender{console: c, Sender: posts, json: o.json}, nil
}

// readPayload returns what to send, and whether it is the sample.
func readPayload(c console, args []string) (payload []byte, sample bool, err error) {
	switch {
	case len(args) == 0:
		return nil, true, nil
	case args[0] == "-":
		payload, err = io.ReadAll(c.in)
	default:
		payload, err = os.ReadFile(args[0])
	}
	if err != nil {
		return nil, false, fmt.Errorf("the payload cannot be read: %w", err)
	}
	return payload, false, nil
}

// sender posts and prints.
type sender struct {
	console
	*app.Sender
	json bool
}

func (s *sender) sendAll(ctx context.Context, o sendOptions, payload []byte, sample bool) error {
	pace, stop := o.pace()
	defer stop()
	verbose := o.count <= 10 || o.json
	var t tally
	var failure error
	start := time.Now()
	for i := range o.count {
		if pace != nil && i > 0 {
			select {
			case <-ctx.Done():
			case <-pace:
			}
		}
		a, err := s.Post(ctx, o.webhookID(), o.body(payload, sample))
		if err != nil {
			failure = s.interruption(ctx, err, i, o.count)
			break
		}
		t.add(a)
		if verbose {
			if err := s.show(a); err != nil {
				return err
			}
		}
		if o.wait > 0 && a.OK() && !a.Duplicate {
			if err := s.await(ctx, o.wait, a); err != nil {
				return err
			}
		}
	}
	if o.count > 1 && !o.json && len(t.times) > 0 {
		t.print(s.out, time.Since(start))
	}
	switch {
	case failure != nil:
		return failure
	case t.refused > 0:
		return errReported
	case sample && !o.fresh && o.count == 1 && s.terminal && !o.json:
		fmt.Fprintln(s.out, "This sample has the same event ids each time, so brokers and consumers can dedupe; --fresh makes new ones.")
	}
	return nil
}

// interruption says why not all webhooks were sent.
func (s *sender) interruption(ctx context.Context, err error, sent, count int) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %s", sent, plural(count, "webhook"))
	}
	progress := ""
	if sent > 0 {
		progress = fmt.Sprintf(" after %d of %s", sent, plural(count, "webhook"))
	}
	return s.noAnswer(err, progress)
}

// noAnswer says that the bridge could not be asked; progress is what had been sent, and may be empty.
func (s *sender) noAnswer(err error, progress string) error {
	if _, ok := errors.AsType[*app.UnsendableError](err); ok {
		return err
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // it would say the address once more
	}
	return fmt.Errorf("no answer from %s%s: %w\nIs \"fnbridge serve\" running, and is this its address?", s.URL, progress, err)
}

func (o sendOptions) webhookID() string {
	if o.id != "" {
		return o.id
	}
	return "msg_" + rand.Text()
}

func (o sendOptions) body(payload []byte, sample bool) []byte {
	if !sample {
		return payload
	}
	invocation := "invocation_XXXX"
	if o.fresh || o.count > 1 {
		invocation = "invocation_" + rand.Text()
	}
	return fmt.Appendf(nil, samplePayload, invocation)
}

func (s *sender) show(a app.Answer) error {
	if s.json {
		return json.NewEncoder(s.out).Encode(a)
	}
	var what string
	switch {
	case a.OK() && a.Duplicate:
		what = "was known already: its events are not published again"
	case a.OK():
		what = plural(a.Events, "event")
	default:
		what = "refused: " + printable(clip(a.Detail, 400))
	}
	_, err := fmt.Fprintf(s.out, "%d %s  %s  %s\n", a.Status, http.StatusText(a.Status), a.WebhookID, what)
	return err
}

// tally adds up answers.
type tally struct {
	accepted, duplicate, refused, events int
	times                                []time.Duration
}

func (t *tally) add(a app.Answer) {
	t.times = append(t.times, a.Took)
	switch {
	case !a.OK():
		t.refused++
	case a.Duplicate:
		t.duplicate++
	default:
		t.accepted++
		t.events += a.Events
	}
}

func (t *tally) print(w io.Writer, took time.Duration) {
	slices.Sort(t.times)
	fmt.Fprintf(w, "%s in %s: %d accepted (%s), %d known already, %d refused; answered in %s (median), %s (slowest)\n",
		plural(len(t.times), "webhook"), took.Round(time.Millisecond), t.accepted, plural(t.events, "event"), t.duplicate, t.refused,
		t.times[len(t.times)/2].Round(time.Microsecond), t.times[len(t.times)-1].Round(time.Microsecond))
}
