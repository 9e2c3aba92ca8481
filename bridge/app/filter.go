package app

import (
	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
	"github.com/fnbridge/fnbridge/config"
)

// EventFilter selects events: those to which every field that is set applies. The zero filter selects all.
type EventFilter = bridge.Filter

// ParseRoutes reads a list of patterns of routes, and refuses one that no event's route can match.
func ParseRoutes(text string) (bridge.Routes, error) {
	routes, err := bridge.ParseRoutes(text)
	if err == nil {
		err = tensorlake.CheckRoutes(routes)
	}
	return routes, err
}

// routesOf returns the routes of a sink, and those of every event for one that is not configured.
func routesOf(cfg *config.Config, sink string) (bridge.Routes, error) {
	for _, s := range cfg.Sinks {
		if s.Name == sink {
			return ParseRoutes(s.Routes)
		}
	}
	return bridge.Routes{}, nil
}
