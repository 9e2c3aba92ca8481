package tensorlake

import (
	"crypto/sha256"
	"iter"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	documentTypePrefix = typePrefix + "document_ingestion.job."
	documentSource     = "/tensorlake/documents"
)

func documentKeys() []key { return []key{keyJobID, keyStatus} }

// document is the payload {"job_id", "status"} with, or without, "dataset", "created_at", "finished_at", "usage"
// and "error". Its fields are JSON as it stands in the payload.
type document struct {
	job, status           []byte
	createdAt, finishedAt []byte
	body                  []byte
}

// readDocument wants job_id and status to be strings. Of the other fields each may be absent or null; dataset and
// the times must otherwise be strings and usage an object, while error can be anything, for nothing says what it is.
func readDocument(f *fields, body []byte) (content, string) {
	r := fieldReader{fields: f}
	d := document{
		job:        r.required(keyJobID, '"'),
		status:     r.required(keyStatus, '"'),
		createdAt:  r.optional(keyCreatedAt, '"'),
		finishedAt: r.optional(keyFinishedAt, '"'),
		body:       body,
	}
	r.optional(keyDataset, '"')
	r.optional(keyUsage, '{')
	if r.problem != "" {
		return nil, r.problem
	}
	return d, ""
}

func (document) len(Options) int { return 1 }

func (p document) events(w bridge.Webhook, _ Options) iter.Seq[bridge.Event] {
	return func(yield func(bridge.Event) bool) {
		job, status := unquote(p.job), unquote(p.status)
		word := documentStatus(status)
		e := newEvent(w, job)
		payload := sha256.Sum256(p.body)
		e.ID = eventID(digest("document", string(payload[:])))
		e.Type = documentTypePrefix + word
		e.Source = documentSource
		e.Subject = escapePart(job)
		e.Time = firstTime(w, p.finishedAt, p.createdAt)
		e.Data = p.body
		e.Route = routeOfType(e.Type)
		e.Status, e.Outcome = word, outcomeOf(word)
		yield(e)
	}
}

// documentStatus brings the words that Tensorlake has used for a job's status together. A word that it has not
// stands for itself.
func documentStatus(status string) string {
	switch strings.ToLower(status) {
	case "pending":
		return "created"
	case "success", "successful", "completed":
		return "completed"
	case "failure", "failed":
		return "failed"
	default:
		return statusWord(status)
	}
}
