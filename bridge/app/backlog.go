package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge/delivery"
	"github.com/fnbridge/fnbridge/bridge/journal"
)

const (
	// backlogInterval is how often it is looked whether a journal's backlog is published.
	backlogInterval = 100 * time.Millisecond
	// backlogLines is the time between two lines of the log about how much is left of it.
	backlogLines = 10 * time.Second
)

// backlog is what a journal in the data directory still holds for the sinks when a bridge that stores nothing starts on it. It
// is published, as a bridge with a journal would, before any webhook is taken: so nothing that was accepted is lost, and
// no event overtakes an older one of its key.
type backlog struct {
	journal     *journal.Journal
	dispatchers []*delivery.Dispatcher
	left        atomic.Int64 // webhooks that the sink that is farthest behind has not wholly been sent
	over        atomic.Bool
}

// openBacklog opens the journal in the data directory if there is one and a sink has not been sent all of it.
func (a *App) openBacklog(ctx context.Context) error {
	left, letters, err := a.waitsInJournal(ctx)
	if err != nil {
		return fmt.Errorf("%w; a bridge with FNBRIDGE_ACK=sinks first publishes what the journal in %s still holds: mend it, or move it away if what it holds may be lost",
			err, a.cfg.DataDir)
	}
	if letters > 0 {
		a.log.Warn("the journal in the data directory has dead letters, which stay there; to see them and to have them tried again, run fnbridge with FNBRIDGE_ACK=journal on it",
			"data_dir", a.cfg.DataDir, "dead_letters", letters)
	}
	if left == 0 {
		return nil
	}
	j, err := journal.Open(ctx, journal.Options{Dir: a.cfg.DataDir, Sinks: sinkNames(a.cfg), Logger: a.log, Now: a.now})
	if err != nil {
		return err
	}
	a.undoLater("journal", j.Close)
	a.backlog = &backlog{journal: j}
	a.backlog.left.Store(left)
	return nil
}

// waitsInJournal returns how many webhooks the sink that is farthest behind has not wholly been sent, and how many dead
// letters there are. It writes nothing.
func (a *App) waitsInJournal(ctx context.Context) (left, letters int64, err error) {
	r, err := journal.OpenReader(ctx, a.cfg.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	s, err := r.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	known := make(map[string]bool)
	for _, name := range sinkNames(a.cfg) {
		known[name] = true
	}
	for _, sink := range s.Sinks {
		if known[sink.Sink] {
			left, letters = max(left, sink.Backlog), letters+sink.DeadLetters
		}
	}
	return left, letters, nil
}

// deliverBacklog makes the dispatchers that publish the backlog. Its metrics are not shown: they carry the names of those to come.
func (a *App) deliverBacklog() error {
	if a.backlog == nil {
		return nil
	}
	hidden := prometheus.NewRegistry()
	for i, sink := range a.sinks {
		routes, err := ParseRoutes(a.cfg.Sinks[i].Routes)
		if err != nil {
			return err
		}
		d, err := delivery.New(delivery.Options{
			Journal: a.backlog.journal, Sink: sink, Events: a.events(), Routes: routes, Logger: a.log, Registerer: hidden, Now: a.now,
			GiveUpAfter: a.cfg.Sinks[i].GiveUpAfter,
		})
		if err != nil {
			return err
		}
		a.backlog.dispatchers = append(a.backlog.dispatchers, d)
	}
	return nil
}

// publishBacklog publishes the backlog and closes the journal. It returns early when ctx ends; what is left then is
// published after the next start.
func (a *App) publishBacklog(ctx, publish context.Context) error {
	b := a.backlog
	a.log.Warn("the journal in the data directory holds webhooks from before FNBRIDGE_ACK=sinks; they are published first, and until then "+
		"new ones are answered 503 and this bridge is not ready", "data_dir", a.cfg.DataDir, "webhooks", b.left.Load())
	deliver, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	failed := make(chan error, len(b.dispatchers))
	for _, d := range b.dispatchers {
		running.Go(func() { failed <- d.Run(deliver, publish) })
	}
	a.awaitBacklog(ctx)
	stop()
	running.Wait()
	close(failed)
	var err error
	for e := range failed {
		err = errors.Join(err, e)
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err = errors.Join(err, b.journal.Close(limited))
	if err == nil && b.left.Load() == 0 && usesEmbedded(a.cfg) {
		err = a.lockDataDir() // the journal kept others out until now
	}
	if err == nil && b.left.Load() == 0 {
		b.over.Store(true)
		a.log.Info("everything that the journal held has been published or is in its dead letters; webhooks are taken from now on")
	}
	return err
}

// awaitBacklog waits until nothing is left, or ctx ends, and says now and then how much is.
func (a *App) awaitBacklog(ctx context.Context) {
	b := a.backlog
	tick := time.NewTicker(backlogInterval)
	defer tick.Stop()
	said := time.Now()
	for {
		var left int64
		for _, d := range b.dispatchers {
			left = max(left, d.Backlog())
		}
		if b.left.Store(left); left == 0 {
			return
		}
		if time.Since(said) >= backlogLines {
			said = time.Now()
			a.log.Warn("the journal's webhooks are being published; new ones are answered 503 until that is done", "webhooks", left)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
