package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/config"
)

// refuseJournal returns an error if a journal in the data directory still owes events to the sinks of a bridge that
// would store nothing: it would never publish them, and what came in would overtake them. It writes nothing.
func refuseJournal(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	status, err := admin.ReadStatus(ctx, cfg.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w; FNBRIDGE_ACK=sinks does not start beside a journal that may hold events: "+
			"mend the one in %s, or move its files (journal.db*) away if what it holds may be lost", err, cfg.DataDir)
	}
	var owed []string
	var letters int64
	configured := sinkNames(cfg)
	for _, sink := range status.Sinks {
		if !slices.Contains(configured, sink.Sink) {
			continue
		}
		letters += sink.DeadLetters
		if sink.BacklogWebhooks > 0 {
			owed = append(owed, fmt.Sprintf("%d to %s", sink.BacklogWebhooks, sink.Sink))
		}
	}
	if len(owed) > 0 {
		return fmt.Errorf("FNBRIDGE_ACK=sinks would leave behind the webhooks that the journal in %s still owes to sinks: "+
			"%s. Start once with FNBRIDGE_ACK=journal, until \"fnbridge status\" shows no backlog. Or write them out with "+
			"\"FNBRIDGE_ACK=journal fnbridge journal export\" and move the journal's files (journal.db*) away",
			cfg.DataDir, strings.Join(owed, ", "))
	}
	if letters > 0 {
		log.Warn("the journal in the data directory has dead letters, which stay there; "+
			"to see them and to have them tried again, run fnbridge with FNBRIDGE_ACK=journal on it",
			"data_dir", cfg.DataDir, "dead_letters", letters)
	}
	return nil
}
