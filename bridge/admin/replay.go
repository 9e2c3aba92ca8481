package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// Where the control socket takes replays, and their ends.
const (
	replayPath = "/v1/replay"
	cancelPath = "/v1/replay/cancel"
)

// How much of the journal a count reads at a time.
const (
	countWebhooks = 1024
	countBytes    = 8 << 20
)

// ReplayRequest selects events that a sink has been sent, or is given as dead letters.
type ReplayRequest struct {
	// Sink may be empty where one is configured.
	Sink string `json:"sink,omitempty"`
	// Since and Until bound when the webhook was received: at or after Since, before Until. Zero: open.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	EventFilter
	// Rate is the most events a second; 0: no bound.
	Rate float64 `json:"rate,omitempty"`
}

func (r *ReplayRequest) check() error {
	switch {
	case !r.Since.IsZero() && !r.Until.IsZero() && !r.Since.Before(r.Until):
		return fmt.Errorf("nothing lies between %s and %s: the beginning of a replay must be before its end",
			r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
	case r.Rate < 0:
		return fmt.Errorf("a replay cannot publish %v events a second: give a rate above 0, or none", r.Rate)
	default:
		return nil
	}
}

// The states of a Replay.
const (
	ReplayRunning   = "running"
	ReplayDone      = journal.StreamDone
	ReplayCancelled = journal.StreamCancelled
	ReplayNoRoom    = journal.StreamNoRoom // it kept webhooks in a journal that was nearly full
)

// Replay is one that was asked for. Times that are not there are nil.
type Replay struct {
	// Replay is its number.
	Replay int64  `json:"replay"`
	Sink   string `json:"sink"`
	// State is running, until it is done, cancelled or ended for want of room.
	State   string     `json:"state"`
	AskedAt time.Time  `json:"asked_at"`
	EndedAt *time.Time `json:"ended_at,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
	EventFilter
	Rate float64 `json:"rate,omitempty"`
	// Webhooks are left to look at.
	Webhooks int64 `json:"webhooks_left"`
	// Events were asked for so far; Published reached the sink, DeadLetters cannot, and the rest is under way.
	Events      int64 `json:"events"`
	Published   int64 `json:"published"`
	DeadLetters int64 `json:"dead_letters"`
	// Running tells whether a bridge runs that works on it. Only AskReplay sets it.
	Running bool `json:"-"`
}

func shownReplay(s *journal.Stream) Replay {
	r := Replay{
		Replay: s.ID, Sink: s.Sink, State: s.End, AskedAt: s.AskedAt, EndedAt: optional(s.EndedAt), Since: optional(s.Since),
		Until: optional(s.Until), EventFilter: s.Events, Rate: s.Rate,
		Events: s.Taken, Published: s.Acknowledged, DeadLetters: s.DeadLettered,
	}
	if s.End == "" {
		r.State, r.Webhooks = ReplayRunning, max(0, s.Through-s.Cursor)
	}
	return r
}

// AskReplay has what r selects published again: by the bridge that runs on the data directory or, if there is none, by
// the next one. It returns once that is durable.
func AskReplay(ctx context.Context, dir string, r ReplayRequest) (asked Replay, err error) {
	if err := r.check(); err != nil {
		return asked, err
	}
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return asked, err
	}
	r.Sink, _, err = replaySink(ctx, reader, r.Sink)
	if err := errors.Join(err, reader.Close()); err != nil {
		return asked, err
	}
	asked.Running, err = changeJournal(ctx, dir, replayPath, r, &asked, func(j *journal.Journal) (err error) {
		asked, err = addReplay(ctx, j, r)
		return err
	})
	return asked, err
}

func addReplay(ctx context.Context, j *journal.Journal, r ReplayRequest) (Replay, error) {
	s, err := j.AddReplay(ctx, journal.Stream{
		Sink: r.Sink, Since: r.Since, Until: r.Until, Events: r.EventFilter, Rate: r.Rate,
	})
	return shownReplay(&s), err
}

// CancelReplay ends a replay, and tells whether it had not ended before. What is under way reaches its sink.
func CancelReplay(ctx context.Context, dir string, number int64) (cancelled bool, err error) {
	_, err = changeJournal(ctx, dir, cancelPath, number, &cancelled, func(j *journal.Journal) (err error) {
		cancelled, err = j.CancelReplay(ctx, number)
		return err
	})
	return cancelled, err
}

// ReadReplays returns the replays that are remembered, in the order in which they were asked for. It works beside a
// running bridge and writes nothing.
func ReadReplays(ctx context.Context, dir string) (replays []Replay, err error) {
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	streams, err := reader.AllStreams(ctx)
	for i := range streams {
		if streams[i].Kind == journal.Replay {
			replays = append(replays, shownReplay(&streams[i]))
		}
	}
	return replays, err
}

// CountReplay counts the webhooks and events that a replay would publish, from the journal in dir, of a bridge that
// makes events so. routes has, by the sink's name, the patterns of what it gets. It works beside a running bridge and
// writes nothing.
func CountReplay(
	ctx context.Context, dir string, r ReplayRequest, events tensorlake.Options, routes map[string]string,
) (sink string, webhooks, count int64, err error) {
	if err := r.check(); err != nil {
		return "", 0, 0, err
	}
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return "", 0, 0, err
	}
	defer reader.Close()
	sink, cursor, err := replaySink(ctx, reader, r.Sink)
	if err != nil || cursor == 0 { // which would select what is on its way
		return sink, 0, 0, err
	}
	wanted, err := bridge.ParseRoutes(routes[sink])
	if err != nil {
		return sink, 0, 0, err
	}
	for f := (journal.WebhookFilter{Through: cursor, Since: r.Since, Until: r.Until}); ; {
		page, err := reader.Select(ctx, f, countWebhooks, countBytes)
		if err != nil || len(page) == 0 {
			return sink, webhooks, count, err
		}
		f.After = page[len(page)-1].Seq
		webhooks += int64(len(page))
		for i := range page {
			for e := range tensorlake.Events(page[i].Webhook, events) {
				if wanted.Match(&e) && r.Match(&e) {
					count++
				}
			}
		}
	}
}

// UnknownSinkError says that a bridge has no sink of the name that was given.
type UnknownSinkError struct {
	// Sink is the name, and empty if none was given where there are several.
	Sink string
	// Known are those that there are.
	Known []string
}

// Error names both.
func (e *UnknownSinkError) Error() string {
	known := strings.Join(e.Known, ", ")
	switch {
	case known == "":
		return fmt.Sprintf("there is no sink %q, nor any other", e.Sink)
	case e.Sink == "":
		return "name the sink with --sink: one of " + known
	default:
		return fmt.Sprintf("there is no sink %q; there is %s", e.Sink, known)
	}
}

// replaySink returns the configured sink that is meant, and the number of the newest webhook that it is through with.
func replaySink(ctx context.Context, r *journal.Reader, asked string) (sink string, cursor int64, err error) {
	status, err := r.Status(ctx)
	if err != nil {
		return "", 0, err
	}
	var configured []journal.SinkStatus
	var names []string
	for _, s := range status.Sinks {
		if s.Configured {
			configured, names = append(configured, s), append(names, s.Sink)
		}
	}
	for _, s := range configured {
		if s.Sink == asked || (asked == "" && len(configured) == 1) {
			return s.Sink, s.Cursor, nil
		}
	}
	return "", 0, &UnknownSinkError{Sink: asked, Known: names}
}

// asksReplay answers a request to replay.
func (p Parts) asksReplay(w http.ResponseWriter, r *http.Request) {
	var request ReplayRequest
	if !readRequest(w, r, &request) {
		return
	}
	err := request.check()
	var asked Replay
	if err == nil {
		asked, err = addReplay(r.Context(), p.Journal, request)
	}
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	p.Logger.Info("a command asked for a replay", "sink", asked.Sink, "replay", asked.Replay, "request", asText(request))
	answer(w, asked)
}

// cancelsReplay answers a request to end a replay.
func (p Parts) cancelsReplay(w http.ResponseWriter, r *http.Request) {
	var number int64
	if !readRequest(w, r, &number) {
		return
	}
	cancelled, err := p.Journal.CancelReplay(r.Context(), number)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	p.Logger.Info("a command cancelled a replay", "replay", number, "cancelled", cancelled)
	answer(w, cancelled)
}
