package app

import (
	"fmt"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/config/setting"
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

// shareVolume settles the shares, and says if the disk has less than is configured.
func (a *App) shareVolume() {
	a.shares.journal = int64(a.cfg.JournalMaxBytes)
	space, known := volume.Of(a.cfg.DataDir)
	if !known {
		return
	}
	a.shares = sharesOf(a.cfg, space)
	for _, lack := range lacksOf(a.cfg, space) {
		a.log.Warn("the volume of the data directory has less than is configured", "data_dir", a.cfg.DataDir,
			"warning", lack)
	}
}

// lacksOf says what of the configuration a volume has no room for, and what to do.
func lacksOf(cfg *config.Config, space volume.Space) (lacks []string) {
	const unit = 1 << 20
	s := sharesOf(cfg, space)
	if !cfg.AcksFromSinks() {
		limit, has := int64(cfg.JournalMaxBytes), space.Free+journal.FilesBytes(cfg.DataDir)
		if limit > s.journal {
			lacks = append(lacks, fmt.Sprintf("FNBRIDGE_JOURNAL_MAX_BYTES is %d MiB, and the volume has room for a journal "+
				"of %d MiB: the journal takes less. Make the volume larger, or set what is meant", limit/unit, s.journal/unit))
		}
		if s.journal > has {
			lacks = append(lacks, fmt.Sprintf("the journal may take %d MiB, and the volume has %d MiB for it: webhooks are "+
				"refused before it is full. Make room, or lower FNBRIDGE_JOURNAL_MAX_BYTES", s.journal/unit, has/unit))
		}
	}
	for _, sink := range cfg.Sinks {
		settings, ok := sink.Settings.(setting.Embeddable)
		if !ok || !sink.Embedded || settings.StreamBytes() <= s.stream {
			continue
		}
		variable := cfg.Variable(sink.Name, "MAX_BYTES")
		lacks = append(lacks, fmt.Sprintf("%s is %d MiB, and the volume has room for a stream of %d MiB: events wait when "+
			"the disk is full. Make the volume larger, or lower %s", variable, settings.StreamBytes()/unit, s.stream/unit,
			variable))
	}
	return lacks
}
