package ingest

// BodyBytes returns how much memory the bodies of all webhooks in flight have.
func (h *Handler) BodyBytes() int64 {
	h.admission.mu.Lock()
	defer h.admission.mu.Unlock()
	return h.admission.bytes
}
