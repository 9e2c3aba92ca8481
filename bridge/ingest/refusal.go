package ingest

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/fnbridge/fnbridge/bridge/problem"
)

// result is how a request ended. It is the label of fnbridge_webhooks_total.
type result int

const (
	resultAccepted result = iota
	resultDuplicate
	resultUnauthorized
	resultInvalid
	resultIncomplete
	resultTooLarge
	resultUnsupportedMediaType
	resultNotFound
	resultMethodNotAllowed
	resultRejected
	resultUnavailable
	resultOverloaded
	resultDraining
	resultInternalError
	resultCount // how many there are
)

func (r result) String() string {
	return [resultCount]string{
		resultAccepted:             "accepted",
		resultDuplicate:            "duplicate",
		resultUnauthorized:         "unauthorized",
		resultInvalid:              "invalid",
		resultIncomplete:           "incomplete",
		resultTooLarge:             "too_large",
		resultUnsupportedMediaType: "unsupported_media_type",
		resultNotFound:             "not_found",
		resultMethodNotAllowed:     "method_not_allowed",
		resultRejected:             "rejected",
		resultUnavailable:          "unavailable",
		resultOverloaded:           "overloaded",
		resultDraining:             "draining",
		resultInternalError:        "internal_error",
	}[r]
}

// reasonRepeatedHeader is why a signature is refused whose headers are there twice. The other reasons are the
// verifier's.
const reasonRepeatedHeader = "repeated_header"

// kind is a kind of refusal: a row of the table in terms.
type kind int

const (
	kindUnauthorized kind = iota
	kindInvalid
	kindTooSlow
	kindBrokenOff
	kindTooLarge
	kindUnsupportedMediaType
	kindNotFound
	kindMethodNotAllowed
	kindRejected
	kindUnavailable
	kindOverloaded
	kindDraining
	kindPanic
	kindInternalError
	kindCount // how many there are
)

// terms are what all refusals of a kind have in common.
type terms struct {
	result result
	status int
	level  slog.Level // of the line in the log
	// closes ends the connection after the answer: what follows on it is not wanted. Where the body was not read whole,
	// LimitConnections sees to it.
	closes bool
	// retryAfter is when the sender should try again. 0: it is not told.
	retryAfter time.Duration
	// headers are names and values that the status asks for.
	headers []string
}

// terms is the table of refusals.
func (k kind) terms() terms {
	const (
		warn   = slog.LevelWarn
		debug  = slog.LevelDebug // passing scanners, lost connections, and what a stop brings with it
		fault  = slog.LevelError
		closes = true
		stays  = false
	)
	// RFC 9110 wants a challenge (section 15.5.2), though no scheme is registered for signed webhooks. It wants the
	// methods that are taken (15.5.6) and the types (15.5.16).
	challenge := []string{"WWW-Authenticate", "Webhook-Signature"}
	allow := []string{"Allow", http.MethodPost}
	accept := []string{"Accept", mediaType, "Accept-Encoding", "identity"}
	return [kindCount]terms{
		kindUnauthorized:         {resultUnauthorized, http.StatusUnauthorized, warn, stays, 0, challenge},
		kindInvalid:              {resultInvalid, http.StatusBadRequest, warn, stays, 0, nil},
		kindTooSlow:              {resultIncomplete, http.StatusRequestTimeout, debug, stays, 0, nil},
		kindBrokenOff:            {resultIncomplete, http.StatusBadRequest, debug, stays, 0, nil},
		kindTooLarge:             {resultTooLarge, http.StatusRequestEntityTooLarge, warn, stays, 0, nil},
		kindUnsupportedMediaType: {resultUnsupportedMediaType, http.StatusUnsupportedMediaType, warn, stays, 0, accept},
		kindNotFound:             {resultNotFound, http.StatusNotFound, debug, stays, 0, nil},
		kindMethodNotAllowed:     {resultMethodNotAllowed, http.StatusMethodNotAllowed, debug, stays, 0, allow},
		kindRejected:             {resultRejected, http.StatusUnprocessableEntity, warn, stays, 0, nil},
		kindUnavailable:          {resultUnavailable, http.StatusServiceUnavailable, warn, stays, 10 * time.Second, nil},
		kindOverloaded:           {resultOverloaded, http.StatusServiceUnavailable, warn, stays, time.Second, nil},
		// By then another process listens, or this one does again.
		kindDraining:      {resultDraining, http.StatusServiceUnavailable, debug, closes, 10 * time.Second, nil},
		kindPanic:         {resultInternalError, http.StatusInternalServerError, fault, closes, 0, nil},
		kindInternalError: {resultInternalError, http.StatusInternalServerError, fault, stays, 0, nil},
	}[k]
}

// refusal is the error of a request that is not accepted: what to answer, to count and to log.
type refusal struct {
	kind kind
	// detail tells the sender what to change.
	detail string
	// reason is a word for the log that says more than the result. It may be empty.
	reason string
	// cause is for the log only. It may be nil.
	cause error
	// retryAfter is for the kind's when it is more than 0.
	retryAfter time.Duration
	// stack is where a panic came from.
	stack []byte
}

func (f *refusal) Error() string { return f.detail }

func (f *refusal) Unwrap() error { return f.cause }

// write answers with f.
func (f *refusal) write(w http.ResponseWriter) {
	t, header := f.kind.terms(), w.Header()
	if t.closes {
		header.Set("Connection", "close")
	}
	retryAfter := t.retryAfter
	if f.retryAfter > 0 {
		retryAfter = f.retryAfter
	}
	if retryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((retryAfter+time.Second-1)/time.Second), 10))
	}
	for i := 0; i < len(t.headers); i += 2 {
		header.Set(t.headers[i], t.headers[i+1])
	}
	problem.New(t.status, f.detail).Write(w)
}
