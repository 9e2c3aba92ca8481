package tensorlake

import (
	"iter"

	"github.com/fnbridge/fnbridge/bridge"
)

// Unrecognized yields the one event of a webhook whose body is taken as it is, whatever it holds.
func Unrecognized(w bridge.Webhook) iter.Seq[bridge.Event] {
	return unrecognized{body: w.Body}.events(w, Options{})
}

// Events yields the events of a webhook. One whose body is no JSON object is taken as it is.
func Events(w bridge.Webhook, o Options) iter.Seq[bridge.Event] {
	payload, err := Parse(w.Body)
	if err != nil {
		return Unrecognized(w)
	}
	return payload.Events(w, o)
}
