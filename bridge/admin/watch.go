package admin

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/sinks"
)

// RunningStatus is how a running bridge with a journal is, as it tells itself.
type RunningStatus struct {
	Ack   string `json:"ack"`
	Ready bool   `json:"ready"`
	// NotReady is why it is not ready.
	NotReady string `json:"not_ready,omitempty"`
	// RefusedFiles hold what cannot be used, so that what they held before is in use.
	RefusedFiles []RefusedFile `json:"refused_files"`
	Status
}

// Status is the status of the bridge: a RunningStatus, or with FNBRIDGE_ACK=sinks a LiveStatus. What delivery knows in
// memory is newer than what it has written down.
func (p Parts) Status(ctx context.Context) (any, error) {
	if p.Queue != nil {
		return p.LiveStatus(), nil
	}
	stored, err := p.Journal.Status(ctx)
	if err != nil {
		return nil, err
	}
	s := RunningStatus{Ack: "journal", RefusedFiles: p.refusedFiles(), Status: shownStatus(&stored)}
	s.Report = p.Report()
	if err := p.Ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	for i := range s.Sinks {
		shown := &s.Sinks[i]
		for _, running := range p.Sinks {
			if state := running.Dispatcher.State(); running.Name == shown.Sink && state.State != "" {
				shown.State, shown.Since, shown.Advice = state.State, optional(state.Since), advice(state.State, keptEvents)
				shown.LastError, shown.LastErrorAt = state.LastError, optional(state.LastErrorAt)
				shown.StandsStill = state.StandsStill
			}
		}
	}
	return s, nil
}

// Arrival is a request to the public listener in short: a webhook that was accepted, or one that was not.
type Arrival struct {
	// Number is the webhook's; 0: it was not accepted.
	Number int64 `json:"number,omitempty"`
	// Order counts those that are not in a journal, from 1 since the start; 0: it is in one.
	Order int64     `json:"order,omitempty"`
	At    time.Time `json:"at"`
	// Result is accepted, duplicate, or why it was refused: the label of fnbridge_webhooks_total.
	Result    string `json:"result"`
	Status    int    `json:"status,omitempty"` // of the answer
	WebhookID string `json:"webhook_id,omitempty"`
	Bytes     int    `json:"bytes,omitempty"`
	// Events counts the webhook's events. Type and Subject are the first one's.
	Events  int    `json:"events,omitempty"`
	Type    string `json:"type,omitempty"`
	Subject string `json:"subject,omitempty"`
	// Detail says why it was refused.
	Detail string `json:"detail,omitempty"`
}

// maxArrivalText is how much of a text of a stranger's choice an Arrival has, in bytes.
const maxArrivalText = 300

// Arrived is what was answered, in short.
func (p Parts) Arrived(a bridge.Answered) Arrival {
	shown := Arrival{
		At: a.At, Result: a.Result, Status: a.Status, WebhookID: a.Webhook.ID, Bytes: len(a.Webhook.Body),
		Detail: cut(a.Detail, maxArrivalText),
	}
	if len(a.Webhook.Body) == 0 {
		return shown
	}
	for e := range tensorlake.Events(a.Webhook, p.Events) {
		if shown.Events++; shown.Events == 1 {
			shown.Type, shown.Subject = cut(e.Type, maxArrivalText), cut(e.Subject, maxArrivalText)
		}
	}
	return shown
}

// cut shortens a text, and shows that it did.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return excerpt.Cut(text, most) + "…"
}

// Arrivals returns the newest webhooks of the journal behind a number, oldest first and at most limit. They are in
// memory while they are new.
func (p Parts) Arrivals(ctx context.Context, after int64, limit int) ([]Arrival, error) {
	after = max(after, p.Journal.Head()-int64(limit))
	read, err := p.Journal.Read(ctx, after, limit, arrivalBytes)
	if err != nil {
		return nil, err
	}
	all := make([]Arrival, 0, len(read))
	for _, w := range read {
		shown := p.Arrived(bridge.Answered{At: w.ReceivedAt, Result: "accepted", Webhook: w.Webhook})
		shown.Number = w.Seq
		all = append(all, shown)
	}
	return all, nil
}

// arrivalBytes bounds the bodies that one Arrivals reads.
const arrivalBytes = 8 << 20

// Letters returns, by sink and number, which of the webhooks have events that are DeadLettered or, if none of them is
// there any more, that were Dropped.
func (p Parts) Letters(ctx context.Context, numbers []int64) (map[string]map[int64]Fate, error) {
	found, err := p.Journal.Lettered(ctx, numbers)
	if err != nil {
		return nil, err
	}
	all := make(map[string]map[int64]Fate)
	for _, l := range found {
		if all[l.Sink] == nil {
			all[l.Sink] = make(map[int64]Fate)
		}
		all[l.Sink][l.WebhookSeq] = DeadLettered
		if l.Dropped {
			all[l.Sink][l.WebhookSeq] = Dropped
		}
	}
	return all, nil
}

// Unstored says of a webhook that was accepted and is not in a journal what it became. Every required sink has
// acknowledged what it wants of it; of the others that is not known.
func (p Parts) Unstored(number int64, w bridge.Webhook) *Found {
	found := &Found{
		Number: number, WebhookID: w.ID, ReceivedAt: w.ReceivedAt, SignedAt: w.Timestamp, Bytes: len(w.Body), Body: w.Body,
	}
	if payload, err := tensorlake.Parse(w.Body); err == nil {
		found.Shape = payload.Shape().String()
	}
	fates := make(map[string]Fate)
	for _, s := range p.Sinks {
		fates[s.Name] = NotKnown
		if s.Required {
			fates[s.Name] = Acknowledged
		}
	}
	for _, s := range p.Configured {
		found.Sinks = append(found.Sinks, FoundSink{Sink: s.Name, Configured: true, Events: make(map[Fate]int)})
	}
	for e := range tensorlake.Events(w, p.Events) {
		found.EventCount++
		shown := shownEvent(&e)
		for i, s := range p.Configured {
			here := EventAtSink{Sink: s.Name, Fate: fates[s.Name]}
			here.Address, here.Key = sinks.Address(s.Options, e)
			if routes, err := bridge.ParseRoutes(s.Routes); err == nil && !routes.Match(&e) {
				here.Fate = NotWanted
			}
			found.Sinks[i].Events[here.Fate]++
			shown.Sinks = append(shown.Sinks, here)
		}
		if len(found.Events) < shownEvents {
			found.Events = append(found.Events, shown)
		}
	}
	return found
}

// LetterGroup are the dead letters of a sink that are there for the same reason, numbers in it apart.
type LetterGroup struct {
	Sink string `json:"sink"`
	// Reason has a * for each number in it, unless it is the same in all.
	Reason      string    `json:"reason"`
	DeadLetters int64     `json:"dead_letters"`
	FirstAt     time.Time `json:"first_at"`
	LastAt      time.Time `json:"last_at"`
	// Newest is the newest of them, without its data.
	Newest *DeadLetter `json:"newest,omitempty"`
	// Retry and Drop are the commands that send all of them again, and that delete them.
	Retry string `json:"retry"`
	Drop  string `json:"drop"`

	newest int64
	texts  int
}

// LetterGroups returns at most limit groups of dead letters, the largest first, and how many there are.
func (p Parts) LetterGroups(ctx context.Context, limit int) (groups []LetterGroup, all int, err error) {
	reasons, err := p.Journal.LetterReasons(ctx)
	if err != nil {
		return nil, 0, err
	}
	at := make(map[[2]string]int)
	for _, r := range reasons {
		key := [2]string{r.Sink, reasonPattern(r.Reason)}
		i, known := at[key]
		if !known {
			i = len(groups)
			at[key] = i
			groups = append(groups, LetterGroup{Sink: r.Sink, Reason: r.Reason, FirstAt: r.FirstAt, LastAt: r.LastAt})
		}
		g := &groups[i]
		g.DeadLetters, g.texts = g.DeadLetters+r.Letters, g.texts+1
		if g.texts > 1 {
			g.Reason = key[1]
		}
		if r.FirstAt.Before(g.FirstAt) {
			g.FirstAt = r.FirstAt
		}
		if r.LastAt.After(g.LastAt) {
			g.LastAt = r.LastAt
		}
		g.newest = max(g.newest, r.Newest)
	}
	slices.SortStableFunc(groups, func(a, b LetterGroup) int { return int(b.DeadLetters - a.DeadLetters) })
	all = len(groups)
	groups = groups[:min(all, limit)]
	for i := range groups {
		g := &groups[i]
		selects := " --sink " + g.Sink + " --reason " + shellWord(commandPattern(g.Reason, g.texts > 1))
		g.Retry, g.Drop = "fnbridge dead-letters retry"+selects, "fnbridge dead-letters drop"+selects
		g.Reason = cut(g.Reason, maxReason)
		letters, err := p.Journal.DeadLetters(ctx, journal.DeadLetterFilter{IDs: []int64{g.newest}})
		if err != nil {
			return nil, 0, err
		}
		if len(letters) > 0 { // else somebody dropped it meanwhile
			letters[0].Event.Data = []byte("null")
			shown := shownLetter(&letters[0])
			g.Newest = &shown
		}
	}
	return groups, all, nil
}

// maxReason is how much of a reason is shown, and given in a command, in bytes.
const maxReason = 400

var number = regexp.MustCompile(`[0-9]+`)

// reasonPattern is a reason with a * for each number in it.
func reasonPattern(reason string) string { return number.ReplaceAllString(reason, "*") }

// commandPattern is what --reason takes to select a reason: with a * for what cannot be typed, and the end of a long
// one.
func commandPattern(reason string, isPattern bool) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '*'
		}
		return r
	}, reason)
	if !isPattern && len(text) <= maxReason {
		return text
	}
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "*"
	}
	return text
}

// shellWord quotes a text for a shell.
func shellWord(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
