package app

import (
	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// ParseRoutes reads a list of patterns of routes, and refuses one that no event's route can match.
func ParseRoutes(text string) (bridge.Routes, error) {
	routes, err := bridge.ParseRoutes(text)
	if err == nil {
		err = tensorlake.CheckRoutes(routes)
	}
	return routes, err
}
