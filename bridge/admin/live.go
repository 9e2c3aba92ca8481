package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/bridge/problem"
)

const (
	// liveTimeout bounds what is asked of the operations listener: one that takes longer does not answer.
	liveTimeout = 3 * time.Second
	// maxStatus bounds the answer of a bridge about its status.
	maxStatus = 1 << 20
	// maxComplaint bounds what is shown of an answer that is no status.
	maxComplaint = 4096
)

// ackSinks is FNBRIDGE_ACK where nothing is stored.
const ackSinks = "sinks"

// LiveStatus is how a bridge is that stores nothing, as it tells itself.
type LiveStatus struct {
	Ack   string `json:"ack"`
	Ready bool   `json:"ready"`
	// NotReady is why it is not ready.
	NotReady string `json:"not_ready,omitempty"`
	// Webhooks are being published right now, and their bodies have Bytes.
	Webhooks int   `json:"webhooks"`
	Bytes    int64 `json:"bytes"`
	// AcceptedWebhooks counts those that this process has accepted, and LastAccepted is when the last was received.
	AcceptedWebhooks int64            `json:"accepted_webhooks"`
	LastAccepted     *time.Time       `json:"last_accepted_at,omitempty"`
	Sinks            []LiveSinkStatus `json:"sinks"`
	Report
	// RefusedFiles hold what cannot be used, so that what they held before is in use.
	RefusedFiles []RefusedFile `json:"refused_files"`
}

// LiveSinkStatus is how one of its sinks is.
type LiveSinkStatus struct {
	Sink     string `json:"sink"`
	Required bool   `json:"required"`
	// State is up, degraded, down or blocked, and empty until it is known.
	State    string     `json:"state"`
	Since    *time.Time `json:"since,omitempty"`
	Advice   string     `json:"advice,omitempty"` // what a state other than up means, and what to do about it
	Webhooks int64      `json:"webhooks"`         // that it works on
	// AcknowledgedEvents counts what its broker has acknowledged since the start.
	AcknowledgedEvents int64 `json:"acknowledged_events"`
	// MissedEvents counts what a sink that is not required has not got of accepted webhooks, since the start. Nobody sends
	// it again.
	MissedEvents int64      `json:"missed_events,omitempty"`
	LastError    string     `json:"last_error,omitempty"`
	LastErrorAt  *time.Time `json:"last_error_at,omitempty"`
	// StandsStill says what of the sink stands still while the rest goes on, and why.
	StandsStill string `json:"stands_still,omitempty"`
}

// LiveStatus is what a bridge with FNBRIDGE_ACK=sinks tells of itself on its operations listener.
func (p Parts) LiveStatus() LiveStatus {
	s := LiveStatus{Ack: ackSinks, Report: p.Report(), RefusedFiles: p.refusedFiles()}
	if err := p.Ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	s.Webhooks, s.Bytes = p.Queue.Size()
	accepted, last := p.Queue.Accepted()
	s.AcceptedWebhooks, s.LastAccepted = accepted, optional(last)
	for _, sink := range p.Sinks {
		state, events := sink.Dispatcher.State(), missedEvents
		if sink.Required {
			events = askedAgain
		}
		s.Sinks = append(s.Sinks, LiveSinkStatus{
			Sink: sink.Name, Required: sink.Required, State: state.State, Since: optional(state.Since),
			Advice: advice(state.State, events), Webhooks: sink.Dispatcher.Backlog(),
			AcknowledgedEvents: sink.Dispatcher.Acknowledged(), MissedEvents: p.Queue.Missed(sink.Name),
			LastError: state.LastError, LastErrorAt: optional(state.LastErrorAt), StandsStill: state.StandsStill,
		})
	}
	return s
}

// ReadLiveStatus asks the bridge whose operations listener is at address, with the page's token. It is for
// FNBRIDGE_ACK=sinks, where nothing but the process knows.
func ReadLiveStatus(ctx context.Context, address, token string) (s LiveStatus, err error) {
	code, body, err := askOperations(ctx, address, "/api/status", token)
	if err != nil {
		return s, fmt.Errorf("the bridge does not answer at FNBRIDGE_OPS_LISTEN (%s), and with FNBRIDGE_ACK=sinks "+
			"it stores nothing that could be read without it: %w", address, err)
	}
	var said problem.Problem
	switch {
	case code == http.StatusOK:
		if err = json.Unmarshal(body, &s); err == nil && s.Ack != ackSinks {
			err = errors.New("it does not run with FNBRIDGE_ACK=sinks")
		}
	case code == http.StatusUnauthorized:
		err = errors.New("it asks for another token: give this command the FNBRIDGE_PAGE_TOKEN of the bridge")
	case json.Unmarshal(body, &said) == nil && said.Detail != "":
		err = errors.New(said.Detail)
	default:
		err = fmt.Errorf("it answers %d %s", code, http.StatusText(code))
	}
	if err != nil {
		return s, fmt.Errorf("the bridge at %s does not tell its status: %w", address, err)
	}
	return s, nil
}

// CheckLive asks the bridge whose operations listener is at address whether its process lives.
func CheckLive(ctx context.Context, address string) error {
	code, body, err := askOperations(ctx, address, "/livez", "")
	switch {
	case err != nil:
		return fmt.Errorf("the bridge does not answer: %w", err)
	case code != http.StatusOK:
		return fmt.Errorf("the bridge answers %d %s: %q", code, http.StatusText(code), body[:min(len(body), maxComplaint)])
	default:
		return nil
	}
}

// AskReady asks the bridge whose operations listener is at address why it is not ready; empty if it is. An error means
// that no bridge says either there.
func AskReady(ctx context.Context, address string) (why string, err error) {
	code, body, err := askOperations(ctx, address, "/readyz", "")
	switch {
	case err != nil:
		return "", fmt.Errorf("the bridge does not answer: %w", err)
	case code == http.StatusOK:
		return "", nil
	}
	var said problem.Problem
	if code != http.StatusServiceUnavailable || json.Unmarshal(body, &said) != nil || said.Detail == "" {
		return "", fmt.Errorf("the bridge answers %d %s: %q",
			code, http.StatusText(code), body[:min(len(body), maxComplaint)])
	}
	return said.Detail, nil
}

// askOperations returns what the operations listener at address answers. An empty token is not given.
func askOperations(ctx context.Context, address, path, token string) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		req.SetBasicAuth("fnbridge", token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	return resp.StatusCode, body, err
}
