package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/config"
)

// refuseJournal returns an error if a journal in the data directory still owes events to the sinks of a bridge that would
// store nothing: it would never publish them, and what came in would overtake them. It writes nothing.
func refuseJournal(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	owed, letters, err := waitsInJournal(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%w; FNBRIDGE_ACK=sinks does not start beside a journal that may hold events: mend the one in %s, or move its files (journal.db*) away if what it holds may be lost",
			err, cfg.DataDir)
	}
	if len(owed) > 0 {
		return fmt.Errorf("FNBRIDGE_ACK=sinks would leave behind the webhooks that the journal in %s still owes to sinks: %s. Start once with FNBRIDGE_ACK=journal, "+
			"until \"fnbridge status\" shows no backlog. Or write them out with \"FNBRIDGE_ACK=journal fnbridge journal export\" and move the journal's files (journal.db*) away",
			cfg.DataDir, strings.Join(owed, ", "))
	}
	if letters > 0 {
		log.Warn("the journal in the data directory has dead letters, which stay there; to see them and to have them tried again, run fnbridge with FNBRIDGE_ACK=journal on it",
			"data_dir", cfg.DataDir, "dead_letters", letters)
	}
	return nil
}

// waitsInJournal says for each configured sink that a journal in the data directory has not sent everything how much that
// is, and counts their dead letters.
func waitsInJournal(ctx context.Context, cfg *config.Config) (owed []string, letters int64, err error) {
	r, err := journal.OpenReader(ctx, cfg.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	s, err := r.Status(ctx)
	if err != nil {
		return nil, 0, err
	}
	configured := sinkNames(cfg)
	for _, sink := range s.Sinks {
		if !slices.Contains(configured, sink.Sink) {
			continue
		}
		letters += sink.DeadLetters
		if sink.Backlog > 0 {
			owed = append(owed, fmt.Sprintf("%d to %s", sink.Backlog, sink.Sink))
		}
	}
	return owed, letters, nil
}
