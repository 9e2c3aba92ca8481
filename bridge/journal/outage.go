package journal

import "time"

// outageInterval is how long the journal is silent about a reason for which it could not write and then could: at the
// edge of a full disk a small webhook fits and a larger one does not, again and again.
const outageInterval = time.Minute

// outage decides what is said of a journal that cannot write: one line when that begins, and one when it is over.
type outage struct {
	// said is set from the line that it began to the one that it is over.
	said   bool
	reason string
	at     time.Time
}

// begin tells whether to say that writing failed for that reason.
func (o *outage) begin(reason string) bool {
	if o.said || reason == o.reason && time.Since(o.at) < outageInterval {
		return false
	}
	o.said, o.reason, o.at = true, reason, time.Now()
	return true
}

// end tells whether to say that writing succeeds again.
func (o *outage) end() bool {
	said := o.said
	o.said = false
	return said
}
