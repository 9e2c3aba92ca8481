package tensorlake

import (
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
)

// Describe fills in what the message of an event does not carry, as Events has made it: Route and what addresses are
// made of. It goes by the event's Type and Data, and without a Type, as in the plain format, by Data alone.
func Describe(e *bridge.Event) {
	data := names{object: e.Data}
	if checkJSON(e.Data) != nil {
		data.object = nil
	}
	part := data.read("workflow_name", "invocation_id", "function", "status", "failed")
	isFunction, isSummary := part[2] != nil, part[4] != nil
	switch {
	case strings.HasPrefix(e.Type, functionTypePrefix), e.Type == "" && isFunction:
		e.Application, e.Request = text(part[0]), text(part[1])
		e.Function, e.Status = text(part[2]), statusWord(text(part[3]))
		e.Outcome = outcomeOf(e.Status)
		e.Route = []string{routeOfWorkflow, e.Application, e.Function, e.Status}
		return
	case e.Type == invocationType, e.Type == "" && isSummary:
		e.Application, e.Request, e.Status = text(part[0]), text(part[1]), text(part[3])
		e.Outcome = outcomeOf(e.Status)
		e.Route = routeOfType(invocationType)
		return
	}
	e.Route = routeOfType(e.Type)
	payload, err := Parse(e.Data)
	if err != nil {
		return
	}
	for of := range payload.Events(bridge.Webhook{Body: e.Data}, Options{}) {
		if of.Type == e.Type || e.Type == "" {
			e.About = of.About
		}
		return
	}
}
