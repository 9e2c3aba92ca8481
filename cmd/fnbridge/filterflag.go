package main

import (
	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
)

// addEventFilter adds the flags by which commands select events.
func addEventFilter(cmd *cobra.Command, filter *admin.EventFilter) {
	f := cmd.Flags()
	f.Var(routesFlag{filter}, "route", "only events whose {route} matches one of these patterns, such as "+
		"'application.*.request.failed'")
	f.StringVar(&filter.Application, "application", "", "only events of this application, or workflow")
	f.StringVar(&filter.Application, "workflow", "", "the same as --application")
	f.StringVar(&filter.Type, "type", "", "only events of this type; one that ends in * stands for all that begin so")
}

// routesFlag is a flag with patterns of routes.
type routesFlag struct{ filter *admin.EventFilter }

func (f routesFlag) String() string {
	if f.filter == nil {
		return ""
	}
	return f.filter.Routes.String()
}

func (f routesFlag) Set(text string) (err error) {
	f.filter.Routes, err = app.ParseRoutes(text)
	return err
}

func (f routesFlag) Type() string { return "patterns" }
