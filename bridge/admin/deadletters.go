package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/fnbridge/fnbridge/bridge/journal"
)

// DeadLetter is an event that a sink could not store, with why. Times that are not there are nil.
type DeadLetter struct {
	ID       int64     `json:"id"`
	Sink     string    `json:"sink"`
	Reason   string    `json:"reason"`
	Attempts int       `json:"attempts"`
	FirstAt  time.Time `json:"first_at"`
	LastAt   time.Time `json:"last_at"`
	// RetryAt is when somebody asked for another try that has not been made.
	RetryAt *time.Time `json:"retry_at,omitempty"`
	// PublishedAt is when it was published to its sink's dead-letter address.
	PublishedAt  *time.Time `json:"published_at,omitempty"`
	WebhookID    string     `json:"webhook_id"`
	EventIndex   int        `json:"event_index"` // among the events of its webhook, from 0
	EventID      string     `json:"event_id"`
	Type         string     `json:"type"`
	Source       string     `json:"source"`
	Subject      string     `json:"subject,omitempty"`
	Time         time.Time  `json:"time"`
	PartitionKey string     `json:"partition_key"`
	Application  string     `json:"application,omitempty"` // or workflow
	Route        []string   `json:"route"`
	// Data is the event's data; a JSON string of it if it is no JSON itself.
	Data json.RawMessage `json:"data"`
}

// DeadLetterFilter selects dead letters: those to which every field that is set applies. The zero filter selects all.
type DeadLetterFilter = journal.DeadLetterFilter

// letterPage is how many dead letters one read takes. Each may be as large as a webhook.
const letterPage = 16

// ReadDeadLetters calls each with what f selects from the journal in dir, oldest first and at most limit, until each
// returns an error, which it returns. A sink that the journal does not know is an error. It works beside a running
// bridge and writes nothing.
func ReadDeadLetters(
	ctx context.Context, dir string, f DeadLetterFilter, limit int, each func(DeadLetter) error,
) error {
	r, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return err
	}
	defer r.Close()
	if f.Sink != "" {
		s, err := r.Status(ctx)
		if err != nil {
			return err
		}
		if _, err := sinkOf(s, f.Sink); err != nil {
			return err
		}
	}
	for left := limit; left > 0; left -= f.Limit {
		f.Limit = min(left, letterPage)
		letters, err := r.DeadLetters(ctx, f)
		if err != nil || len(letters) == 0 {
			return err
		}
		for i := range letters {
			if err := each(shownLetter(&letters[i])); err != nil {
				return err
			}
		}
		f.AfterID = letters[len(letters)-1].ID
	}
	return nil
}

func shownLetter(l *journal.DeadLetter) DeadLetter {
	e := &l.Event
	return DeadLetter{
		ID: l.ID, Sink: l.Sink, Reason: l.Reason, Attempts: l.Attempts, FirstAt: l.FirstAt, LastAt: l.LastAt,
		RetryAt: optional(l.RetryAt), PublishedAt: optional(l.PublishedAt),
		WebhookID: e.WebhookID, EventIndex: e.Origin.Index, EventID: e.ID, Type: e.Type, Source: e.Source,
		Subject: e.Subject, Time: e.Time, PartitionKey: e.PartitionKey, Application: e.Application, Route: e.Route,
		Data: jsonData(e.Data),
	}
}

// jsonData is an event's data, as a JSON string if it is no JSON itself.
func jsonData(data []byte) json.RawMessage {
	if !json.Valid(data) {
		data, _ = json.Marshal(string(data)) // a string can always be
	}
	return data
}

// DeadLetterCount is how much a filter selects.
type DeadLetterCount struct {
	Sink    string `json:"sink"` // empty: of every sink
	Letters int64  `json:"dead_letters"`
	Bytes   int64  `json:"bytes"` // of their data
}

// CountDeadLetters counts what f selects: altogether, and of each sink that has some. Of IDs that are not there, it
// returns those, too. It works beside a running bridge and writes nothing.
func CountDeadLetters(ctx context.Context, dir string, f DeadLetterFilter) (
	all DeadLetterCount, sinks []DeadLetterCount, missing []int64, err error,
) {
	r, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return all, nil, nil, err
	}
	defer r.Close()
	s, err := r.Status(ctx)
	if err != nil {
		return all, nil, nil, err
	}
	if f.Sink != "" {
		if _, err := sinkOf(s, f.Sink); err != nil {
			return all, nil, nil, err
		}
	}
	for _, sink := range s.Sinks {
		if f.Sink != "" && f.Sink != sink.Sink {
			continue
		}
		query := f
		query.Sink = sink.Sink
		c := DeadLetterCount{Sink: sink.Sink}
		if c.Letters, c.Bytes, err = r.CountDeadLetters(ctx, query); err != nil {
			return all, nil, nil, err
		}
		if c.Letters > 0 {
			sinks = append(sinks, c)
		}
		all.Letters, all.Bytes = all.Letters+c.Letters, all.Bytes+c.Bytes
	}
	if int64(len(f.IDs)) > all.Letters {
		missing, err = missingLetters(ctx, r, f.IDs)
	}
	return all, sinks, missing, err
}

func missingLetters(ctx context.Context, r *journal.Reader, ids []int64) (missing []int64, err error) {
	for _, id := range ids {
		n, _, err := r.CountDeadLetters(ctx, journal.DeadLetterFilter{IDs: []int64{id}})
		if err != nil {
			return nil, err
		}
		if n == 0 && !slices.Contains(missing, id) {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

// Where the control socket takes changes of dead letters.
const (
	retryPath = "/v1/dead-letters/retry"
	dropPath  = "/v1/dead-letters/drop"
)

// Change is what became of dead letters.
type Change struct {
	// Letters counts those that another try was asked for and had not been, or those that were dropped.
	Letters int64 `json:"dead_letters"`
	// Running tells whether a running bridge did it, and not the command by itself.
	Running bool `json:"running"`
}

// RetryDeadLetters has what f selects sent again: by the bridge that runs on the data directory or, if there is none,
// by the next one. It returns once that is durable.
func RetryDeadLetters(ctx context.Context, dir string, f DeadLetterFilter) (Change, error) {
	return changeDeadLetters(ctx, dir, retryPath, f, (*journal.Journal).RetryDeadLetters)
}

// Retries is how far retries of dead letters are.
type Retries struct {
	// Newest is the number of the newest one, Ended the one up to which all have ended.
	Newest int64 `json:"-"`
	Ended  int64 `json:"-"`
	// Running tells whether one has not ended.
	Running bool `json:"-"`
	// Published letters reached their sinks, and those that are DeadLetters failed again.
	Published   int64 `json:"published"`
	DeadLetters int64 `json:"failed_again"`
}

// ReadRetries returns how far the retries are that were asked for after the one of that number. It works beside a
// running bridge and writes nothing.
func ReadRetries(ctx context.Context, dir string, after int64) (r Retries, err error) {
	reader, err := journal.OpenReader(ctx, dir)
	if err != nil {
		return r, err
	}
	defer reader.Close()
	streams, err := reader.AllStreams(ctx)
	r.Newest, r.Ended = after, after
	for i := range streams {
		s := &streams[i]
		if s.Kind != journal.Retry || s.ID <= after {
			continue
		}
		r.Newest = max(r.Newest, s.ID)
		if r.Running = r.Running || s.End == ""; !r.Running { // they come in the order of their numbers
			r.Ended = s.ID
		}
		r.Published, r.DeadLetters = r.Published+s.Acknowledged, r.DeadLetters+s.DeadLettered
	}
	return r, err
}

// DropDeadLetters deletes what f selects for good. After an error some may be gone; Change then counts them as far as
// that is known.
func DropDeadLetters(ctx context.Context, dir string, f DeadLetterFilter) (Change, error) {
	return changeDeadLetters(ctx, dir, dropPath, f, (*journal.Journal).DropDeadLetters)
}

// letterChange is a change that the journal makes to dead letters.
type letterChange func(j *journal.Journal, ctx context.Context, f journal.DeadLetterFilter) (int64, error)

func changeDeadLetters(ctx context.Context, dir, path string, f DeadLetterFilter, change letterChange) (
	c Change, err error,
) {
	c.Running, err = changeJournal(ctx, dir, path, f, &c, func(j *journal.Journal) (err error) {
		c.Letters, err = change(j, ctx, f)
		return err
	})
	return c, err
}

// changeJournal has the bridge that runs on the data directory do what is asked at path, or if there is none does it
// itself.
func changeJournal(ctx context.Context, dir, path string, request, response any, do func(*journal.Journal) error) (
	running bool, err error,
) {
	err = askOnce(ctx, dir, path, request, response)
	if !errors.Is(err, ErrNotRunning) {
		return true, err
	}
	j, err := journal.Open(ctx, journal.Options{Dir: dir, KeepSinks: true})
	if locked, ok := errors.AsType[*journal.LockedError](err); ok {
		return false, fmt.Errorf("the process with pid %d uses FNBRIDGE_DATA_DIR (%s), and no bridge answers at its control "+
			"socket: try again if it is just starting; else its log says why it has none, and this command works while "+
			"it is stopped", locked.PID, locked.Dir)
	}
	if err != nil {
		return false, err
	}
	return false, errors.Join(do(j), j.Close(context.WithoutCancel(ctx)))
}

// changesLetters answers requests to change dead letters.
func (p Parts) changesLetters(verb string, change letterChange) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var f DeadLetterFilter
		if !readRequest(w, r, &f) {
			return
		}
		n, err := change(p.Journal, r.Context(), f)
		if err != nil {
			if errors.Is(context.Cause(r.Context()), errStopping) {
				err = errStopping
			}
			if n > 0 {
				err = fmt.Errorf("%w; %d were %s before", err, n, verb)
			}
			refuse(w, http.StatusServiceUnavailable, err)
			return
		}
		p.Logger.Info("a command changed dead letters", "change", verb, "count", n, "filter", asText(f))
		answer(w, Change{Letters: n, Running: true})
	}
}
