package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks"
)

const (
	// searchPlaces is how many searches run at one time.
	searchPlaces = 2
	// One step of a search returns so much at most.
	foundCount = 1000
	foundBytes = 8 << 20
	// shownEvents is how many events of a webhook are shown one by one. All are counted.
	shownEvents = 100
)

// FindRequest selects webhooks of a journal: those to which every field that is set applies. The zero request selects
// all.
type FindRequest struct {
	// ID is that of a webhook, or of an event, or a whole text in the body as ids of requests, invocations, sandboxes and
	// jobs are.
	ID string `json:"id,omitempty"`
	// Text is a part of the body, byte for byte, or as JSON may write it.
	Text string `json:"text,omitempty"`
	// Since selects by when the webhook was received.
	Since time.Time `json:"since,omitzero"`
	// Before leaves out webhooks of this number and above: the lowest number of one page gives the next page.
	Before int64 `json:"before,omitempty"`
	// Limit is the most to find; 0 or less: no bound.
	Limit int `json:"limit,omitempty"`
}

// FindProgress is how far a search is.
type FindProgress struct {
	// Searched webhooks have been looked at of Webhooks.
	Searched int64 `json:"searched"`
	Webhooks int64 `json:"webhooks"`
}

// Found is a webhook in the journal, and what became of it.
type Found struct {
	// Number orders webhooks by when they were accepted.
	Number     int64     `json:"number"`
	WebhookID  string    `json:"webhook_id"`
	ReceivedAt time.Time `json:"received_at"`
	SignedAt   time.Time `json:"signed_at"`
	Bytes      int       `json:"bytes"`
	// Shape is of its payload; empty: it is no JSON object.
	Shape string `json:"shape,omitempty"`
	// EventCount counts its events, and Events are the first of them, and those whose id was looked for.
	EventCount int          `json:"event_count"`
	Events     []FoundEvent `json:"events"`
	// Sinks say for each sink what became of all its events.
	Sinks []FoundSink `json:"sinks"`

	// Body is the body as it came.
	Body []byte `json:"-"`
}

// FoundSink is how a sink stands with a webhook.
type FoundSink struct {
	Sink string `json:"sink"`
	// Configured tells whether the bridge delivers to this sink.
	Configured bool `json:"configured"`
	// Events counts the webhook's events by their Fate at the sink.
	Events map[Fate]int `json:"events"`
	// Ahead counts the webhooks that wait for the sink before this one, if events of this one do.
	Ahead int64 `json:"webhooks_ahead,omitempty"`
	// MayBeMissing tells that the sink's broker went back, and may have lost what it had acknowledged of this webhook.
	MayBeMissing bool `json:"may_be_missing,omitempty"`
}

// Fate is what became of an event at a sink.
type Fate string

// The fates of events.
const (
	// Acknowledged events have reached the sink.
	Acknowledged Fate = "acknowledged"
	// Waiting events are to reach it.
	Waiting Fate = "waiting"
	// DeadLettered events could not be stored there, and are kept.
	DeadLettered Fate = "dead_letter"
	// Dropped ones were, until somebody dropped them.
	Dropped Fate = "dropped"
	// NotWanted events match none of the sink's routes of today.
	NotWanted Fate = "not_wanted"
	// BeforeSink is the fate of what was accepted before the sink was configured for the first time, unless a replay that
	// is remembered has published it since.
	BeforeSink Fate = "before_sink"
	// Absent is the fate of what was accepted while the sink was not configured, unless such a replay has.
	Absent Fate = "sink_absent"
	// NotKnown is the fate of events at a sink that is not required, where nothing is stored.
	NotKnown Fate = "not_known"
)

// Fates returns every fate, the usual ones first.
func Fates() []Fate {
	return []Fate{Acknowledged, Waiting, DeadLettered, Dropped, NotWanted, BeforeSink, Absent, NotKnown}
}

// FoundEvent is an event of a webhook that was found.
type FoundEvent struct {
	Index        int       `json:"event_index"` // among the events of its webhook, from 0
	ID           string    `json:"event_id"`
	Type         string    `json:"type"`
	Source       string    `json:"source"`
	Subject      string    `json:"subject,omitempty"`
	Time         time.Time `json:"time"`
	PartitionKey string    `json:"partition_key"`
	Sequence     string    `json:"sequence,omitempty"`
	SourceID     string    `json:"source_id,omitempty"`
	// The values of the placeholders of these names.
	Route       []string `json:"route"`
	Project     string   `json:"project,omitempty"`
	Application string   `json:"application,omitempty"` // or workflow
	Version     string   `json:"version,omitempty"`
	Request     string   `json:"request,omitempty"` // or invocation
	Function    string   `json:"function,omitempty"`
	Sandbox     string   `json:"sandbox,omitempty"`
	SandboxName string   `json:"sandbox_name,omitempty"`
	Status      string   `json:"status,omitempty"`
	Outcome     string   `json:"outcome,omitempty"`
	Reason      string   `json:"reason,omitempty"`
	// Sinks are in the order of Found.Sinks.
	Sinks []EventAtSink `json:"sinks"`

	// Event is the event whole.
	Event bridge.Event `json:"-"`
}

// EventAtSink is what became of an event at a sink.
type EventAtSink struct {
	Sink string `json:"sink"`
	Fate Fate   `json:"fate"`
	// Address and Key are where the sink as it is configured today publishes the event; empty: that is not known.
	Address string `json:"address,omitempty"`
	Key     string `json:"key,omitempty"`
	// DeadLetter is of an event that is one, or was until it was dropped.
	DeadLetter *FoundLetter `json:"dead_letter,omitempty"`
}

// FoundLetter is a dead letter of an event that was found. Times that are not there are nil.
type FoundLetter struct {
	ID        int64      `json:"id"`
	Reason    string     `json:"reason"`
	Attempts  int        `json:"attempts,omitempty"`
	LastAt    *time.Time `json:"last_at,omitempty"`
	RetryAt   *time.Time `json:"retry_at,omitempty"`
	DroppedAt *time.Time `json:"dropped_at,omitempty"`
}

// searched is a journal to search: an open one, or a reader.
type searched interface {
	SearchNext(ctx context.Context, s *journal.Search, maxCount int, maxBytes int64) ([]journal.Webhook, error)
	WebhooksOf(ctx context.Context, id string) ([]journal.Webhook, error)
	Standings(ctx context.Context) ([]journal.Standing, error)
	AllStreams(ctx context.Context) ([]journal.Stream, error)
	LettersOf(ctx context.Context, seq int64) ([]journal.LetterMark, error)
}

// Finder searches the journal of a bridge. It is safe for concurrent use: some searches run at one time, more wait.
type Finder struct {
	journal searched
	events  tensorlake.Options
	sinks   map[string]foundAt
	places  chan struct{}
	// rests has a search pause as long as it reads, for the sake of what else the process does.
	rests bool
}

// foundAt is what a Finder knows of a configured sink.
type foundAt struct {
	routes  bridge.Routes
	options sinks.Options
}

// NewFinder makes a Finder of a running bridge, which makes events so and has such sinks.
func NewFinder(j *journal.Journal, events tensorlake.Options, configured []Sink) (*Finder, error) {
	f, err := newFinder(j, events, configured)
	if err == nil {
		f.rests = true
	}
	return f, err
}

func newFinder(j searched, events tensorlake.Options, configured []Sink) (*Finder, error) {
	f := &Finder{
		journal: j, events: events, sinks: make(map[string]foundAt), places: make(chan struct{}, searchPlaces),
	}
	for _, s := range configured {
		routes, err := bridge.ParseRoutes(s.Routes)
		if err != nil {
			return nil, fmt.Errorf("the ROUTES of sink %s: %w", s.Name, err)
		}
		f.sinks[s.Name] = foundAt{routes: routes, options: s.Options}
	}
	return f, nil
}

// Find calls each with what r selects, newest first, and progress, which may be nil, between; both until each returns
// an error, which it returns. It reads the journal in short transactions.
func (f *Finder) Find(ctx context.Context, r FindRequest, progress func(FindProgress), each func(*Found) error) error {
	select {
	case f.places <- struct{}{}:
		defer func() { <-f.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	left := r.Limit
	found := func(w *journal.Webhook) error {
		shown, err := f.describe(ctx, w, r.ID)
		if err == nil {
			err = each(shown)
		}
		if left--; err == nil && left == 0 {
			err = errEnough
		}
		return err
	}
	err := f.find(ctx, r, progress, found)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

var errEnough = errors.New("enough")

func (f *Finder) find(
	ctx context.Context, r FindRequest, progress func(FindProgress), found func(*journal.Webhook) error,
) error {
	selects := r.selects(f.events)
	if r.ID != "" && r.Before == 0 {
		named, err := f.journal.WebhooksOf(ctx, r.ID)
		if err != nil {
			return err
		}
		for i := range named {
			if w := &named[i]; !w.ReceivedAt.Before(r.Since) && (r.Text == "" || holds(w.Body, variants(r.Text))) {
				if err := found(w); err != nil {
					return err
				}
			}
		}
		if len(named) > 0 {
			return nil // an id that is a webhook's is nothing else's
		}
	}
	search := journal.Search{Before: r.Before, Since: r.Since, Holds: r.holds()}
	for {
		began := time.Now()
		page, err := f.journal.SearchNext(ctx, &search, foundCount, foundBytes)
		if err != nil {
			return err
		}
		for i := range page {
			if !selects(&page[i]) {
				continue
			}
			if err := found(&page[i]); err != nil {
				return err
			}
		}
		if search.Ended() {
			return nil
		}
		if progress != nil {
			done, total := search.Looked()
			progress(FindProgress{Searched: done, Webhooks: total})
		}
		if f.rests {
			if err := rest(ctx, time.Since(began)); err != nil {
				return err
			}
		}
	}
}

func rest(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// madeID is what an event's id looks like that no body holds, since it is a digest.
var madeID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// holds returns what the journal has to look for in bodies. Nothing: selects alone decides.
func (r *FindRequest) holds() [][]byte {
	switch {
	case r.Text != "":
		return variants(r.Text)
	case r.ID != "" && !madeID.MatchString(r.ID):
		return variants(`"` + r.ID + `"`)
	default:
		return nil
	}
}

// selects returns what decides about a webhook that the journal has found.
func (r *FindRequest) selects(o tensorlake.Options) func(w *journal.Webhook) bool {
	if r.ID == "" {
		return func(*journal.Webhook) bool { return true }
	}
	whole := variants(`"` + r.ID + `"`)
	return func(w *journal.Webhook) bool {
		if holds(w.Body, whole) {
			return true
		}
		if !madeID.MatchString(r.ID) {
			return false
		}
		for e := range tensorlake.Events(w.Webhook, o) {
			if e.ID == r.ID {
				return true
			}
		}
		return false
	}
}

func holds(body []byte, texts [][]byte) bool {
	return slices.ContainsFunc(texts, func(text []byte) bool { return bytes.Contains(body, text) })
}

// variants returns the ways in which a text stands in JSON: as it is, escaped as need be, and in ASCII alone.
func variants(text string) [][]byte {
	start, end := "", ""
	if len(text) > 2 && strings.HasPrefix(text, `"`) && strings.HasSuffix(text, `"`) {
		start, text, end = `"`, text[1:len(text)-1], `"`
	}
	escaped, _ := json.Marshal(text) // a string can always be
	ascii := strconv.QuoteToASCII(text)
	var all [][]byte
	for _, way := range []string{text, string(escaped[1 : len(escaped)-1]), ascii[1 : len(ascii)-1]} {
		if way = start + way + end; !holds([]byte(way), all) {
			all = append(all, []byte(way))
		}
	}
	return all
}

// Webhook returns the webhook of that number, and nil if it is not in the journal.
func (f *Finder) Webhook(ctx context.Context, number int64) (*Found, error) {
	if number < 1 {
		return nil, nil
	}
	// A step that takes too long finds nothing, and is made again.
	for search := (journal.Search{Before: number + 1}); !search.Ended(); {
		page, err := f.journal.SearchNext(ctx, &search, 1, 0)
		switch {
		case err != nil:
			return nil, err
		case len(page) > 0 && page[0].Seq == number:
			return f.describe(ctx, &page[0], "")
		case len(page) > 0 || search.Before <= number:
			return nil, nil
		}
	}
	return nil, nil
}

// describe says what became of a webhook. Of many events those with the id looked for are shown.
func (f *Finder) describe(ctx context.Context, w *journal.Webhook, id string) (*Found, error) {
	// The letters come last: what became one meanwhile is one.
	standings, err := f.journal.Standings(ctx)
	if err != nil {
		return nil, err
	}
	streams, err := f.journal.AllStreams(ctx)
	if err != nil {
		return nil, err
	}
	letters, err := f.journal.LettersOf(ctx, w.Seq)
	if err != nil {
		return nil, err
	}
	found := &Found{
		Number: w.Seq, WebhookID: w.ID, ReceivedAt: w.ReceivedAt, SignedAt: w.Timestamp, Bytes: len(w.Body), Body: w.Body,
		Sinks: make([]FoundSink, len(standings)),
	}
	at := make([]sinkFates, len(standings))
	for i := range standings {
		s := &standings[i]
		if at[i], err = f.fates(s, letters, w.Seq); err != nil {
			return nil, err
		}
		at[i].replays = replaysOf(streams, s.Sink, w)
		found.Sinks[i] = FoundSink{Sink: s.Sink, Configured: s.Configured, Events: make(map[Fate]int)}
		m := s.Missing
		found.Sinks[i].MayBeMissing = m != nil && w.Seq > m.After && w.Seq <= m.Through
	}
	if payload, err := tensorlake.Parse(w.Body); err == nil {
		found.Shape = payload.Shape().String()
	}
	for e := range tensorlake.Events(w.Webhook, f.events) {
		found.EventCount++
		show := len(found.Events) < shownEvents || id != "" && e.ID == id
		shown := shownEvent(&e)
		for i := range at {
			here := at[i].of(&e)
			found.Sinks[i].Events[here.Fate]++
			if here.Fate == Waiting {
				found.Sinks[i].Ahead = at[i].standing.Ahead(w.Seq)
			}
			if show {
				shown.Sinks = append(shown.Sinks, here)
			}
		}
		if show {
			found.Events = append(found.Events, shown)
		}
	}
	return found, nil
}

// sinkFates tells of the events of one webhook what became of them at one sink.
type sinkFates struct {
	standing *journal.Standing
	known    *foundAt // nil: the configuration does not have it
	letters  map[int]*FoundLetter
	// rest is the fate of those that are not dead letters, unless they are finished.
	rest     Fate
	finished func(index int) bool
	// replays are what replays that are through with the webhook have wanted of it.
	replays []bridge.Filter
}

// replaysOf returns what replays to a sink that are through with a webhook have wanted of it.
func replaysOf(streams []journal.Stream, sink string, w *journal.Webhook) (wanted []bridge.Filter) {
	for i := range streams {
		s := &streams[i]
		through := s.Cursor
		if s.End == journal.StreamDone {
			through = s.Through
		}
		if s.Kind == journal.Replay && s.Sink == sink && w.Seq <= through &&
			!w.ReceivedAt.Before(s.Since) && (s.Until.IsZero() || w.ReceivedAt.Before(s.Until)) {
			wanted = append(wanted, s.Events)
		}
	}
	return wanted
}

func (f *Finder) fates(s *journal.Standing, letters []journal.LetterMark, number int64) (sinkFates, error) {
	k := sinkFates{standing: s, letters: make(map[int]*FoundLetter), finished: func(int) bool { return false }}
	if known, ok := f.sinks[s.Sink]; ok {
		k.known = &known
	}
	for i := range letters {
		if l := &letters[i]; l.Sink == s.Sink {
			k.letters[l.EventIndex] = &FoundLetter{
				ID: l.ID, Reason: l.Reason, Attempts: l.Attempts, LastAt: optional(l.LastAt), RetryAt: optional(l.RetryAt),
				DroppedAt: optional(l.DroppedAt),
			}
		}
	}
	switch {
	case number <= s.Began:
		k.rest = BeforeSink
	case s.Absent(number):
		k.rest = Absent
	case number <= s.Cursor:
		k.rest = Acknowledged
	default:
		k.rest = Waiting
		beyond, err := delivery.ReadFinished(s.Finished)
		if err != nil {
			return k, err
		}
		all, places := beyond.Of(number)
		k.finished = func(index int) bool { return all || places.Has(index) }
	}
	return k, nil
}

func (k *sinkFates) of(e *bridge.Event) EventAtSink {
	here := EventAtSink{Sink: k.standing.Sink, Fate: k.rest}
	if k.known != nil {
		here.Address, here.Key = sinks.Address(k.known.options, *e)
	}
	letter := k.letters[e.Origin.Index]
	switch {
	case letter != nil:
		here.Fate, here.DeadLetter = DeadLettered, letter
		if letter.DroppedAt != nil {
			here.Fate = Dropped
		}
	case k.known != nil && !k.known.routes.Match(e):
		here.Fate, here.Address, here.Key = NotWanted, "", ""
	case k.rest == BeforeSink, k.rest == Absent:
		if slices.ContainsFunc(k.replays, func(wanted bridge.Filter) bool { return wanted.Match(e) }) {
			here.Fate = Acknowledged
		}
	case k.finished(e.Origin.Index):
		here.Fate = Acknowledged
	}
	return here
}

func shownEvent(e *bridge.Event) FoundEvent {
	return FoundEvent{
		Index: e.Origin.Index, ID: e.ID, Type: e.Type, Source: e.Source, Subject: e.Subject, Time: e.Time,
		PartitionKey: e.PartitionKey, Sequence: e.Sequence, SourceID: e.SourceID, Route: e.Route, Project: e.Project,
		Application: e.Application, Version: e.Version, Request: e.Request, Function: e.Function, Sandbox: e.Sandbox,
		SandboxName: e.SandboxName, Status: e.Status, Outcome: e.Outcome, Reason: e.Reason, Event: *e,
	}
}
