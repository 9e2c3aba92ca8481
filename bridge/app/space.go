package app

import (
	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/config"
)

// shares are what the parts of a bridge may take of the volume of its data directory, so that together they fit.
type shares struct {
	journal int64 // bytes
	stream  int64 // bytes, of each stream of the embedded server; 0: no limit
}

// nats-server writes a stream to files of 4 MiB, and of 8 MiB where it may take 32 MiB or more. It removes a file
// when all of it is old, so that a stream takes up to a file more than its limit, and another while it shrinks one.
const (
	smallVolume      = 64 << 20
	streamFiles      = 16 << 20
	smallStreamFiles = 4 << 20
	// leastStream is what a stream of a small volume gets if there is as much.
	leastStream = 2 << 20
)

// sharesOf gives the journal what is configured, but at most 85 % of the volume. Where the embedded server has its
// stream there too, its files come first, and the journal gets at most two thirds of the rest; the stream gets three
// quarters of what is then left, which is less than the server may store in all.
func sharesOf(cfg *config.Config, space volume.Space) shares {
	s := shares{journal: int64(cfg.JournalMaxBytes)}
	embedded, files := int64(0), int64(streamFiles)
	if space.Size < smallVolume {
		files = smallStreamFiles
	}
	for _, sink := range cfg.Sinks {
		if sink.Embedded {
			embedded++
		}
	}
	left := max(space.Size-embedded*files, 0)
	if !cfg.AcksFromSinks() {
		most := left / 20 * 17
		if embedded > 0 {
			most = left / 3 * 2
		}
		s.journal = min(s.journal, max(most, leastStream))
		left -= s.journal + journal.Overhead(s.journal, cfg.DataDir)
	}
	if embedded > 0 {
		left = max(left/embedded, leastStream/2)
		s.stream = max(left/4*3, min(left, leastStream))
	}
	return s
}

// shareVolume settles the shares, and says if the disk has less than is configured for the journal.
func (a *App) shareVolume() {
	cfg, log := a.cfg, a.log
	a.shares.journal = int64(cfg.JournalMaxBytes)
	space, known := volume.Of(cfg.DataDir)
	if !known {
		return
	}
	s := sharesOf(cfg, space)
	a.shares = s
	if cfg.AcksFromSinks() {
		return
	}
	limit := int64(cfg.JournalMaxBytes)
	has := space.Free + journal.FilesBytes(cfg.DataDir)
	switch {
	case limit > s.journal:
		log.Warn("FNBRIDGE_JOURNAL_MAX_BYTES is more than the volume has room for: the journal takes less. "+
			"Make the volume larger, or set what is meant", "data_dir", cfg.DataDir,
			"journal_max_bytes", limit, "volume_bytes", space.Size, "journal_takes", s.journal)
	case limit > has:
		log.Warn("FNBRIDGE_JOURNAL_MAX_BYTES is more than the volume has free: webhooks are refused before the journal "+
			"is full. Make room, or set what is meant", "data_dir", cfg.DataDir,
			"journal_max_bytes", limit, "volume_free_bytes", space.Free)
	}
}
