package ops

import (
	"fmt"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// RegisterBuildInfo adds fnbridge_build_info to r: always 1, with the version and revision of the
// program and the Go version it was built with as labels. It fails when r has the metric already.
func RegisterBuildInfo(r prometheus.Registerer, version, revision string) error {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fnbridge_build_info",
		Help: "Always 1; the labels tell which build of fnbridge is running.",
		ConstLabels: prometheus.Labels{
			"version":   version,
			"revision":  revision,
			"goversion": runtime.Version(),
		},
	})
	gauge.Set(1)
	if err := r.Register(gauge); err != nil {
		return fmt.Errorf("register the metric fnbridge_build_info: %w", err)
	}
	return nil
}
