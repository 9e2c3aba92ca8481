package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/bridge/ingest"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
)

// samplePayload is the webhook that Tensorlake's documentation shows.
const samplePayload = `{"workflow_name": "workflow_XXXX", "invocation_id": "%s", "fn_status": {"fn_A": "success", "fn_B": "failure"}}`

// senderTimeout is how long Tensorlake's sender waits for an answer.
const senderTimeout = 15 * time.Second

type sendOptions struct {
	url      string
	id       string
	count    int
	rate     float64
	fresh    bool
	insecure bool
	json     bool
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
window (10 minutes). --fresh gives each sample an invocation of its own; --count does so too.`,
		Example: `  fnbridge send
  fnbridge send --count 1000 --rate 200
  fnbridge send payload.json
  echo '{"job_id":"job_1","status":"successful"}' | fnbridge send -`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return send(cmd.Context(), c, o, args) },
	}
	f := cmd.Flags()
	f.StringVar(&o.url, "url", "", "where to post (default: the bridge that FNBRIDGE_LISTEN describes, on this machine)")
	f.StringVar(&o.id, "id", "", "webhook id (default: a new one; give one twice to see it recognised)")
	f.IntVar(&o.count, "count", 1, "how many webhooks to send")
	f.Float64Var(&o.rate, "rate", 0, "webhooks a second (default: one after the other, as fast as they are answered)")
	f.BoolVar(&o.fresh, "fresh", false, "give the sample a new invocation id")
	f.BoolVar(&o.insecure, "insecure-tls", false, "accept any certificate")
	jsonFlag(cmd, &o.json)
	return cmd
}

func send(ctx context.Context, c console, o sendOptions, args []string) error {
	if o.count < 1 || o.rate < 0 {
		return usageError{errors.New("--count must be at least 1 and --rate not negative")}
	}
	if o.id != "" && o.count > 1 {
		return usageError{errors.New("--id goes with one webhook: drop --count")}
	}
	payload, sample, err := readPayload(c, args)
	if err != nil {
		return err
	}
	if o.fresh && !sample {
		return usageError{errors.New("--fresh goes with the sample payload: it does not change a payload of yours")}
	}
	cfg, _, err := config.Load()
	if cfg == nil {
		return err
	}
	secret, err := app.SendingSecret(cfg)
	if err != nil {
		return err
	}
	s := sender{
		console: c, secret: secret, url: o.url, json: o.json,
		client: &http.Client{Timeout: senderTimeout, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: o.insecure}, //nolint:gosec // asked for by a flag, for trying things out
		}},
	}
	defer s.client.CloseIdleConnections()
	if s.url == "" {
		s.url = localURL(cfg)
	}
	return s.sendAll(ctx, o, payload, sample)
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

// localURL is where the public listener is reached from this machine.
func localURL(cfg *config.Config) string {
	scheme := "http"
	if cfg.TLSCertFile != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		host, port = "", "8080"
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port) + ingest.Path
}

type sender struct {
	console
	client *http.Client
	secret string // empty: unsigned
	url    string
	json   bool
}

// answer is what the bridge said to one webhook.
type answer struct {
	WebhookID string        `json:"webhook_id"`
	Status    int           `json:"status"`
	Events    int           `json:"events"`
	Duplicate bool          `json:"duplicate,omitempty"`
	Detail    string        `json:"detail,omitempty"`
	Took      time.Duration `json:"-"`
	Seconds   float64       `json:"seconds"`
}

func (a answer) ok() bool { return a.Status >= 200 && a.Status < 300 }

func (s *sender) sendAll(ctx context.Context, o sendOptions, payload []byte, sample bool) error {
	var pace <-chan time.Time
	if o.rate > 0 {
		ticker := time.NewTicker(time.Duration(float64(time.Second) / o.rate))
		defer ticker.Stop()
		pace = ticker.C
	}
	verbose := o.count <= 10 || o.json
	var answers []answer
	start := time.Now()
	for i := range o.count {
		if pace != nil && i > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-pace:
			}
		}
		body := payload
		if sample {
			invocation := "invocation_XXXX"
			if o.fresh || o.count > 1 {
				invocation = "invocation_" + rand.Text()
			}
			body = fmt.Appendf(nil, samplePayload, invocation)
		}
		id := o.id
		if id == "" {
			id = "msg_" + rand.Text()
		}
		a, err := s.post(ctx, id, body)
		if err != nil {
			return fmt.Errorf("%s cannot be reached after %d of %d webhooks: %w\nIs \"fnbridge serve\" running, and is this its address?", s.url, i, o.count, err)
		}
		answers = append(answers, a)
		if verbose {
			if err := s.show(a); err != nil {
				return err
			}
		}
	}
	if o.count > 1 && !o.json {
		s.summarise(answers, time.Since(start))
	}
	if slices.ContainsFunc(answers, func(a answer) bool { return !a.ok() }) {
		return errReported
	}
	if sample && !o.fresh && o.count == 1 && s.terminal && !o.json {
		fmt.Fprintln(s.out, "This sample has the same event ids each time, so brokers and consumers can dedupe; --fresh makes new ones.")
	}
	return nil
}

func (s *sender) post(ctx context.Context, id string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if s.secret != "" {
		header, err := tensorlake.Sign(s.secret, id, time.Now(), body)
		if err != nil {
			return answer{}, err
		}
		req.Header = header
	} else {
		req.Header.Set("svix-id", id)
	}
	req.Header.Set("Content-Type", "application/json")
	start := time.Now()
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return answer{}, err
	}
	a := answer{Took: time.Since(start)}
	if err := json.Unmarshal(text, &a); err != nil {
		a.Detail = printable(strings.TrimSpace(string(text)))
	}
	a.WebhookID, a.Status, a.Seconds = id, resp.StatusCode, a.Took.Seconds()
	return a, nil
}

func (s *sender) show(a answer) error {
	if s.json {
		return json.NewEncoder(s.out).Encode(a)
	}
	var what string
	switch {
	case a.ok() && a.Duplicate:
		what = "was known already: its events are not published again"
	case a.ok():
		what = plural(a.Events, "event")
	default:
		what = "refused: " + printable(a.Detail)
	}
	_, err := fmt.Fprintf(s.out, "%d %s  %s  %s\n", a.Status, http.StatusText(a.Status), a.WebhookID, what)
	return err
}

func (s *sender) summarise(answers []answer, took time.Duration) {
	accepted, duplicate, refused, events := 0, 0, 0, 0
	times := make([]time.Duration, 0, len(answers))
	for _, a := range answers {
		times = append(times, a.Took)
		switch {
		case !a.ok():
			refused++
		case a.Duplicate:
			duplicate++
		default:
			accepted++
			events += a.Events
		}
	}
	slices.Sort(times)
	fmt.Fprintf(s.out, "%s in %s: %d accepted (%s), %d known already, %d refused; answered in %s (median), %s (slowest)\n",
		plural(len(answers), "webhook"), took.Round(time.Millisecond), accepted, plural(events, "event"), duplicate, refused,
		times[len(times)/2].Round(time.Microsecond), times[len(times)-1].Round(time.Microsecond))
}
