package ingest

import "time"

// SetClock replaces the clock of c, which must not be in use yet.
func SetClock(c *Certificates, now func() time.Time) {
	c.now = now
	c.start = now()
}

// BodyBytes returns how much memory the bodies of all webhooks in flight have.
func (h *Handler) BodyBytes() int64 {
	h.admission.mu.Lock()
	defer h.admission.mu.Unlock()
	return h.admission.bytes
}
