package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// liveTimeout bounds what is asked of the operations listener: one that takes longer does not answer.
	liveTimeout = 3 * time.Second
	// maxStatus bounds the answer of a bridge about its status.
	maxStatus = 1 << 20
	// maxComplaint bounds what is shown of an answer that is no status.
	maxComplaint = 4096
)

// LiveStatus is how a bridge is that stores nothing, as it tells itself.
type LiveStatus struct {
	Ack   string `json:"ack"`
	Ready bool   `json:"ready"`
	// NotReady is why it is not ready.
	NotReady string `json:"not_ready,omitempty"`
	// Webhooks are being published right now, and their bodies have Bytes.
	Webhooks int              `json:"webhooks"`
	Bytes    int64            `json:"bytes"`
	Sinks    []LiveSinkStatus `json:"sinks"`
}

// LiveSinkStatus is how one of its sinks is.
type LiveSinkStatus struct {
	Sink     string `json:"sink"`
	Required bool   `json:"required"`
	// State is up, degraded, down or blocked, and empty until it is known.
	State       string     `json:"state"`
	Since       *time.Time `json:"since,omitempty"`
	Webhooks    int64      `json:"webhooks"` // that it works on
	LastError   string     `json:"last_error,omitempty"`
	LastErrorAt *time.Time `json:"last_error_at,omitempty"`
}

// LiveStatus is what a bridge with FNBRIDGE_ACK=sinks tells of itself on its operations listener.
func (p Parts) LiveStatus() LiveStatus {
	s := LiveStatus{Ack: "sinks"}
	if err := p.Ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	s.Webhooks, s.Bytes = p.Queue.Size()
	for _, sink := range p.Sinks {
		state := sink.Dispatcher.State()
		s.Sinks = append(s.Sinks, LiveSinkStatus{
			Sink: sink.Name, Required: sink.Required, State: state.State, Since: optional(state.Since),
			Webhooks: sink.Dispatcher.Backlog(), LastError: state.LastError, LastErrorAt: optional(state.LastErrorAt),
		})
	}
	return s
}

// ReadLiveStatus asks the bridge whose operations listener is at address. It is for FNBRIDGE_ACK=sinks, where nothing
// but the process knows.
func ReadLiveStatus(ctx context.Context, address string) (s LiveStatus, err error) {
	code, body, err := askOperations(ctx, address, "/status")
	if err != nil {
		return s, fmt.Errorf("the bridge does not answer at FNBRIDGE_OPS_LISTEN (%s), and with FNBRIDGE_ACK=sinks "+
			"it stores nothing that could be read without it: %w", address, err)
	}
	if code != http.StatusOK {
		err = fmt.Errorf("it answers %d %s; does it run with FNBRIDGE_ACK=sinks?", code, http.StatusText(code))
	} else {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return s, fmt.Errorf("the bridge at %s does not tell its status: %w", address, err)
	}
	return s, nil
}

// CheckLive asks the bridge whose operations listener is at address whether its process lives.
func CheckLive(ctx context.Context, address string) error {
	code, body, err := askOperations(ctx, address, "/livez")
	switch {
	case err != nil:
		return fmt.Errorf("the bridge does not answer: %w", err)
	case code != http.StatusOK:
		return fmt.Errorf("the bridge answers %d %s: %q", code, http.StatusText(code), body[:min(len(body), maxComplaint)])
	default:
		return nil
	}
}

// askOperations returns what the operations listener at address answers.
func askOperations(ctx context.Context, address, path string) (code int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return 0, nil, err
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
