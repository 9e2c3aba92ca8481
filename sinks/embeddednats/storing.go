package embeddednats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/fnbridge/fnbridge/bridge/volume"
)

const (
	// checkInterval is how often the server is asked whether it stores, and how soon it is helped again if it does not.
	checkInterval = time.Second
	// mostRoomNeeded and roomShare say what there must be room for before the streams are opened anew: so many bytes, or
	// this part of a small disk.
	mostRoomNeeded = 1 << 20
	roomShare      = 64
)

// keepStoring opens the streams anew, without a word to clients, when the server stores nothing more and the disk takes
// writes: nats-server itself goes on only after a restart. What was acknowledged is on the disk, and what was not is
// sent again by whoever sent it. config is what JetStream was started with.
//
// The server's state says whether it stores, and never its log, which quotes what strangers send.
func (s *Server) keepStoring(ctx context.Context, config server.JetStreamConfig, log *slog.Logger) {
	roomNeeded := roomNeeded(config.StoreDir)
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	stopped := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		used, failed := s.used(), s.storeError()
		// A little that came free and is taken again at once would be said again and again.
		full := used > config.MaxStore || stopped && used+roomNeeded > config.MaxStore
		if failed == nil && !full {
			if stopped {
				log.Info("the embedded NATS server stores again", "max_bytes", config.MaxStore)
			}
			stopped = false
			continue
		}
		if !stopped {
			stopped = true
			reason := failed
			if reason == nil {
				reason = fmt.Errorf("its streams take %d bytes, and may take %d: "+
					"it leaves a quarter of the disk to others", used, config.MaxStore)
			}
			log.Warn("the embedded NATS server stores nothing more; make room on the disk, or remove messages. "+
				"It is tried again every second",
				"error", reason)
		}
		limit := max(config.MaxStore, maxStore(config.StoreDir)) // the disk may have been made larger
		if failed == nil && limit < used+roomNeeded {
			continue
		}
		config.MaxStore = limit
		if err := s.reopen(config); err != nil {
			log.Debug("the streams of the embedded NATS server cannot be opened anew yet", "error", err)
		}
	}
}

// used is what the streams take on the disk, in bytes.
func (s *Server) used() int64 {
	info, err := s.server.Jsz(nil)
	if err != nil {
		return 0 // JetStream is closed, which storeError says
	}
	return int64(min(info.Store, math.MaxInt64))
}

// storeError returns why JetStream, or one of its streams, takes nothing more until it is opened anew; nil if all do.
func (s *Server) storeError() error {
	for _, e := range s.server.Healthz(&server.HealthzOptions{Details: true}).Errors {
		// A stream that is being deleted counts as ill too. Its name has no spaces.
		if e.Type == server.HealthzErrorJetStream ||
			e.Type == server.HealthzErrorStream && strings.Contains(e.Error, " write error: ") {
			return errors.New(e.Error)
		}
	}
	return nil
}

// reopen closes JetStream with all its streams, and opens it as config says, if the disk takes writes.
func (s *Server) reopen(config server.JetStreamConfig) error {
	if err := tryDisk(config.StoreDir); err != nil {
		return err
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if err := s.server.ShutdownJetStream(); err != nil {
		return err
	}
	if s.server.JetStreamConfig() != nil {
		return errors.New("JetStream is still being closed") // by the server itself, which does so after some errors
	}
	forgetCached(config.StoreDir)
	return s.server.EnableJetStream(&config)
}

// roomNeeded is how many bytes must be free under dir for the streams to be opened anew.
func roomNeeded(dir string) int64 {
	space, known := volume.Of(dir)
	if !known {
		return mostRoomNeeded
	}
	return min(space.Size/roomShare, mostRoomNeeded)
}

// tryDisk tells whether the disk under dir takes writes.
func tryDisk(dir string) error {
	file, err := os.CreateTemp(dir, "disk-check-")
	if err != nil {
		return err
	}
	_, err = file.Write(make([]byte, roomNeeded(dir)))
	return errors.Join(err, file.Sync(), file.Close(), os.Remove(file.Name()))
}
