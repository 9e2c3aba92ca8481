package admin

import "github.com/fnbridge/fnbridge/bridge/delivery"

// What becomes of the events that a sink does not take.
const (
	keptEvents   = "Every event is kept, and tried again by itself."
	askedAgain   = "Webhooks that it does not take are answered 503, and their sender tries again."
	missedEvents = "It is not required: what it does not take, it never gets."
)

// advice says what the state of a sink means and what to do about it; events is what becomes of events meanwhile. It is
// empty for a sink that is up.
func advice(state, events string) string {
	switch delivery.SinkHealth(state) {
	case delivery.Degraded:
		return "It takes only part of the events. " + events
	case delivery.Down:
		return "It takes nothing. " + events + " See whether the broker runs, and can be reached from here."
	case delivery.Blocked:
		return `Somebody has to mend this: credentials, permission, or a stream or topic that is not there. "fnbridge ` +
			`check" goes through it step by step. ` + events
	default:
		return ""
	}
}
