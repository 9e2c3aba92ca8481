// Package page is what the operations listener shows to whoever may see payloads: the live page, and the JSON under
// /api/ that it is made of. It only reads. Who may see is for package ops to judge.
package page

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/problem"
)

const (
	// maxRequests is how many requests are worked on at once beside the streams, searches among them.
	maxRequests = 16
	// findTimeout bounds a search, answerTimeout the writing of an answer to a reader that takes it.
	findTimeout   = 2 * time.Minute
	answerTimeout = 10 * time.Second
	// maxFound is how many webhooks a search shows at once, maxGroups how many kinds of dead letters.
	maxFound  = 200
	maxGroups = 100
	// maxShownBody is how much of a body is shown, in bytes.
	maxShownBody = 256 << 10
	// maxQuery bounds what is searched for, in bytes.
	maxQuery = 1000
)

// Options are what the page shows.
type Options struct {
	// Parts are of the bridge that runs. Required.
	Parts admin.Parts
	// Requests returns how many requests to the public listener ended how since the start. It is called once a second.
	Requests func() map[string]float64
	// RecentBytes bounds the webhooks that are kept in memory where there is no journal, in bytes.
	RecentBytes int
	// Logger hears of what the page could not read. Nil: nobody.
	Logger *slog.Logger
}

// Page answers / and what is under /page/ and /api/. It is safe for concurrent use.
type Page struct {
	o        Options
	handler  http.Handler
	requests chan struct{}
	series   *series
	recent   *recent
	streams  streams
}

//go:embed index.html page.css icon.svg *.js openapi.yaml
var files embed.FS

// New makes a Page. What is live on it needs Run.
//
//   - GET /: the page; /page/…: what it consists of
//   - GET /api/openapi.yaml: a description of the rest
//   - GET /api/status, /api/series, /api/webhooks, /api/webhooks/{number}, /api/find, /api/dead-letters
//   - GET /api/events: status, series and webhooks as they come, as server-sent events
func New(o Options) *Page {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Page{
		o: o, requests: make(chan struct{}, maxRequests), series: newSeries(),
		recent: &recent{maxBytes: o.RecentBytes},
	}
	p.streams.open = make(map[*stream]struct{})
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /api/status":            p.status,
		"GET /api/series":            p.serveSeries,
		"GET /api/webhooks":          p.webhooks,
		"GET /api/webhooks/{number}": p.webhook,
		"GET /api/find":              p.find,
		"GET /api/dead-letters":      p.deadLetters,
	} {
		mux.Handle(pattern, p.bounded(handle))
	}
	mux.HandleFunc("GET /api/events", p.serveStream)
	mux.HandleFunc("GET /api/openapi.yaml", serveFile("openapi.yaml"))
	mux.HandleFunc("GET /{$}", serveFile("index.html"))
	entries, _ := fs.ReadDir(files, ".") // what is embedded can be read
	for _, e := range entries {
		if name := e.Name(); name != "index.html" && name != "openapi.yaml" {
			mux.HandleFunc("GET /page/"+name, serveFile(name))
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problem.New(http.StatusNotFound, "There is nothing at this path; /api/openapi.yaml lists what there is.").Write(w)
	})
	p.handler = mux
	return p
}

// ServeHTTP answers a request.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
		"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	p.handler.ServeHTTP(w, r)
}

// serveFile answers with a file of the page.
func serveFile(name string) http.HandlerFunc {
	content, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	mediaType := map[string]string{
		".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
		".yaml": "application/yaml", ".svg": "image/svg+xml",
	}[path.Ext(name)]
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		_, _ = w.Write(content) // an error here is a reader that is gone
	}
}

// badRequest is the error of a request that has to be changed.
type badRequest string

func (b badRequest) Error() string { return string(b) }

// gone is the error of asking for what is not there.
type gone string

func (g gone) Error() string { return string(g) }

// bounded answers with what handle writes or with its error, and keeps the number of requests small that do so at once.
func (p *Page) bounded(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case p.requests <- struct{}{}:
			defer func() { <-p.requests }()
		default:
			w.Header().Set("Retry-After", "1")
			problem.New(http.StatusServiceUnavailable, "As many requests for the page as are allowed at once are being "+
				"answered already; try again.").Write(w)
			return
		}
		// Reading only notices that the reader has gone, however long the answer takes.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		err := handle(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		status := http.StatusServiceUnavailable
		var bad badRequest
		var missing gone
		switch {
		case errors.As(err, &bad):
			status = http.StatusBadRequest
		case errors.As(err, &missing):
			status = http.StatusNotFound
		default:
			p.o.Logger.Warn("the page could not be answered", "path", r.URL.Path, "error", err)
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
		problem.New(status, err.Error()).Write(w)
	})
}

func answer(w http.ResponseWriter, v any) error {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an error here is a reader that is gone
	return nil
}

func (p *Page) status(w http.ResponseWriter, r *http.Request) error {
	s, err := p.o.Parts.Status(r.Context())
	if err != nil {
		return err
	}
	return answer(w, s)
}

func (p *Page) serveSeries(w http.ResponseWriter, _ *http.Request) error {
	return answer(w, p.series.shown())
}

// arrivals is what /api/webhooks answers.
type arrivals struct {
	// Webhooks are the newest requests, newest first.
	Webhooks []admin.Arrival `json:"webhooks"`
	// Head and Order are the highest number and order, so that it is known what comes after them.
	Head  int64 `json:"head"`
	Order int64 `json:"order"`
}

func (p *Page) webhooks(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", 50, maxFound)
	if err != nil {
		return err
	}
	last, order := p.recent.since(0, int(limit))
	out := arrivals{Webhooks: newestFirst(p.arrivals(last)), Order: order}
	if p.o.Parts.Journal != nil {
		out.Head = p.o.Parts.Journal.Head()
		stored, err := p.o.Parts.Arrivals(r.Context(), 0, int(limit))
		if err != nil {
			return err
		}
		out.Webhooks = newestFirst(append(out.Webhooks, stored...))
	}
	out.Webhooks = out.Webhooks[:min(len(out.Webhooks), int(limit))]
	return answer(w, out)
}

// shownWebhook is a webhook whole.
type shownWebhook struct {
	*admin.Found
	// Body is the payload as it came, as far as it is text and not too long.
	Body string `json:"body"`
	// BodyCut tells that Body is not all of it.
	BodyCut bool `json:"body_cut,omitempty"`
}

func shown(f *admin.Found) shownWebhook {
	body := f.Body[:min(len(f.Body), maxShownBody)]
	return shownWebhook{
		Found: f, Body: strings.ToValidUTF8(string(body), string(utf8.RuneError)), BodyCut: len(body) < f.Bytes,
	}
}

func (p *Page) webhook(w http.ResponseWriter, r *http.Request) error {
	n, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil || n < 1 {
		return badRequest("The number of a webhook is a whole number from 1.")
	}
	if p.o.Parts.Journal == nil {
		webhook, size, ok := p.recent.webhook(n)
		if !ok {
			return gone("This webhook is not in memory any more: with FNBRIDGE_ACK=sinks only the last ones are.")
		}
		found := p.o.Parts.Unstored(n, webhook)
		found.Bytes = size
		return answer(w, shown(found))
	}
	found, err := p.o.Parts.Finder.Webhook(r.Context(), n)
	switch {
	case err != nil:
		return err
	case found == nil:
		return gone("There is no webhook of this number in the journal: it was deleted after FNBRIDGE_RETENTION, or " +
			"never was.")
	}
	return answer(w, shown(found))
}

// foundWebhooks is what /api/find answers.
type foundWebhooks struct {
	// Webhooks are what was found, newest first.
	Webhooks []*admin.Found `json:"webhooks"`
	// More tells that there may be more: the search ended at the limit. Before is what the next one begins before.
	More   bool  `json:"more"`
	Before int64 `json:"before,omitempty"`
	// Ended tells that the whole journal was searched, or as much as was asked for; else the time was up.
	Ended bool `json:"ended"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
}

func (p *Page) find(w http.ResponseWriter, r *http.Request) error {
	if p.o.Parts.Finder == nil {
		return gone("With FNBRIDGE_ACK=sinks nothing is stored that could be searched; /api/webhooks has the last ones.")
	}
	limit, err := number(r, "limit", 20, maxFound)
	if err != nil {
		return err
	}
	before, err := number(r, "before", 0, 0)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	request := admin.FindRequest{
		ID: strings.TrimSpace(q.Get("id")), Text: q.Get("text"), Before: before, Limit: int(limit),
	}
	switch {
	case request.ID == "" && request.Text == "":
		return badRequest("Say what to look for: id (of a webhook, event, request, invocation or sandbox) or text.")
	case len(request.ID)+len(request.Text) > maxQuery:
		return badRequest("What to look for is too long: give at most " + strconv.Itoa(maxQuery) + " bytes.")
	}
	if since := q.Get("since"); since != "" {
		if request.Since, err = time.Parse(time.RFC3339, since); err != nil {
			return badRequest("since is no time as in RFC 3339, such as 2026-01-02T15:04:05Z.")
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), findTimeout)
	defer cancel()
	_ = http.NewResponseController(w).SetWriteDeadline(began.Add(findTimeout + answerTimeout))
	out := foundWebhooks{Webhooks: []*admin.Found{}, Ended: true}
	err = p.o.Parts.Finder.Find(ctx, request, nil, func(f *admin.Found) error {
		out.Webhooks = append(out.Webhooks, f)
		return nil
	})
	switch {
	case ctx.Err() != nil && r.Context().Err() == nil:
		out.Ended = false
	case err != nil:
		return err
	}
	if n := len(out.Webhooks); n > 0 && n == int(limit) {
		out.More, out.Before = true, out.Webhooks[n-1].Number
	}
	out.Seconds = time.Since(began).Seconds()
	return answer(w, out)
}

// letterGroups is what /api/dead-letters answers.
type letterGroups struct {
	// Groups are of dead letters that are there for the same reason, the largest first.
	Groups []admin.LetterGroup `json:"groups"`
	// AllGroups counts the groups that there are.
	AllGroups int `json:"all_groups"`
}

func (p *Page) deadLetters(w http.ResponseWriter, r *http.Request) error {
	out := letterGroups{Groups: []admin.LetterGroup{}}
	if p.o.Parts.Journal == nil {
		return answer(w, out) // nothing is kept
	}
	groups, all, err := p.o.Parts.LetterGroups(r.Context(), maxGroups)
	if err != nil {
		return err
	}
	out.Groups, out.AllGroups = append(out.Groups, groups...), all
	return answer(w, out)
}

// number reads a parameter that is a whole number from 1; most is the greatest, 0: none.
func number(r *http.Request, name string, otherwise, most int64) (int64, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err == nil && n >= 1 && (most == 0 || n <= most):
		return n, nil
	case most > 0:
		return 0, badRequest(fmt.Sprintf("%s is a whole number from 1 to %d.", name, most))
	default:
		return 0, badRequest(name + " is a whole number from 1.")
	}
}

// Observe takes what the public listener has answered. It returns at once.
func (p *Page) Observe(a bridge.Answered) {
	stored := p.o.Parts.Journal != nil
	if stored && a.Result == accepted {
		return // the journal has it
	}
	p.recent.add(a, !stored)
}

const accepted = "accepted"

// recent has the last requests in memory: all of them where there is no journal, else those that it does not have.
type recent struct {
	maxBytes int

	mu    sync.Mutex
	kept  []kept // oldest first
	bytes int
	next  int64 // number of the next accepted webhook
	added int64 // requests
}

// kept is one of them.
type kept struct {
	bridge.Answered
	number int64 // 0: not accepted
	order  int64
	size   int // of the body as it came
}

const (
	// maxRecent is how many requests are kept, maxRecentBody how much of a body, in bytes.
	maxRecent     = 1000
	maxRecentBody = 64 << 10
)

func (r *recent) add(a bridge.Answered, withBody bool) {
	k := kept{Answered: a, size: len(a.Webhook.Body)}
	switch body := a.Webhook.Body; {
	case !withBody || a.Result != accepted:
		k.Webhook.Body = nil
	case len(body) > maxRecentBody || cap(body) > len(body)+len(body)/8: // what is cut away is not to be kept
		k.Webhook.Body = append(make([]byte, 0, maxRecentBody), body[:min(len(body), maxRecentBody)]...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added++
	k.order = r.added
	if withBody && a.Result == accepted {
		r.next++
		k.number = r.next
	}
	r.kept, r.bytes = append(r.kept, k), r.bytes+cap(k.Webhook.Body)
	drop := 0
	for len(r.kept)-drop > maxRecent || r.bytes > r.maxBytes && drop < len(r.kept) {
		r.bytes -= cap(r.kept[drop].Webhook.Body)
		r.kept[drop] = kept{}
		drop++
	}
	r.kept = r.kept[drop:] // append moves what is left once the array is full
}

func (r *recent) webhook(number int64) (w bridge.Webhook, size int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.kept {
		if r.kept[i].number == number {
			return r.kept[i].Webhook, r.kept[i].size, true
		}
	}
	return w, 0, false
}

// since returns what was added after a place, oldest first and at most limit, and the new place.
func (r *recent) since(place int64, limit int) (found []kept, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := max(0, len(r.kept)-limit); i < len(r.kept); i++ {
		if r.kept[i].order > place {
			found = append(found, r.kept[i])
		}
	}
	return found, r.added
}
