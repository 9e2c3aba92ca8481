package ingest

import (
	"context"
	"sync"
	"time"
)

// deadlineShares is into how many stretches the time for storing is cut: webhooks that begin in one of them share a deadline.
const deadlineShares = 40

// deadlines makes contexts that end after some time, or a fortieth of it later. A context with a timer of its own for every
// webhook was an eighth of what accepting one allocates. It is safe for concurrent use.
type deadlines struct {
	within time.Duration

	mu      sync.Mutex
	shared  context.Context //nolint:containedctx // it belongs to all the webhooks of a moment
	renewal time.Time
}

// context returns a context that ends after d.within at the earliest.
func (d *deadlines) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); d.shared == nil || now.After(d.renewal) {
		stretch := d.within / deadlineShares
		ctx, cancel := context.WithTimeout(context.Background(), d.within+stretch)
		context.AfterFunc(ctx, cancel) // nobody ends it early
		d.shared = ctx
		d.renewal = now.Add(stretch)
	}
	return d.shared
}
