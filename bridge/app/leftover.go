package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/config"
)

// refuseJournal returns an error if a journal in the data directory still owes events to sinks, those that have left
// the configuration among them: a bridge that stores nothing would never publish them, and what came in would overtake
// them. It writes nothing.
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
	for _, sink := range status.Sinks {
		letters += sink.DeadLetters
		if sink.BacklogWebhooks > 0 {
			owed = append(owed, fmt.Sprintf("%d to %s", sink.BacklogWebhooks, sink.Sink))
		}
	}
	if len(owed) > 0 {
		return fmt.Errorf("FNBRIDGE_ACK=sinks would leave behind the webhooks that the journal in %s still owes to sinks: "+
			"%s. Start once with FNBRIDGE_ACK=journal, until \"fnbridge status\" shows no backlog; \"fnbridge sinks forget\" "+
			"gives up what waits for a sink that has left FNBRIDGE_SINKS. Or write them out with "+
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

// leftStreams warns of what the embedded server has stored, when no sink uses it any more.
func leftStreams(cfg *config.Config) []bridge.Warning {
	if cfg.UsesEmbedded() {
		return nil
	}
	dir := embeddedDir(cfg)
	streams, err := fs.Glob(os.DirFS(dir), "jetstream/*/streams/*")
	if err != nil || len(streams) == 0 {
		return nil
	}
	names := make([]string, len(streams))
	for i, stream := range streams {
		names[i] = path.Base(stream)
	}
	return []bridge.Warning{{Key: "streams_left", Text: fmt.Sprintf(
		"FNBRIDGE_DATA_DIR (%s) has streams of the embedded NATS server (%s), and no sink uses that server now: "+
			"what consumers have not read stays there. Have them read it from \"nats-server -a 127.0.0.1 -js -sd %s\", "+
			"and then remove %s", cfg.DataDir, strings.Join(names, ", "), dir, dir)}}
}
