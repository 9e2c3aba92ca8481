package tensorlake

import (
	"iter"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
)

// Shape is one of the forms that Tensorlake's payloads have. The zero Shape is ShapeUnrecognized.
type Shape int

const (
	// ShapeUnrecognized is every JSON object that is none of the others, or one of them with a field of the wrong type.
	ShapeUnrecognized Shape = iota
	// ShapeWorkflow tells how the functions of one invocation of a workflow ended.
	ShapeWorkflow
	// ShapeDocument tells of a document ingestion job.
	ShapeDocument
	// ShapeEnvelope is Tensorlake's newer, general form, which names its own event type.
	ShapeEnvelope
)

// String returns the word for logs and metrics: workflow, document, envelope or unrecognized.
func (s Shape) String() string {
	switch s {
	case ShapeWorkflow:
		return "workflow"
	case ShapeDocument:
		return "document"
	case ShapeEnvelope:
		return "envelope"
	case ShapeUnrecognized:
		return "unrecognized"
	default:
		return "unrecognized"
	}
}

// Options says which events a payload becomes.
type Options struct {
	// SummaryEvents adds one event to those of each workflow payload, after them, that sums them up.
	SummaryEvents bool
}

// Payload is the body of a webhook, read as far as telling its shape takes. It refers to the bytes given to Parse,
// which must not change while it is in use. The zero Payload has no events.
type Payload struct {
	shape   Shape
	reason  string
	content content
}

// content makes the events of one shape.
type content interface {
	len(o Options) int
	events(w bridge.Webhook, o Options) iter.Seq[bridge.Event]
}

// Parse reads a webhook's body. Every JSON object is a payload; the error is ErrNotJSON or ErrNotObject, wrapped in
// what is wrong and where.
//
// A shape is told by its keys, which are compared exactly: the envelope by event_id, event_type and data, else the
// workflow by workflow_name, invocation_id and fn_status, else the document job by job_id and status. Once told,
// a payload is never taken for another shape: if one of the shape's own fields has the wrong type, or appears twice,
// then it is unrecognized, since readers of it may disagree on what it says. Keys that the shape does not know are
// ignored. Values are not decoded beyond what the events need, so numbers can have any size.
func Parse(body []byte) (Payload, error) {
	if err := checkJSON(body); err != nil {
		return Payload{}, err
	}
	var (
		f       fields
		p       Payload
		problem string
	)
	f.read(body[skipSpace(body, 0):])
	switch {
	case f.hasAll(envelopeKeys()):
		p.shape = ShapeEnvelope
		p.content, p.reason, problem = readEnvelope(&f, body)
	case f.hasAll(workflowKeys()):
		p.shape = ShapeWorkflow
		p.content, problem = readWorkflow(&f)
	case f.hasAll(documentKeys()):
		p.shape = ShapeDocument
		p.content, problem = readDocument(&f, body)
	default:
		problem = f.nearest()
	}
	if problem != "" {
		// A copy, so that f need not outlive this call, and takes no memory to be collected.
		reason := strings.Clone(problem)
		return Payload{shape: ShapeUnrecognized, reason: reason, content: unrecognized{body: body}}, nil
	}
	return p, nil
}

// Shape returns which form the payload has.
func (p Payload) Shape() Shape { return p.shape }

// Reason says why the payload is unrecognized, or why an envelope goes under other, and is empty for every other one.
// Names in it are quoted and shortened, so that it can be logged as it is.
func (p Payload) Reason() string { return p.reason }

// Len returns how many events Events yields.
func (p Payload) Len(o Options) int {
	if p.content == nil {
		return 0
	}
	return p.content.len(o)
}

// Events yields the events that the payload becomes, always the same in the same order, for the webhook that it came
// with: its body must be what was given to Parse. All have the same PartitionKey. They are made one at a time, while
// the sequence is read, which may be done again and again. Every attribute is a legal CloudEvents value. Data may be
// the very bytes given to Parse.
func (p Payload) Events(w bridge.Webhook, o Options) iter.Seq[bridge.Event] {
	if p.content == nil {
		return func(func(bridge.Event) bool) {}
	}
	return p.content.events(w, o)
}
