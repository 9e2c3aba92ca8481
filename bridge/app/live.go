package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/config"
)

// maxStatus bounds the answer of a bridge about its status.
const maxStatus = 1 << 20

// ErrNoJournal is the error of what needs a journal with a configuration that has none.
var ErrNoJournal = errors.New("with FNBRIDGE_ACK=sinks there is no journal: webhooks are published before they are answered, and what a sink can never store " +
	"goes to FNBRIDGE_<SINK>_DEAD_LETTER or is answered 422. To look at a journal from before, run this command with FNBRIDGE_ACK=journal")

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

// ReadLiveStatus asks the operations listener of the bridge that cfg describes. It is for FNBRIDGE_ACK=sinks, where nothing but
// the process knows.
func ReadLiveStatus(ctx context.Context, cfg *config.Config) (LiveStatus, error) {
	var s LiveStatus
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+LocalAddress(cfg.OpsListen)+"/status", http.NoBody)
	if err != nil {
		return s, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return s, fmt.Errorf("the bridge does not answer at FNBRIDGE_OPS_LISTEN (%s), and with FNBRIDGE_ACK=sinks it stores nothing that could be read without it: %w", cfg.OpsListen, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s; does it run with FNBRIDGE_ACK=sinks?", resp.Status)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return s, fmt.Errorf("the bridge at %s does not tell its status: %w", cfg.OpsListen, err)
	}
	return s, nil
}

// liveStatus is what the operations listener tells. It is nil with a journal, whose status stands on the disk.
func (a *App) liveStatus() func() any {
	if a.queue == nil {
		return nil
	}
	return func() any {
		s := LiveStatus{Ack: config.AckSinks}
		if err := a.ready(); err != nil {
			s.NotReady = err.Error()
		} else {
			s.Ready = true
		}
		s.Webhooks, s.Bytes = a.queue.Size()
		for i, d := range a.dispatchers {
			state := d.State()
			s.Sinks = append(s.Sinks, LiveSinkStatus{
				Sink: a.cfg.Sinks[i].Name, Required: a.cfg.Sinks[i].Required, State: state.State, Since: optional(state.Since),
				Webhooks: d.Backlog(), LastError: state.LastError, LastErrorAt: optional(state.LastErrorAt),
			})
		}
		return s
	}
}
