package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

// The rates that --rate takes: the time between two is a whole number of nanoseconds.
const (
	minRate = 0.001
	maxRate = 1e6
)

type sendOptions struct {
	url      string
	sample   string
	list     bool
	id       string
	count    int
	repeat   bool
	rate     float64
	insecure bool
	json     bool
	wait     durationFlag // for the events at the sinks; 0: do not

	export   string // a file of exported webhooks to send instead, - for standard input
	fromLine int    // of that file
}

func sendCommand(c console) *cobra.Command {
	var o sendOptions
	cmd := &cobra.Command{
		Use:   "send [file | -]",
		Short: "Sign and post a webhook as Tensorlake does",
		Long: `Signs a payload with the bridge's webhook secret and posts it, as Tensorlake
does. The payload is a file, "-" for standard input, or a sample: a workflow
with two functions, or the one that --sample names.

The secret is the first of FNBRIDGE_WEBHOOK_SECRETS, else the one that "fnbridge
serve" made in the data directory.

A sample has new ids each time, so its events are new ones too. A file or
standard input goes as it is. Each webhook has an id of its own, unless --id
gives it one. With --repeat each is sent twice, with the same id and the same
body, as Tensorlake does when it has not seen an answer: the second answer says
that the webhook was known already, and nothing is published again.

With --wait it then reads from every sink, as any consumer does, until the
events of the webhook are there: for 10s, or as long as --wait 30s or --wait=30s
says. (A file that is called 30s is ./30s.) Exit code 1: they are not, and the
sinks that lack some are named.

With --from-export it sends what "fnbridge journal export" wrote: each webhook
under its own id, signed anew, and so with the time of this sending. The bridge
recognises those that it has, and their events have the ids that they had. It
goes on after a webhook that is refused, and says where to go on when it cannot.`,
		Example: `  fnbridge send
  fnbridge send --sample request-failed
  fnbridge send --list
  fnbridge send --count 1000 --rate 200
  fnbridge send --repeat
  fnbridge send --wait 30s
  fnbridge send payload.json
  echo '{"job_id":"job_1","status":"successful"}' | fnbridge send -
  fnbridge send --from-export webhooks.jsonl --rate 100 \
    --url https://other.example.com/webhooks/tensorlake`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("wait") {
				if args = o.wait.takeFrom(args); o.wait == 0 {
					return usageError{errors.New("--wait is 0: give more, such as 30s")}
				}
			}
			if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
				return err
			}
			switch {
			case o.list:
				return listSamples(c, o.json)
			case len(args) > 0 && cmd.Flags().Changed("sample"):
				return usageError{errors.New("--sample says what to send: name no payload beside it")}
			case o.export == "" && !cmd.Flags().Changed("from-line"):
				return send(cmd.Context(), c, o, args)
			}
			for _, name := range []string{"sample", "id", "count", "repeat", "wait"} {
				if cmd.Flags().Changed(name) {
					return usageError{fmt.Errorf("--%s does not go with --from-export", name)}
				}
			}
			return sendExport(cmd.Context(), c, o, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.url, "url", "", "where to post (default: the bridge that FNBRIDGE_LISTEN describes, on this machine)")
	f.StringVar(&o.sample, "sample", admin.Samples()[0].Name, "which sample to send")
	f.BoolVar(&o.list, "list", false, "list the samples, and send nothing")
	f.StringVar(&o.id, "id", "", "webhook id (default: a new one)")
	f.IntVar(&o.count, "count", 1, "how many webhooks to send")
	f.BoolVar(&o.repeat, "repeat", false, "send each webhook twice, to see it recognised")
	f.Float64Var(&o.rate, "rate", 0, "webhooks a second (default, 0: one after the other, as fast as they are answered)")
	f.VarPF(&o.wait, "wait", "", "wait for the events at every sink, at most this long").NoOptDefVal = defaultWait
	f.StringVar(&o.export, "from-export", "", "send the webhooks of this file, which \"fnbridge journal export\" "+
		"wrote; - is standard input")
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
	payload, err := o.payload(c, args)
	if err != nil {
		return err
	}
	s, err := newSender(c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.sendAll(ctx, o, payload)
}

func (o sendOptions) checkRate() error {
	if o.rate != 0 && !(o.rate >= minRate && o.rate <= maxRate) { // catches NaN, too
		return usageError{fmt.Errorf("--rate must be from %g to %.0f webhooks a second; 0: no limit", minRate, maxRate)}
	}
	return nil
}

func (o sendOptions) checkWait() error {
	if o.wait > 0 && o.count > 1 {
		return usageError{errors.New("--wait goes with one webhook: drop --count")}
	}
	return nil
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
	cfg, _, err := app.LoadConfig(os.Environ())
	if o.wait > 0 {
		if cfg, err = loadForSinks(c); err != nil { // before anything is posted
			return nil, err
		}
	}
	if cfg == nil {
		return nil, err
	}
	secret, err := app.SendingSecret(cfg)
	if err != nil {
		return nil, err
	}
	if o.url == "" {
		o.url = app.WebhookURL(cfg)
	}
	return &sender{console: c, cfg: cfg, Sender: admin.NewSender(o.url, secret, o.insecure), json: o.json}, nil
}

// payload returns what makes the bodies to send: those of a sample differ, and what was read goes as it is.
func (o sendOptions) payload(c console, args []string) (func() []byte, error) {
	var body []byte
	var err error
	switch {
	case len(args) == 0:
		sample, err := findSample(o.sample)
		return func() []byte { return sample.Payload(time.Now(), rand.Text) }, err
	case args[0] == "-":
		body, err = io.ReadAll(c.in)
	default:
		body, err = os.ReadFile(args[0])
	}
	if err != nil {
		return nil, fmt.Errorf("the payload cannot be read: %w", err)
	}
	return func() []byte { return body }, nil
}

// sender posts and prints.
type sender struct {
	console
	*admin.Sender
	cfg  *config.Config
	json bool
}

func (s *sender) sendAll(ctx context.Context, o sendOptions, payload func() []byte) error {
	pace, stop := o.pace()
	defer stop()
	each := 1
	if o.repeat {
		each = 2
	}
	total := o.count * each
	verbose := total <= 10 || o.json
	var t tally
	p := newProgress(s.console)
	defer p.clear()
	var failure error
	var id string
	var body []byte
	start := time.Now()
	for i := range total {
		if pace != nil && i > 0 {
			select {
			case <-ctx.Done():
			case <-pace:
			}
		}
		if i%each == 0 {
			id, body = o.webhookID(), payload()
		}
		a, err := s.Post(ctx, id, body)
		if err != nil {
			failure = s.interruption(ctx, err, i, total)
			break
		}
		t.add(a)
		if !verbose {
			p.at(int64(i+1), int64(total), "webhooks", "")
		} else {
			if err := s.show(a); err != nil {
				return err
			}
		}
		if o.wait > 0 && a.OK() && !a.Duplicate {
			if err := s.await(ctx, time.Duration(o.wait), a); err != nil {
				return err
			}
		}
	}
	p.clear()
	if o.count > 1 && !o.json && len(t.times) > 0 {
		t.print(s.out, time.Since(start))
	}
	if failure == nil && t.refused > 0 {
		return errReported
	}
	return failure
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
	if _, ok := errors.AsType[*admin.UnsendableError](err); ok {
		return err
	}
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // it would say the address once more
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nothing listens at %s%s: start \"fnbridge serve\", or say with --url where the bridge is",
			s.URL, progress)
	}
	return fmt.Errorf("no answer from %s%s: %w (is \"fnbridge serve\" running, and is this its address?)",
		s.URL, progress, err)
}

func (o sendOptions) webhookID() string {
	if o.id != "" {
		return o.id
	}
	return "msg_" + rand.Text()
}

func (s *sender) show(a admin.Answer) error {
	if s.json {
		return encoder(s.out).Encode(a)
	}
	var what string
	switch {
	case a.OK() && a.Duplicate:
		what = "was known already: a webhook of this id and body was accepted before, and nothing is published again"
	case a.OK():
		what = plural(a.Events, "event")
	default:
		what = "refused: " + printable(s.clip(a.Detail, 400))
	}
	_, err := fmt.Fprintln(s.out,
		s.wrap(2, fmt.Sprintf("%d %s  %s  %s", a.Status, http.StatusText(a.Status), a.WebhookID, what)))
	return err
}

// tally adds up answers.
type tally struct {
	accepted, duplicate, refused, events int
	times                                []time.Duration
}

func (t *tally) add(a admin.Answer) {
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
		plural(len(t.times), "webhook"), took.Round(time.Millisecond),
		t.accepted, plural(t.events, "event"), t.duplicate, t.refused,
		t.times[len(t.times)/2].Round(time.Microsecond), t.times[len(t.times)-1].Round(time.Microsecond))
}
