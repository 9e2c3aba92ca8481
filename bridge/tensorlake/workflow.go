package tensorlake

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"iter"
	"slices"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

const (
	typePrefix         = "tensorlake."
	functionTypePrefix = typePrefix + "workflow.function."
	invocationType     = typePrefix + "workflow.invocation.finished"
	workflowSource     = "/tensorlake/workflows/"
	summaryUndecided   = "partial"
)

// maxRepeated bounds how many bytes of names the events of one payload repeat. Each event carries the names of its
// workflow and its invocation, in its data and several times in what it is addressed by, so that a name of half a
// megabyte and 25,000 functions, which fit into one payload of a megabyte, would become 50 GB. Two names of 100 bytes
// pass with 80,000 functions.
const maxRepeated = 64 << 20

func workflowKeys() []key { return []key{keyWorkflowName, keyInvocationID, keyFnStatus} }

// workflow is the payload {"workflow_name", "invocation_id", "fn_status": {function: status}}. Its fields are JSON as
// it stands in the payload.
type workflow struct {
	name       []byte
	invocation []byte
	statuses   []byte
	total      int
}

func readWorkflow(f *fields) (content, string) {
	r := fieldReader{fields: f}
	w := workflow{
		name:       r.required(keyWorkflowName, '"'),
		invocation: r.required(keyInvocationID, '"'),
		statuses:   r.required(keyFnStatus, '{'),
	}
	if r.problem != "" {
		return nil, r.problem
	}
	for function, status := range members(w.statuses) {
		if status[0] != '"' {
			r.fail("fn_status.%s is %s, not a string", excerpt.Quote(unquote(function)), kindOf(status))
			return nil, r.problem
		}
		w.total++
	}
	if repeated := w.total * (repeats(w.name) + repeats(w.invocation)); repeated > maxRepeated {
		r.fail("its %d events would repeat the names of workflow and invocation in %d MiB, and %d MiB are the most",
			w.total, repeated>>20, maxRepeated>>20)
		return nil, r.problem
	}
	return w, ""
}

// repeats is how many bytes of a name, which is JSON as it stands in the payload, are in each event: in its data,
// escaped in its source or subject, and as it is for its route, or its partition key, and for whoever asks for it by
// name.
func repeats(literal []byte) int {
	name := unquote(literal)
	return len(literal) + len(escapePart(name)) + 2*len(name)
}

func (p workflow) len(o Options) int {
	if o.SummaryEvents {
		return p.total + 1
	}
	return p.total
}

func (p workflow) events(w bridge.Webhook, o Options) iter.Seq[bridge.Event] {
	return func(yield func(bridge.Event) bool) {
		invocation := p.read(w)
		var summary *summary
		if o.SummaryEvents {
			summary = newSummary(invocation)
		}
		index := 0
		for function, status := range members(p.statuses) {
			e, sum := invocation.function(function, status)
			e.Origin.Index = index
			index++
			if summary != nil {
				summary.add(sum, e.Outcome)
			}
			if !yield(e) {
				return
			}
		}
		if summary != nil {
			yield(summary.event())
		}
	}
}

// invocation is what the events of one workflow payload share, made once: a payload can have 100,000 functions and
// a name of a megabyte.
type invocation struct {
	workflow workflow
	webhook  bridge.Webhook
	// shared holds the attributes that are the same in every event.
	shared bridge.Event
	// sum stands for the workflow and the invocation in the digests of its functions.
	sum [sha256.Size]byte
	// subject is the invocation's part of a subject.
	subject string
	// dataHead and dataTail are the data of an event before and after the function and its status.
	dataHead, dataTail []byte
}

func (p workflow) read(w bridge.Webhook) *invocation {
	name, id := unquote(p.name), unquote(p.invocation)
	i := &invocation{
		workflow: p,
		webhook:  w,
		sum:      digest("invocation", identity(p.name, name), identity(p.invocation, id)),
		subject:  escapePart(id),
	}
	i.shared = newEvent(w, id)
	i.shared.Source = workflowSource + escapePart(name)
	i.shared.Time = w.Timestamp.UTC()
	i.shared.Application = name
	i.shared.Request = id
	i.dataHead = fmt.Appendf(nil, `{"workflow_name":%s,"invocation_id":%s`, p.name, p.invocation)
	i.dataTail = fmt.Appendf(nil, `,"functions_total":%d`, p.total)
	return i
}

// function returns the event of one entry of fn_status, and the digest that its id is made of.
func (i *invocation) function(functionLiteral, statusLiteral []byte) (bridge.Event, [sha256.Size]byte) {
	function, status := unquote(functionLiteral), unquote(statusLiteral)
	word := statusWord(status)
	sum := digest("function", string(i.sum[:]), identity(functionLiteral, function), identity(statusLiteral, status))
	e := i.shared
	e.ID, e.Type, e.Subject = eventID(sum), functionTypePrefix+word, i.subject+"/"+escapePart(function)
	e.Function, e.Status, e.Outcome = function, word, outcomeOf(word)
	e.Route = []string{routeOfWorkflow, e.Application, function, e.Status}

	e.Data = slices.Concat(i.dataHead, []byte(`,"function":`), functionLiteral, []byte(`,"status":`), statusLiteral,
		i.dataTail, []byte(`}`))
	return e, sum
}

// summary adds up the function events of one invocation while they are made.
type summary struct {
	invocation        *invocation
	succeeded, failed int
	// sums digests the digests of the function events, so that another outcome makes another id.
	sums hash.Hash
}

func newSummary(i *invocation) *summary { return &summary{invocation: i, sums: sha256.New()} }

func (s *summary) add(sum [sha256.Size]byte, outcome string) {
	s.sums.Write(sum[:])
	switch outcome {
	case outcomeSuccess:
		s.succeeded++
	case outcomeFailure:
		s.failed++
	}
}

// status is failure if any function failed, success if all succeeded (also if there are none), else partial: some
// ended, or go on, in a way that is neither.
func (s *summary) status() string {
	switch {
	case s.failed > 0:
		return outcomeFailure
	case s.succeeded == s.invocation.workflow.total:
		return outcomeSuccess
	default:
		return summaryUndecided
	}
}

func (s *summary) event() bridge.Event {
	i := s.invocation
	e := i.shared
	e.ID = eventID(digest("invocation finished", string(i.sum[:]), string(s.sums.Sum(nil))))
	e.Type = invocationType
	e.Subject = i.subject
	e.Origin.Index, e.Concludes = i.workflow.total, true
	e.Status = s.status()
	e.Outcome = outcomeOf(e.Status)
	e.Route = routeOfType(e.Type)

	e.Data = fmt.Appendf(nil, `%s%s,"succeeded":%d,"failed":%d,"status":"%s"}`,
		i.dataHead, i.dataTail, s.succeeded, s.failed, e.Status)
	return e
}
