package admin

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// senderTimeout is how long Tensorlake's sender waits for an answer.
const senderTimeout = 15 * time.Second

// Sender posts webhooks as Tensorlake does. It is safe for concurrent use.
type Sender struct {
	// URL is where it posts.
	URL    string
	client *http.Client
	secret string // empty: unsigned
}

// Answer is what a bridge said to one webhook.
type Answer struct {
	WebhookID string `json:"webhook_id"`
	Status    int    `json:"status"`
	Events    int    `json:"events"`
	Duplicate bool   `json:"duplicate,omitempty"`
	// Detail says what was wrong.
	Detail string        `json:"detail,omitempty"`
	Took   time.Duration `json:"-"`
	// RetryAfter is how long the bridge asks to wait before another try; 0 if it does not.
	RetryAfter time.Duration `json:"-"`
	// Seconds is Took for programs.
	Seconds float64 `json:"seconds"`
	// SentAt and Body are of the webhook that was answered.
	SentAt time.Time `json:"-"`
	Body   []byte    `json:"-"`
}

// UnsendableError says that a webhook cannot be sent, by its id.
type UnsendableError struct{ error }

// Unwrap returns what is wrong with it.
func (e *UnsendableError) Unwrap() error { return e.error }

// OK tells whether the webhook was taken.
func (a Answer) OK() bool { return a.Status >= 200 && a.Status < 300 }

// NewSender makes a Sender that posts to url and signs with secret, unless that is empty. With insecureTLS it takes any
// certificate.
func NewSender(url, secret string, insecureTLS bool) *Sender {
	return &Sender{URL: url, secret: secret, client: &http.Client{
		Timeout: senderTimeout,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{
				InsecureSkipVerify: insecureTLS, //nolint:gosec // asked for by whoever tries things out
			},
		},
		// A signed request is for the one that was asked: whoever else gets it can have it taken.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close lets go of its connections.
func (s *Sender) Close() { s.client.CloseIdleConnections() }

// Post sends one webhook. An *UnsendableError means that it was not sent, any other error that there was no answer.
func (s *Sender) Post(ctx context.Context, id string, body []byte) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	if s.secret != "" {
		header, err := tensorlake.Sign(s.secret, id, time.Now(), body)
		if err != nil {
			return Answer{}, &UnsendableError{err}
		}
		req.Header = header
	} else {
		req.Header.Set("svix-id", id)
	}
	req.Header.Set("Content-Type", "application/json")
	start := time.Now()
	resp, err := s.client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Answer{}, err
	}
	var a Answer
	if err := json.Unmarshal(text, &a); err != nil {
		a.Detail = strings.TrimSpace(string(text))
	}
	a.WebhookID, a.Status, a.SentAt, a.Body = id, resp.StatusCode, start, body
	a.Took = time.Since(start)
	a.Seconds = a.Took.Seconds()
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		a.RetryAfter = time.Duration(seconds) * time.Second
	}
	return a, nil
}
