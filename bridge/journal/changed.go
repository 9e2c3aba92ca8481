package journal

import "sync"

// broadcast wakes everyone who waits, once for each notify.
type broadcast struct {
	mu    sync.Mutex
	ch    chan struct{}
	taken bool
}

// wait returns a channel that the next notify closes.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	b.taken = true
	return b.ch
}

// notify closes the channel that wait gave out. It costs nothing when nobody took it.
func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.taken {
		return
	}
	close(b.ch)
	b.ch, b.taken = nil, false
}
