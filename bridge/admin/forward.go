package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

const (
	// forwardTimeout is how long a service may take for one answer.
	forwardTimeout = 30 * time.Second
	// forwardTries is how often an event is posted to a service that answers that it cannot take it now.
	forwardTries = 5
	// The first and the longest pause between tries.
	forwardPause    = 100 * time.Millisecond
	forwardMaxPause = 5 * time.Second
	// maxForwardAnswer is how much of an answer's body is kept.
	maxForwardAnswer = 500
)

// Forwarder posts events to an HTTP service as CloudEvents in binary mode. It is for one goroutine at a time.
type Forwarder struct {
	url    string
	client *http.Client
	pause  time.Duration
}

// Forwarded is what a service said to one try of an event.
type Forwarded struct {
	// Try counts from 1.
	Try int
	// Status is that of the answer; 0: there was none, and Err says why.
	Status int
	Err    error
	// Detail is the beginning of the body of an answer that is no 2xx.
	Detail string
	Took   time.Duration
	// Again is how long until the next try; 0: there is none.
	Again time.Duration
}

// OK tells whether the service has taken the event.
func (f *Forwarded) OK() bool { return f.Status >= 200 && f.Status < 300 }

// NewForwarder makes a Forwarder that posts to an http or https URL.
func NewForwarder(address string) (*Forwarder, error) {
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a service: give one such as http://localhost:3000/hook", address)
	}
	return &Forwarder{url: address, pause: forwardPause, client: &http.Client{
		Timeout: forwardTimeout,
		// A redirect would make a GET of it, without the event.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of its connections.
func (f *Forwarder) Close() { f.client.CloseIdleConnections() }

// Forward posts an event until the service takes it or refuses it, and calls say after each try. A service that does
// not answer is waited for until ctx ends. One that answers that it cannot now, with 408, 425, 429 or 5xx, is asked
// some times. It returns whether the service has taken the event; an error is ctx's, or says that it is no CloudEvent.
func (f *Forwarder) Forward(ctx context.Context, r Received, say func(Forwarded)) (taken bool, err error) {
	headers, body, err := cloudevents.Binary.Encode(r.Event, cloudevents.NATSPrefix)
	if err != nil {
		return false, fmt.Errorf("what is at %s is no CloudEvent: %w", r.Address, err)
	}
	pause := f.pause
	for try, refused := 1, 0; ; try++ {
		answer := f.post(ctx, headers, body)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		answer.Try = try
		if answer.Status != 0 {
			refused++
		}
		if retries(answer.Status) && refused < forwardTries {
			answer.Again = max(answer.Again, pause)
			pause = min(2*pause, forwardMaxPause)
		} else {
			answer.Again = 0
		}
		say(answer)
		if answer.Again == 0 {
			return answer.OK(), nil
		}
		if err := rest(ctx, answer.Again); err != nil {
			return false, err
		}
	}
}

// retries tells whether an event is posted again after an answer of that status; 0: there was none.
func retries(status int) bool {
	switch status {
	case 0, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	default:
		return status >= 500
	}
}

func (f *Forwarder) post(ctx context.Context, headers []cloudevents.Header, body []byte) (answer Forwarded) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, bytes.NewReader(body))
	if err != nil {
		return Forwarded{Err: err}
	}
	for _, h := range headers {
		req.Header.Set(h.Name, h.Value)
	}
	began := time.Now()
	defer func() { answer.Took = time.Since(began) }()
	resp, err := f.client.Do(req)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // whoever asked knows the URL, which may hold a password
		}
		return Forwarded{Err: err}
	}
	defer resp.Body.Close()
	answer.Status = resp.StatusCode
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxForwardAnswer))
	if err == nil {
		_, err = io.CopyN(io.Discard, resp.Body, 1<<20) // so that the connection can be used again
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return Forwarded{Err: fmt.Errorf("its answer breaks off: %w", err)}
	}
	if !answer.OK() {
		answer.Detail = string(bytes.TrimSpace(text))
	}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		answer.Again = min(time.Duration(seconds)*time.Second, forwardMaxPause)
	}
	return answer
}
