package ingest

import "time"

// SetPatience sets how long webhooks wait for a place, or for memory, from now on.
func (h *Handler) SetPatience(d time.Duration) {
	h.admission.mu.Lock()
	defer h.admission.mu.Unlock()
	h.admission.waits = d
}

// BodyBytes returns how much memory the bodies of all webhooks in flight have.
func (h *Handler) BodyBytes() int64 {
	h.admission.mu.Lock()
	defer h.admission.mu.Unlock()
	return h.admission.bytes
}

// Waiting returns how many webhooks wait for their turn.
func (h *Handler) Waiting() int {
	h.admission.mu.Lock()
	defer h.admission.mu.Unlock()
	return h.admission.queue.Len()
}

// WaitsForMemory tells whether a body waits for memory.
func (h *Handler) WaitsForMemory() bool {
	h.admission.mu.Lock()
	defer h.admission.mu.Unlock()
	return h.admission.freed != nil
}
