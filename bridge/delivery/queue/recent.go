package queue

import "time"

const (
	// maxRemembered bounds what a Queue's memory of webhooks takes, about. One takes rememberedBytes and its id.
	maxRemembered   = 64 << 20
	rememberedBytes = 256
)

// recentWebhooks remembers webhooks that were published: the last ones, up to a number of them, and those before them
// while they can come again with a signature that is valid, as far as all of it is within so many bytes.
type recentWebhooks struct {
	least int
	bytes int64 // that may be taken
	taken int64
	until map[identity]time.Time
	// order has them as they came, from the one at first on.
	order []remembered
	first int
}

// remembered is a webhook, and until when it was to be remembered when it came into the order.
type remembered struct {
	identity identity
	until    time.Time
}

// knows tells whether a webhook is remembered. If it is, it will be until the given time, too.
func (r *recentWebhooks) knows(w identity, until time.Time) bool {
	before, known := r.until[w]
	if known && until.After(before) {
		r.until[w] = until
	}
	return known
}

// add takes a webhook that it does not know, and returns those that it forgets for it.
func (r *recentWebhooks) add(w identity, until, now time.Time) (forgotten []identity) {
	r.until[w] = until
	r.order = append(r.order, remembered{w, until})
	r.taken += rememberedBytes + int64(len(w.id))
	for len(r.until) > r.least {
		oldest := r.order[r.first]
		switch valid := r.until[oldest.identity]; {
		case r.taken > r.bytes || !valid.After(now):
			forgotten = append(forgotten, oldest.identity)
			delete(r.until, oldest.identity)
			r.taken -= rememberedBytes + int64(len(oldest.identity.id))
		case valid.After(oldest.until): // it came again, and would keep those behind it
			r.order = append(r.order, remembered{oldest.identity, valid})
		default:
			return forgotten
		}
		r.order[r.first] = remembered{}
		if r.first++; r.first > len(r.order)/2 {
			r.order, r.first = append(r.order[:0:0], r.order[r.first:]...), 0
		}
	}
	return forgotten
}
