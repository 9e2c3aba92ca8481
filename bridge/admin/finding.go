package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// findPath is where the control socket takes searches.
const findPath = "/v1/find"

// findLine is a line of the answer to a search. The last one has Ended, or Error.
type findLine struct {
	Found    *Found        `json:"found,omitempty"`
	Progress *FindProgress `json:"progress,omitempty"`
	Error    string        `json:"error,omitempty"`
	Ended    bool          `json:"ended,omitempty"`
}

// Find is Finder.Find on the journal in dir: by the bridge that runs there, or if there is none by itself, for one that
// makes events so and has such sinks.
func Find(
	ctx context.Context, dir string, r FindRequest, events tensorlake.Options, configured []Sink,
	progress func(FindProgress), each func(*Found) error,
) error {
	body, err := ask(ctx, dir, findPath, r)
	if errors.Is(err, ErrNotRunning) {
		return findAlone(ctx, dir, r, events, configured, progress, each)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var line findLine
		if err := d.Decode(&line); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("the running bridge ended before it had searched all: %w", err)
		}
		switch {
		case line.Error != "":
			return errors.New(line.Error)
		case line.Ended:
			return nil
		case line.Progress != nil:
			progress(*line.Progress)
		case line.Found != nil:
			if err := each(line.Found); err != nil {
				return err
			}
		}
	}
}

func findAlone(
	ctx context.Context, dir string, r FindRequest, events tensorlake.Options, configured []Sink,
	progress func(FindProgress), each func(*Found) error,
) error {
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return err
	}
	defer reader.Close()
	f, err := newFinder(reader, events, configured)
	if err != nil {
		return err
	}
	return f.Find(ctx, r, progress, each)
}

// finds answers a search with a line for each webhook that is found, and now and then one that says how far it is.
func (p Parts) finds(w http.ResponseWriter, r *http.Request) {
	var request FindRequest
	if !readRequest(w, r, &request) {
		return
	}
	w.Header().Set("Content-Type", "application/jsonl")
	conn := http.NewResponseController(w)
	lines := json.NewEncoder(w)
	write := func(line findLine) error {
		_ = conn.SetWriteDeadline(time.Now().Add(controlPatience))
		return errors.Join(lines.Encode(line), conn.Flush())
	}
	said := time.Now()
	err := p.Finder.Find(r.Context(), request, func(at FindProgress) {
		if now := time.Now(); now.Sub(said) >= progressInterval {
			said = now
			_ = write(findLine{Progress: &at}) // whoever has gone ends the search by that
		}
	}, func(found *Found) error { return write(findLine{Found: found}) })
	last := findLine{Ended: true}
	if err != nil {
		if errors.Is(context.Cause(r.Context()), errStopping) {
			err = errStopping
		}
		last = findLine{Error: err.Error()}
	}
	_ = write(last)
}

// progressInterval is how often a search says how far it is.
const progressInterval = 200 * time.Millisecond
