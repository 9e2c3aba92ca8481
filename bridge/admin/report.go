package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	reportPath = "/v1/report"
	// reportTimeout bounds how long a bridge is waited for that may hang: what else is asked for stands on the disk.
	reportTimeout = 2 * time.Second
)

// Report is what a running bridge knows of its surroundings, beside what its journal tells.
type Report struct {
	Warnings []Warning     `json:"warnings,omitempty"`
	Storage  []SinkStorage `json:"storage,omitempty"`
}

// Warning is one of a sink, or of the bridge itself if Sink is empty.
type Warning struct {
	Sink string `json:"sink,omitempty"`
	bridge.Warning
}

// Storage is how full a broker is.
type Storage = bridge.Storage

// SinkStorage is how full the broker of a sink is.
type SinkStorage struct {
	Sink string `json:"sink"`
	Storage
}

// Report tells what holds now.
func (p Parts) Report() Report {
	var r Report
	for _, w := range p.Warnings {
		r.Warnings = append(r.Warnings, Warning{Warning: w})
	}
	for _, sink := range p.Sinks {
		if s, ok := sink.Sink.(bridge.Warner); ok {
			for _, w := range s.Warnings() {
				r.Warnings = append(r.Warnings, Warning{Sink: sink.Name, Warning: w})
			}
		}
		if s, ok := sink.Sink.(bridge.Storing); ok {
			if storage, known := s.Storage(); known {
				r.Storage = append(r.Storage, SinkStorage{Sink: sink.Name, Storage: storage})
			}
		}
	}
	return r
}

func (p Parts) reports(w http.ResponseWriter, r *http.Request) {
	var nothing struct{}
	if readRequest(w, r, &nothing) {
		answer(w, p.Report())
	}
}

// askReport asks the bridge that runs on the data directory. Without one, or of another version, it knows nothing.
func askReport(ctx context.Context, dir string) (r Report) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if askOnce(ctx, dir, reportPath, struct{}{}, &r) != nil {
		return Report{}
	}
	return r
}
