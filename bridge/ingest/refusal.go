package ingest

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

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

// refusal is the error of a request that is not accepted: what to answer, to count and to log.
type refusal struct {
	result result
	status int
	// detail tells the sender what to change.
	detail string
	// reason is a word for the log that says more than result; it may be empty.
	reason string
	// cause is for the log only; it may be nil.
	cause error
	// retryAfter is sent in whole seconds when it is more than 0.
	retryAfter time.Duration
	// closes ends the connection after the answer: what follows on it cannot be trusted, or is not wanted.
	closes bool
	// stack is where a panic came from.
	stack []byte
}

func (f *refusal) Error() string { return f.detail }

func (f *refusal) Unwrap() error { return f.cause }

// write answers with f.
func (f *refusal) write(w http.ResponseWriter) {
	header := w.Header()
	if f.closes {
		header.Set("Connection", "close")
	}
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((f.retryAfter+time.Second-1)/time.Second), 10))
	}
	switch f.status {
	case http.StatusUnauthorized:
		// RFC 9110, section 15.5.2 wants a challenge. No scheme is registered for signed webhooks.
		header.Set("WWW-Authenticate", "Webhook-Signature")
	case http.StatusMethodNotAllowed:
		header.Set("Allow", http.MethodPost)
	case http.StatusUnsupportedMediaType:
		// What would be taken instead: RFC 9110, section 15.5.16.
		header.Set("Accept", mediaType)
		header.Set("Accept-Encoding", "identity")
	default:
	}
	problem.New(f.status, f.detail).Write(w)
}

// maxQuoted bounds how much of a value from a request is repeated in a detail or in the log, in bytes.
const maxQuoted = 128

// quote returns s shortened and in quotes, with everything that could end a line or hide text escaped.
func quote(s string) string { return strconv.QuoteToASCII(shorten(s)) }

// shorten cuts s to maxQuoted bytes, after a whole rune, and tells how long it was.
func shorten(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	end := maxQuoted
	for end > maxQuoted-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:end], len(s))
}
