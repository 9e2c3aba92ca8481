package tensorlake

import (
	"iter"

	"github.com/fnbridge/fnbridge/bridge"
)

// Unrecognized yields the one event of a webhook whose body is taken as it is, whatever it holds.
func Unrecognized(w bridge.Webhook) iter.Seq[bridge.Event] {
	return unrecognized{body: w.Body}.events(w, Options{})
}
