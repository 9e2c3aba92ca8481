package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// replayPath is where the control socket takes replays. The answer is a stream of replayLines.
const replayPath = "/v1/replay"

// ReplayRequest selects events that a sink has been sent, or is given as dead letters.
type ReplayRequest struct {
	// Sink may be empty where one is configured.
	Sink string `json:"sink,omitempty"`
	// Since and Until bound when the webhook was received: at or after Since, before Until. Zero: open.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	EventFilter
}

func (r ReplayRequest) delivery() delivery.ReplayRequest {
	return delivery.ReplayRequest{Since: r.Since, Until: r.Until, Events: r.EventFilter}
}

// ReplayProgress is how far a replay is.
type ReplayProgress struct {
	Sink string `json:"sink"`
	Kind string `json:"kind,omitempty"` // of the sink; not known without a bridge
	// Webhooks are in the range that was asked for, WebhooksRead of them have been read.
	Webhooks     int64 `json:"webhooks"`
	WebhooksRead int64 `json:"webhooks_read"`
	// Events of them were asked for; Published reached the sink, DeadLetters cannot, and the rest is under way.
	Events      int64 `json:"events"`
	Published   int64 `json:"published"`
	DeadLetters int64 `json:"dead_letters"`
}

func replayProgress(sink, kind string, p delivery.ReplayProgress) ReplayProgress {
	return ReplayProgress{
		Sink: sink, Kind: kind, Webhooks: p.Webhooks, WebhooksRead: p.Read,
		Events: p.Events, Published: p.Acknowledged, DeadLetters: p.DeadLettered,
	}
}

// replayLine is one line of the answer to a replay. The last one has Done or Error.
type replayLine struct {
	ReplayProgress
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// Replay has the bridge that runs on the data directory publish again what its journal still holds, behind what it has
// to do anyway, until all of it has reached the sink or is a dead letter. It calls progress now and then, and returns
// how far the replay came, also with an error. The end of ctx ends the replay. Without a bridge the error is
// ErrNotRunning.
func Replay(ctx context.Context, dir string, r ReplayRequest, progress func(ReplayProgress)) (
	last ReplayProgress, err error,
) {
	body, err := ask(ctx, dir, replayPath, r)
	if err != nil {
		return last, err
	}
	defer body.Close()
	lines := json.NewDecoder(body)
	for {
		var line replayLine
		switch err := lines.Decode(&line); {
		case ctx.Err() != nil:
			return last, ctx.Err()
		case err != nil:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return last, fmt.Errorf("the bridge ended in the middle of the replay: %w", err)
		}
		last = line.ReplayProgress
		switch {
		case line.Error != "":
			return last, errors.New(line.Error)
		case line.Done:
			return last, nil
		}
		progress(last)
	}
}

// CountReplay counts what a Replay would publish, from the journal in dir, of a bridge that makes events so. routes
// has, by the sink's name, the patterns of what it gets. It works beside a running bridge and writes nothing.
func CountReplay(ctx context.Context, dir string, r ReplayRequest, events tensorlake.Options,
	routes map[string]string,
) (ReplayProgress, error) {
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return ReplayProgress{}, err
	}
	defer reader.Close()
	status, err := reader.Status(ctx)
	if err != nil {
		return ReplayProgress{}, err
	}
	var names []string
	for _, s := range status.Sinks {
		if s.Configured {
			names = append(names, s.Sink)
		}
	}
	sink, err := pickReplaySink(r.Sink, names)
	if err != nil {
		return ReplayProgress{}, err
	}
	cursor, err := cursorOf(status, sink)
	if err != nil {
		return ReplayProgress{}, err
	}
	wanted, err := bridge.ParseRoutes(routes[sink])
	if err != nil {
		return ReplayProgress{}, err
	}
	p, err := delivery.CountReplay(ctx, reader, cursor, r.delivery(), events, wanted)
	return replayProgress(sink, "", p), err
}

// pickReplaySink returns the sink that is meant, of those that a bridge delivers to.
func pickReplaySink(asked string, names []string) (string, error) {
	if asked == "" && len(names) == 1 {
		return names[0], nil
	}
	for _, name := range names {
		if name == asked {
			return name, nil
		}
	}
	if asked == "" {
		return "", fmt.Errorf("name the sink to replay to with --sink: one of %s", strings.Join(names, ", "))
	}
	return "", fmt.Errorf("the bridge has no sink %q; it has %s", asked, strings.Join(names, ", "))
}

// replays answers a request to replay, until the replay is over or whoever asked goes away.
func (p Parts) replays(w http.ResponseWriter, r *http.Request) {
	var request ReplayRequest
	if !readRequest(w, r, &request) {
		return
	}
	names := make([]string, 0, len(p.Sinks))
	for _, s := range p.Sinks {
		names = append(names, s.Name)
	}
	name, err := pickReplaySink(request.Sink, names)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	sink := p.Sinks[slices.Index(names, name)]
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	lines := &lineWriter{ResponseWriter: w, gone: cancel}
	log := p.Logger.With("sink", name)
	log.Info("a command asked for a replay", "request", asText(request))
	came, err := sink.Dispatcher.Replay(ctx, request.delivery(), func(far delivery.ReplayProgress) {
		lines.write(replayLine{ReplayProgress: replayProgress(name, sink.Kind, far)})
	})
	if errors.Is(context.Cause(r.Context()), errStopping) {
		err = delivery.ErrReplayStopped
	}
	last := replayLine{ReplayProgress: replayProgress(name, sink.Kind, came), Done: err == nil}
	switch {
	case err == nil:
		log.Info("the replay is through",
			"events", came.Events, "published", came.Acknowledged, "dead_letters", came.DeadLettered)
	case !lines.begun && ctx.Err() == nil:
		log.Warn("the replay was refused", "error", err)
		refuse(w, http.StatusConflict, err)
		return
	default:
		log.Info("the replay ended early", "cause", err,
			"events", came.Events, "published", came.Acknowledged, "dead_letters", came.DeadLettered)
		last.Error = err.Error()
	}
	lines.write(last)
}

// lineWriter writes JSON lines as they come.
type lineWriter struct {
	http.ResponseWriter
	begun bool
	gone  context.CancelFunc // the reader has left, or does not read
}

func (l *lineWriter) write(v any) {
	if !l.begun {
		l.Header().Set("Content-Type", "application/x-ndjson")
		l.begun = true
	}
	conn := http.NewResponseController(l.ResponseWriter)
	_ = conn.SetWriteDeadline(time.Now().Add(controlPatience))
	if json.NewEncoder(l.ResponseWriter).Encode(v) != nil || conn.Flush() != nil {
		l.gone()
	}
}
