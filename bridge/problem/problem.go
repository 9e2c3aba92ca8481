// Package problem holds the error body that every HTTP listener of fnbridge answers with: problem
// details as RFC 9457 defines them. It imports the standard library only.
package problem

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

// ContentType is the media type of a problem.
const ContentType = "application/problem+json"

// maxDetail bounds the detail of a problem, in bytes: the text of an error can be of any length.
const maxDetail = 2048

const ellipsis = "…"

// Problem is one error as RFC 9457, section 3.1, describes it.
type Problem struct {
	// Type is a URI that names the kind of problem. With "about:blank", which stands for the empty
	// string too, the status says it all (section 4.2.1).
	Type string `json:"type"`
	// Title says in a few words what kind of problem this is; with "about:blank" it is the status' own phrase.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail tells the reader what is wrong with this very request, and what to change.
	Detail string `json:"detail,omitempty"`
}

// New returns the problem that status names, with a detail for the person who reads it.
func New(status int, detail string) Problem {
	return Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail}
}

// Write answers with p: status, headers and body. Headers that the caller has set on w before are kept.
//
// A detail of more than 2048 bytes is shortened, and bytes that are not UTF-8 are replaced, so any
// text can be given as a detail. A body that cannot be sent is no error: its reader is gone.
func (p Problem) Write(w http.ResponseWriter) {
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if len(p.Detail) > maxDetail {
		p.Detail = excerpt.Cut(p.Detail, maxDetail-len(ellipsis)) + ellipsis
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // nothing shows this as HTML, and people read it
	if err := encoder.Encode(p); err != nil {
		// Strings and a number always encode.
		panic("problem: " + err.Error())
	}
	header := w.Header()
	header.Set("Content-Type", ContentType)
	header.Set("Cache-Control", "no-store") // 404 and 405 may be cached otherwise (RFC 9110, section 15.1)
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body.Bytes())
}
