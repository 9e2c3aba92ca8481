package app

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fnbridge/fnbridge/bridge/journal"
	"github.com/fnbridge/fnbridge/bridge/volume"
)

// The reasons for which webhooks are refused, as a metric has them.
const (
	refusingStop    = "shutting_down"
	refusingDisk    = "disk_full"
	refusingJournal = "journal_full"
	refusingSinks   = "sink_down"
)

// refusing says why webhooks are refused, for a metric and for people; empty and nil while they are not.
func (a *App) refusing() (reason string, err error) {
	if a.stopping.Load() {
		return refusingStop, errors.New("fnbridge is shutting down")
	}
	if a.queue != nil {
		if err := a.queue.Ready(); err != nil {
			return refusingSinks, err
		}
		return "", nil
	}
	err = a.journal.Accepting()
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, journal.ErrDiskFull):
		return refusingDisk, fmt.Errorf("webhooks are refused, while those accepted are delivered: make room on the volume "+
			"of %s: %w", a.cfg.DataDir, err)
	case errors.Is(err, journal.ErrFull):
		return refusingJournal, fmt.Errorf("webhooks are refused: %w", err)
	default:
		return refusingStop, err
	}
}

// lastAccepted is when the newest accepted webhook was received; zero when none is known.
func (a *App) lastAccepted() time.Time {
	if a.queue != nil {
		_, last := a.queue.Accepted()
		return last
	}
	return a.journal.LastAccepted()
}

// registerMetrics adds the metrics that tell whether webhooks are taken, and how full the volume is.
func (a *App) registerMetrics() error {
	reasons := []string{refusingStop, refusingSinks}
	gauges := []prometheus.Collector{prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fnbridge_last_accepted_timestamp_seconds",
		Help: "When the webhook that was accepted last was received, in Unix seconds; 0 when there was none. " +
			"With a journal it outlives a restart.",
	}, func() float64 {
		at := a.lastAccepted()
		if at.IsZero() {
			return 0
		}
		return float64(at.UnixMilli()) / 1000
	})}
	if a.journal != nil {
		reasons = []string{refusingStop, refusingDisk, refusingJournal}
	}
	for _, reason := range reasons {
		gauges = append(gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "fnbridge_refusing",
			Help:        "Whether webhooks are refused now, by reason: 1 for the one that holds, 0 for the others.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 {
			if now, _ := a.refusing(); now == reason {
				return 1
			}
			return 0
		}))
	}
	for _, s := range a.sinks {
		gauges = append(gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_sink_required", ConstLabels: prometheus.Labels{"sink": s.Name},
			Help: "1 for a sink that is required, 0 for one with FNBRIDGE_<SINK>_REQUIRED=false.",
		}, func() float64 {
			if s.Required {
				return 1
			}
			return 0
		}))
	}
	if _, known := volume.Of(a.cfg.DataDir); known && (a.journal != nil || a.embedded != nil) {
		space := func() volume.Space { s, _ := volume.Of(a.cfg.DataDir); return s }
		gauges = append(gauges, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_volume_free_bytes", Help: "Space that the volume of the data directory has free.",
		}, func() float64 { return float64(space().Free) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fnbridge_volume_size_bytes", Help: "Space that the volume of the data directory has in all.",
		}, func() float64 { return float64(space().Size) }))
	}
	for _, g := range gauges {
		if err := a.metrics.Register(g); err != nil {
			return fmt.Errorf("register the bridge's metrics: %w", err)
		}
	}
	return nil
}
