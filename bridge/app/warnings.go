package app

import (
	"fmt"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/volume"
	"github.com/fnbridge/fnbridge/config"
)

// Warnings are those of the bridge itself: what is odd about its environment, what is dangerous about the data
// directory of a bridge that writes to it, and what lies there unread.
func Warnings(cfg *config.Config, configuration []config.Warning) []bridge.Warning {
	var all []bridge.Warning
	for _, w := range configuration {
		all = append(all, bridge.Warning{Key: "configuration", Text: w.String()})
	}
	all = append(all, leftStreams(cfg)...)
	if cfg.AcksFromSinks() && !cfg.UsesEmbedded() {
		return all
	}
	if system := volume.NetworkOf(cfg.DataDir); system != "" {
		all = append(all, bridge.Warning{Key: "data_directory_network", Text: fmt.Sprintf(
			"FNBRIDGE_DATA_DIR (%s) is on %s, where the locks and shared memory that a journal needs are not safe, "+
				"so that a second bridge or a cut connection can damage it; give a directory on a local disk or a block volume",
			cfg.DataDir, system)})
	}
	return all
}
