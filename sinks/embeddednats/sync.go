package embeddednats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// othersInterval is how often what clients beside the bridge have stored is synced.
const othersInterval = 5 * time.Second

var (
	errStopped      = errors.New("the embedded NATS server has stopped")
	errFailedBefore = errors.New("another sync failed meanwhile; the log says why")
)

// syncer syncs the file system that the streams are on: one sync at a time, which is for all who asked before it began.
type syncer struct {
	dir  *os.File
	sync func(dir *os.File) error
	log  *slog.Logger
	// wake has a token when somebody waits.
	wake chan struct{}
	// failures counts failed syncs. The system tells of each failure of the disk once, and the sync that hears of it may
	// be another than the next one of those who are concerned, and one that nobody waits for.
	failures atomic.Int64

	mu      sync.Mutex
	waiting []chan<- error // for the next sync
	ended   bool
}

// openSyncer returns nil where a sync of the file system does not tell whether it failed.
func openSyncer(dir string, log *slog.Logger) (*syncer, error) {
	if !canSync(dir) {
		return nil, nil
	}
	file, err := os.Open(dir)
	return &syncer{dir: file, sync: syncFileSystem, log: log, wake: make(chan struct{}, 1)}, err
}

// ask has a sync begin after the call, and returns where its end is told.
func (s *syncer) ask() <-chan error {
	synced := make(chan error, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		synced <- errStopped
		return synced
	}
	s.waiting = append(s.waiting, synced)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return synced
}

// run syncs until ctx ends.
func (s *syncer) run(ctx context.Context) {
	others := time.NewTicker(othersInterval)
	defer others.Stop()
	for ended := false; !ended; {
		select {
		case <-s.wake:
		case <-others.C:
		case <-ctx.Done():
		}
		s.mu.Lock()
		waiting := s.waiting
		ended = ctx.Err() != nil
		s.waiting, s.ended = nil, ended
		s.mu.Unlock()
		err := s.sync(s.dir)
		if err != nil {
			s.failures.Add(1) // before anybody hears of a later sync
			s.log.Error("the disk did not sync what the embedded NATS server has stored; "+
				"what was not known to be on the disk is published again", "error", err)
		}
		for _, synced := range waiting {
			synced <- err
		}
	}
}

// close syncs what the server has written at its end.
func (s *syncer) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.sync(s.dir), s.dir.Close())
}

// SyncFailures implements bridge.Syncer.
func (s *Server) SyncFailures() int64 {
	if s.syncer == nil {
		return 0
	}
	return s.syncer.failures.Load()
}

// Sync implements bridge.Syncer. Calls share syncs. It returns an error also when the server ends first.
func (s *Server) Sync(ctx context.Context, failures int64) error {
	if s.syncer == nil {
		return nil // it was synced before it was acknowledged
	}
	select {
	case err := <-s.syncer.ask():
		if err == nil && s.syncer.failures.Load() != failures {
			err = errFailedBefore
		}
		if err != nil {
			return fmt.Errorf("the disk did not sync what the embedded NATS server has stored: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the disk has not synced in time what the embedded NATS server has stored: %w", context.Cause(ctx))
	}
}
