// Package ingest is the public listener: the endpoint that takes webhooks, checks them, stores them and
// only then accepts them. Everything that a stranger can send is bounded in size, time and number.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
	"github.com/fnbridge/fnbridge/bridge/loglimit"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// Path is the address of the endpoint, unless Options say otherwise.
const Path = "/webhooks/tensorlake"

const (
	defaultMaxBody      = 1 << 20
	defaultMaxInFlight  = 1024
	defaultStoreTimeout = 10 * time.Second // the sender gives up after 15

	bodiesInMemory  = 4 // of the largest size
	usualBodyMemory = 64 << 20
)

// Options are the parts and limits of the endpoint.
type Options struct {
	// Path is where webhooks are taken, with or without a slash behind it. It has none itself, and nothing that is a
	// pattern to a router. Empty is the constant Path.
	Path string
	// Verifier returns what checks the signature of a request. Nil: unsigned webhooks are taken, and one without an id
	// gets a random one.
	Verifier func() *tensorlake.Verifier
	// Events decides how many events a webhook is said to become.
	Events tensorlake.Options
	// Store keeps the webhooks. Required.
	Store Store
	// MaxBody is the largest body that is taken, in bytes. 0 is 1 MiB.
	MaxBody int64
	// MaxInFlight is how many webhooks are stored at once. 0 is 1024. A further one that is there and signed waits up to a
	// second for its turn, and is then answered 503.
	MaxInFlight int
	// BodyMemory is how much memory all bodies have together, in bytes. 0 is BodyMemory(MaxBody). When it is in use,
	// bodies that are still coming give way to those that come faster.
	BodyMemory int64
	// StoreTimeout bounds one Append. 0 is 10 s.
	StoreTimeout time.Duration
	// AnswerTimeout bounds an Append too, from when the headers of its request arrived. 0: it does not.
	AnswerTimeout time.Duration
	// StoredStatus is the status of the answer for a webhook that was stored. 0 is 202.
	StoredStatus int
	// Logger gets accepted webhooks at debug, and a bounded number of lines about refused ones. Nil: none.
	Logger *slog.Logger
	// Registerer gets the metrics. Nil: none.
	Registerer prometheus.Registerer
	// Now is the clock. Nil is time.Now.
	Now func() time.Time
	// Observe is told of every request that was answered, before the answer is written. It is called concurrently, and has
	// to return at once. Nil: nobody is told.
	Observe func(bridge.Answered)
}

// Handler answers the requests of the public listener. It is safe for concurrent use, and has no goroutines of its own.
type Handler struct {
	echo         *echo.Echo
	path         string
	verifier     func() *tensorlake.Verifier
	events       tensorlake.Options
	store        Store
	maxBody      int64
	admission    admission
	storeTimeout time.Duration
	answerWithin time.Duration
	storedStatus int
	logger       *slog.Logger
	metrics      *metrics
	now          func() time.Time
	observe      func(bridge.Answered)

	leaving  atomic.Bool
	draining atomic.Bool

	refusalLog      [resultCount]*slog.Logger
	unrecognizedLog *slog.Logger
	reusedIDLog     *slog.Logger
}

// New makes the handler. It fails when an option has a value that cannot work, or a metric is registered already.
func New(o Options) (*Handler, error) {
	var errs []error
	if o.Store == nil {
		errs = append(errs, errors.New("a store is required"))
	}
	if o.MaxBody < 0 {
		errs = append(errs, fmt.Errorf("the largest body is %d bytes; it must be more than 0", o.MaxBody))
	}
	if o.MaxInFlight < 0 {
		errs = append(errs, fmt.Errorf("%d webhooks at once are allowed; it must be more than 0", o.MaxInFlight))
	}
	if o.BodyMemory < 0 {
		errs = append(errs, fmt.Errorf("all bodies together have %d bytes; it must be more than 0", o.BodyMemory))
	}
	if o.StoreTimeout < 0 {
		errs = append(errs, fmt.Errorf("the store timeout is %s; it must be more than 0", o.StoreTimeout))
	}
	if o.AnswerTimeout < 0 {
		errs = append(errs, fmt.Errorf("the answer timeout is %s; it must not be less than 0", o.AnswerTimeout))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("webhook endpoint: %w", err)
	}
	h := &Handler{
		path:         orDefault(o.Path, Path),
		verifier:     o.Verifier,
		events:       o.Events,
		store:        o.Store,
		maxBody:      orDefault(o.MaxBody, defaultMaxBody),
		storeTimeout: orDefault(o.StoreTimeout, defaultStoreTimeout),
		answerWithin: o.AnswerTimeout,
		storedStatus: orDefault(o.StoredStatus, http.StatusAccepted),
		logger:       o.Logger,
		now:          o.Now,
		observe:      o.Observe,
	}
	h.admission.maxPlaces = int64(orDefault(o.MaxInFlight, defaultMaxInFlight))
	h.admission.waits = patience
	h.admission.maxBytes = orDefault(o.BodyMemory, BodyMemory(h.maxBody))
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	if h.now == nil {
		h.now = time.Now
	}
	if h.observe == nil {
		h.observe = func(bridge.Answered) {}
	}
	for i := range h.refusalLog {
		h.refusalLog[i] = loglimit.New(h.logger, h.now)
	}
	h.unrecognizedLog, h.reusedIDLog = loglimit.New(h.logger, h.now), loglimit.New(h.logger, h.now)
	var err error
	h.metrics, err = newMetrics(o.Registerer, h.secrets(), func() float64 { return float64(h.admission.inFlight()) })
	if err != nil {
		return nil, err
	}
	h.echo = echo.New()
	h.echo.Logger.SetOutput(io.Discard) // what there is to say is said through slog
	h.echo.HTTPErrorHandler = h.refuse
	for _, path := range []string{h.path, h.path + "/"} {
		h.echo.POST(path, h.receive)
		h.echo.RouteNotFound(path, refuseMethod) // ahead of echo's own 405, and of its answer to OPTIONS
	}
	return h, nil
}

// BodyMemory returns how much memory the bodies of all webhooks have where there is enough, in bytes, given
// Options.MaxBody.
func BodyMemory(maxBody int64) int64 { return max(usualBodyMemory, LeastBodyMemory(maxBody)) }

// LeastBodyMemory returns how much they need, so that one large body does not shut out the next.
func LeastBodyMemory(maxBody int64) int64 { return bodiesInMemory * maxBody }

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// ServeHTTP answers one request. The body of the request is read here, and nowhere ahead of it. GET / and /livez are
// for load balancers, and say nothing of what answers.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	if reads && (r.URL.Path == "/" || r.URL.Path == "/livez") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n") // an error is a reader that is gone
		return
	}
	h.echo.ServeHTTP(w, r)
}

// Counts returns how many requests ended how since the start, by the labels of fnbridge_webhooks_total.
func (h *Handler) Counts() map[string]float64 {
	counts := make(map[string]float64, resultCount)
	for i := range h.metrics.byResult {
		counts[result(i).String()] = float64(h.metrics.byResult[i].Load())
	}
	return counts
}

// secrets returns how many secrets a webhook may be signed with now; none if it need not be signed.
func (h *Handler) secrets() int {
	if h.verifier == nil {
		return 0
	}
	return h.verifier().Secrets()
}

// Leave has every further answer close its connection, so that whoever has connections open makes the next one
// elsewhere. Webhooks are taken all the same.
func (h *Handler) Leave() { h.leaving.Store(true) }

// Drain has every further webhook answered 503, and its connection closed. Those that have been admitted are finished:
// wait for them with http.Server's Shutdown.
func (h *Handler) Drain() { h.draining.Store(true) }

// receive takes one POST to the endpoint. The error that it returns is answered by refuse.
func (h *Handler) receive(c echo.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	if h.draining.Load() {
		return &refusal{kind: kindDraining, detail: "This server is shutting down; send the webhook again."}
	}
	start := h.now()
	slot := h.admission.admit(func() {
		// A deadline that has passed ends a Read that waits. If that cannot be, the server's own timeout does.
		_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Unix(1, 0))
	})
	defer slot.release()

	r := c.Request()
	if f := checkContentType(r.Header); f != nil {
		return f
	}
	body, f := readBody(r, h.maxBody, slot.grow)
	if !slot.arrived() {
		return displaced()
	}
	if f != nil {
		return f
	}
	webhook := bridge.Webhook{ReceivedAt: h.now(), Body: body}
	if f := h.identify(&webhook, r.Header); f != nil {
		return f
	}
	if !slot.place() {
		return &refusal{
			kind: kindOverloaded,
			detail: fmt.Sprintf("%d webhooks are being stored right now, and no more at once; send this one again, or raise "+
				"FNBRIDGE_MAX_IN_FLIGHT.", h.admission.maxPlaces),
			reason: "in_flight",
		}
	}
	payload, err := tensorlake.Parse(body)
	if err != nil {
		return &refusal{
			kind: kindInvalid, detail: fmt.Sprintf("Send one JSON object: %v.", err), reason: "payload",
		}
	}

	accepted, err := h.append(r.Context(), webhook, h.now().Sub(start))
	h.metrics.observe(h.now().Sub(start))
	if err != nil {
		return notStored(err)
	}
	if accepted == bridge.Duplicate {
		h.metrics.count(resultDuplicate)
		h.observe(answered(resultDuplicate, http.StatusOK, webhook))
		h.logStored(r.Context(), resultDuplicate, webhook, payload)
		return answer(c, http.StatusOK, webhook.ID, `,"duplicate":true}`)
	}
	h.metrics.count(resultAccepted)
	h.observe(answered(resultAccepted, h.storedStatus, webhook))
	if accepted == bridge.StoredReusedID {
		h.noteReusedID(r.Context(), webhook)
	}
	if payload.Reason() != "" {
		h.noteUnrecognized(r.Context(), webhook, payload)
	}
	h.logStored(r.Context(), resultAccepted, webhook, payload)
	return answer(c, h.storedStatus, webhook.ID, `,"events":`+strconv.Itoa(payload.Len(h.events))+`}`)
}

func answered(as result, status int, w bridge.Webhook) bridge.Answered {
	return bridge.Answered{At: w.ReceivedAt, Result: as.String(), Status: status, Webhook: w}
}

func displaced() *refusal {
	return &refusal{
		kind: kindOverloaded,
		detail: "The body came so slowly that its memory was given to another webhook: that of all bodies together is " +
			"bounded. Send it again, faster.",
		reason: "displaced",
	}
}

// identify sets the id and timestamp of w from the headers, once they are known to be the sender's.
func (h *Handler) identify(w *bridge.Webhook, header http.Header) *refusal {
	if name := repeatedHeader(header); name != "" {
		return &refusal{
			kind:   kindUnauthorized,
			detail: fmt.Sprintf("The header %s is there more than once; send it once.", name),
			reason: reasonRepeatedHeader,
		}
	}
	if h.verifier == nil {
		w.ID, w.Timestamp = claimedID(header), w.ReceivedAt
		if w.ID == "" {
			w.ID = newWebhookID()
			return nil
		}
		return checkWebhookID(w.ID)
	}
	signature, err := h.verifier().Verify(header, w.Body, w.ReceivedAt)
	if err != nil {
		return unauthorized(err, len(w.Body))
	}
	h.metrics.countSecret(signature.Secret)
	w.ID, w.Timestamp = signature.ID, signature.Timestamp
	return checkWebhookID(w.ID)
}

// append stores w, whether or not its sender still waits. The headers of its request arrived ago before now.
func (h *Handler) append(ctx context.Context, w bridge.Webhook, ago time.Duration) (bridge.Acceptance, error) {
	timeout := h.storeTimeout
	if h.answerWithin > 0 {
		timeout = min(timeout, h.answerWithin-ago)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	return h.store.Append(ctx, w)
}

// answer tells the sender that its webhook is stored. An error while writing is no failure: the webhook is safe. A
// sender that did not hear so tries again, and is told of the duplicate.
func answer(c echo.Context, status int, id, rest string) error {
	body := make([]byte, 0, len(`{"webhook_id":""`)+len(id)+len(rest)+8)
	body = append(body, `{"webhook_id":"`...)
	for i := range len(id) {
		if id[i] == '"' || id[i] == '\\' { // checkWebhookID leaves nothing else that JSON escapes
			body = append(body, '\\')
		}
		body = append(body, id[i])
	}
	body = append(body, '"')
	body = append(body, rest...)
	_ = c.Blob(status, mediaType, body)
	return nil
}

func unauthorized(err error, length int) *refusal {
	f := &refusal{
		kind: kindUnauthorized, cause: err,
		detail: "The signature could not be checked; sign the request with this endpoint's secret.",
	}
	if refused, ok := errors.AsType[*tensorlake.SignatureError](err); ok {
		f.detail, f.reason, f.cause = "The signature is refused: "+refused.Detail+".", refused.Reason, nil
	}
	if length == 0 {
		f.detail += " The body was empty: was it sent, with a Content-Length?"
	}
	return f
}

// notStored is the answer when the store did not take a webhook.
func notStored(err error) *refusal {
	if never, ok := errors.AsType[*NeverError](err); ok {
		return &refusal{kind: kindRejected, detail: never.Detail, cause: never.Err}
	}
	f := &refusal{
		kind: kindUnavailable, cause: err,
		detail: "The webhook could not be stored; send it again. The log of this server says why.",
	}
	if refused, ok := errors.AsType[*UnavailableError](err); ok {
		f.retryAfter = refused.RetryAfter
		if refused.Detail != "" {
			f.detail = refused.Detail
		}
	} else if errors.Is(err, context.DeadlineExceeded) {
		f.detail, f.reason = "The webhook could not be stored in time; send it again.", "timeout"
	}
	return f
}

func refuseMethod(c echo.Context) error {
	return &refusal{
		kind:   kindMethodNotAllowed,
		detail: fmt.Sprintf("The method %s is not taken here; send webhooks with POST.", excerpt.Quote(c.Request().Method)),
	}
}

// panicked turns what a panic left into a refusal, and lets pass the one panic that net/http asks for.
func panicked(p any) *refusal {
	err, isError := p.(error)
	if isError && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	if !isError {
		err = fmt.Errorf("%v", p)
	}
	return &refusal{
		kind:   kindPanic,
		detail: "The webhook met a fault of this server; send it again. The log of this server says more.",
		reason: "panic", cause: err, stack: debug.Stack(),
	}
}

// refuse answers, counts and logs a request that ended in an error: it is echo's error handler.
func (h *Handler) refuse(err error, c echo.Context) {
	f, ok := errors.AsType[*refusal](err)
	if !ok {
		f = h.fromEcho(err)
	}
	h.metrics.countRefusal(f)
	h.logRefused(c.Request(), f)
	h.observe(bridge.Answered{
		At: h.now(), Result: f.kind.terms().result.String(), Status: f.kind.terms().status, Detail: f.detail,
		Webhook: bridge.Webhook{ID: excerpt.Shorten(claimedID(c.Request().Header))},
	})
	if !c.Response().Committed {
		f.write(c.Response())
	}
}

// fromEcho makes a refusal of an error that came from echo itself: there is no such path.
func (h *Handler) fromEcho(err error) *refusal {
	if e, ok := errors.AsType[*echo.HTTPError](err); ok && e.Code == http.StatusNotFound {
		return &refusal{kind: kindNotFound, detail: "There is nothing at this path; send webhooks to " + h.path + "."}
	}
	return &refusal{
		kind:   kindInternalError,
		detail: "The request met a fault of this server. The log of this server says more.", cause: err,
	}
}

func (h *Handler) logStored(ctx context.Context, as result, w bridge.Webhook, payload tensorlake.Payload) {
	if !h.logger.Enabled(ctx, slog.LevelDebug) {
		return
	}
	h.logger.LogAttrs(ctx, slog.LevelDebug, "webhook stored",
		slog.String("result", as.String()), slog.String("webhook_id", w.ID), slog.String("shape", payload.Shape().String()),
		slog.Int("events", payload.Len(h.events)), slog.Int("bytes", len(w.Body)))
}

func (h *Handler) noteReusedID(ctx context.Context, w bridge.Webhook) {
	h.metrics.reusedIDs.Inc()
	h.reusedIDLog.LogAttrs(ctx, slog.LevelWarn, "webhook accepted under an id that another body has",
		slog.String("webhook_id", w.ID), slog.Int("bytes", len(w.Body)))
}

func (h *Handler) noteUnrecognized(ctx context.Context, w bridge.Webhook, payload tensorlake.Payload) {
	h.metrics.unrecognized.Inc()
	h.unrecognizedLog.LogAttrs(ctx, slog.LevelWarn,
		"webhook accepted that is not recognized: its event goes under unrecognized, or other",
		slog.String("webhook_id", w.ID), slog.String("shape", payload.Shape().String()),
		slog.String("reason", payload.Reason()), slog.Int("bytes", len(w.Body)))
}

func (h *Handler) logRefused(r *http.Request, f *refusal) {
	t := f.kind.terms()
	id := claimedID(r.Header)
	if id != "" && (f.kind == kindNotFound || f.kind == kindMethodNotAllowed) {
		t.level = slog.LevelWarn // no passing scanner: a sender with a wrong address
	}
	attrs := []slog.Attr{
		slog.String("result", t.result.String()), slog.Int("status", t.status), slog.String("detail", f.detail),
		slog.String("remote_addr", r.RemoteAddr),
		slog.String("method", excerpt.Shorten(r.Method)), slog.String("path", excerpt.Shorten(r.URL.Path)),
	}
	if id != "" {
		attrs = append(attrs, slog.String("webhook_id", excerpt.Shorten(id)))
	}
	if f.reason != "" {
		attrs = append(attrs, slog.String("reason", f.reason))
	}
	if f.cause != nil {
		attrs = append(attrs, slog.String("error", f.cause.Error()))
	}
	if f.stack != nil {
		attrs = append(attrs, slog.String("stack", string(f.stack)))
	}
	h.refusalLog[t.result].LogAttrs(r.Context(), t.level, "webhook refused", attrs...)
}
