package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge/filewatch"
	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks"
)

// filesOf returns what a sink, or the bridge itself with an empty name, has of files.
func filesOf(cfg *config.Config, files *reload.Files, sink string) *reload.Part {
	return files.Part(func(setting string) reload.Source {
		path, read := cfg.File(sink, setting)
		return reload.Source{Variable: cfg.Variable(sink, setting), Path: path, Read: read}
	})
}

// WatchFiles has the files of a sink's options looked at until stop is called, for a command that uses the sink for
// long.
func WatchFiles(ctx context.Context, cfg *config.Config, o *sinks.Options, log *slog.Logger) (stop func()) {
	files := reload.New(log)
	o.Files = filesOf(cfg, files, o.Name)
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { filewatch.Run(ctx, files, log) })
	return func() {
		cancel()
		watching.Wait()
	}
}

// watchTheRest has it said when a file changes whose variable is read at the start alone.
func (a *App) watchTheRest() {
	for variable, path := range a.cfg.ReadAtStart() {
		part := a.files.Part(func(string) reload.Source { return reload.Source{Variable: variable, Path: path} })
		read := false
		_, _ = reload.Open(part, func([]string) (struct{}, error) { // what is wrong with it, config has said
			if read {
				return struct{}{}, fmt.Errorf("%s has changed, and is read when the bridge starts: restart it", variable)
			}
			read = true
			return struct{}{}, nil
		}, reload.Text{Setting: variable})
	}
}

// Describe implements prometheus.Collector.
func (c fileMetrics) Describe(all chan<- *prometheus.Desc) {
	all <- c.refused
	all <- c.changes
}

// Collect implements prometheus.Collector.
func (c fileMetrics) Collect(all chan<- prometheus.Metric) {
	for _, s := range c.files.States() {
		refused := 0.
		if s.Refused != "" {
			refused = 1
		}
		all <- prometheus.MustNewConstMetric(c.refused, prometheus.GaugeValue, refused, s.Variable)
		all <- prometheus.MustNewConstMetric(c.changes, prometheus.CounterValue, float64(s.Taken), s.Variable)
	}
}

// fileMetrics tell of files that change while the bridge runs.
type fileMetrics struct {
	files            *reload.Files
	refused, changes *prometheus.Desc
}

func (a *App) registerFiles() error {
	a.watchTheRest()
	labels := []string{"variable"}
	err := a.metrics.Register(fileMetrics{
		files: a.files,
		refused: prometheus.NewDesc("fnbridge_file_refused",
			"1 while a file that a variable names holds what cannot be used, so that what it held before is in use; else 0.",
			labels, nil),
		changes: prometheus.NewDesc("fnbridge_file_changes_total",
			"How often what a file holds anew was taken over, by the variable that names it.", labels, nil),
	})
	if err != nil {
		return errors.Join(errors.New("register the metrics of files"), err)
	}
	return nil
}
