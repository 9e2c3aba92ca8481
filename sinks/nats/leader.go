package nats

import (
	"context"
	"errors"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// errMoved is the end of a message that another leader was sent than the stream has now.
var errMoved = errors.New("the stream has had another leader since, which may not know of it")

// leader is the server that led the stream when it was looked at last, and empty if that is not known.
func (m *stream) leader() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.info == nil || m.info.Cluster == nil {
		return ""
	}
	return m.info.Cluster.Leader
}

// moved tells whether another server than leader leads the stream now. It says no when nobody answers.
func (m *stream) moved(ctx context.Context, s *session, leader string) bool {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := m.find(ctx, s)
	if err != nil || info.Cluster == nil || info.Cluster.Leader == "" || info.Cluster.Leader == leader {
		return false
	}
	m.mu.Lock()
	m.info = info
	m.mu.Unlock()
	return true
}

// doubt lands what of the call is in flight once the stream has another leader than when the call began. It begins to
// ask when the call has lasted for a while. The returned function ends the doubts.
func (c *call) doubt(ctx context.Context) (end func()) {
	leader := c.sink.stream.leader()
	if leader == "" || c.letters { // of whose stream nothing is known
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	timer := time.AfterFunc(doubtAfter, func() {
		defer close(ended)
		again := time.NewTicker(doubtEvery)
		defer again.Stop()
		for !c.sink.stream.moved(ctx, c.session, leader) {
			select {
			case <-ctx.Done():
				return
			case <-again.C:
			}
		}
		c.sink.landAll(func(_ *natsgo.Msg, f *flight) bool { return f.call == c }, errMoved)
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-ended
		}
	}
}
