package embeddednats

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A sync is for those who asked before it began, and for nobody else.
func TestASyncIsForThoseWhoAskedBefore(t *testing.T) { synctest.Test(t, syncForThoseWhoAskedBefore) }

func syncForThoseWhoAskedBefore(t *testing.T) {
	began, end := make(chan struct{}), make(chan error)
	s := &syncer{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), sync: func(*os.File) error {
		began <- struct{}{}
		return <-end
	}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	first := s.ask()
	<-began
	var during []<-chan error
	for range 64 {
		during = append(during, s.ask())
	}
	end <- nil
	require.NoError(t, <-first)
	<-began
	for _, synced := range during {
		require.Empty(t, synced, "the sync began before it asked")
	}
	broken := errors.New("the disk is broken")
	end <- broken
	for _, synced := range during {
		require.ErrorIs(t, <-synced, broken)
	}
	cancel()
	<-began // the last one
	end <- nil
	running.Wait()
	require.ErrorIs(t, <-s.ask(), errStopped)
}

// The system tells of a failure once. Whoever sent something before is concerned, whoever hears of it.
func TestAFailedSyncIsForAllWhoSentBefore(t *testing.T) {
	synctest.Test(t, failedSyncForAllWhoSentBefore)
}

func failedSyncForAllWhoSentBefore(t *testing.T) {
	failed := make(chan struct{})
	log := &bytes.Buffer{}
	var syncs atomic.Int64
	s := &syncer{
		log: slog.New(slog.NewTextHandler(log, nil)), wake: make(chan struct{}, 1),
		sync: func(*os.File) error {
			if syncs.Add(1) > 1 {
				return nil
			}
			close(failed)
			return errors.New("the disk is broken")
		},
	}
	server := &Server{syncer: s}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	before := server.SyncFailures()
	<-failed // nobody waits for this one
	for range 2 {
		require.ErrorIs(t, server.Sync(t.Context(), before), errFailedBefore)
	}
	require.NoError(t, server.Sync(t.Context(), server.SyncFailures()))
	cancel()
	running.Wait()
	require.Equal(t, 1, strings.Count(log.String(), "the disk is broken"))
}

func TestSyncWaitsNoLongerThanItsContext(t *testing.T) {
	dir := t.TempDir()
	server := start(t, Options{Listen: "127.0.0.1:0", Dir: dir})
	publish(t, jetStream(t, server.ClientURL()), 0, 10)
	require.NoError(t, server.Sync(t.Context(), 0))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// Both may be ready: it says either, and never waits.
	if err := server.Sync(ctx, 0); err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	stop(t, server)
	require.Equal(t, canSync(dir), server.Sync(t.Context(), 0) != nil)
}
