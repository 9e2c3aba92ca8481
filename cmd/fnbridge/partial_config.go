package main

import (
	"errors"
	"os"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

// loadForSinks reads the configuration for a command that goes to the sinks' brokers. What is wrong with variables of
// the bridge that do not matter there does not stop it.
func loadForSinks(c console) (*config.Config, error) {
	cfg, warnings, err := app.LoadConfig(os.Environ())
	err = problemsFor(cfg, err, []string{
		"SINKS", "ACK", "DATA_DIR", "SUMMARY_EVENTS", "EMBEDDED_NATS_LISTEN", "EMBEDDED_NATS_TOKEN",
	}, nil)
	printWarnings(c.err, warnings) // a misspelt variable may be why another is missing
	return cfg, err
}

// loadForEvents reads the configuration for a command that looks at a journal and makes events of what is there. Of
// each sink it uses the variables in sinks.
func loadForEvents(sinks ...string) (*config.Config, error) {
	cfg, err := journalDirectory()
	if err != nil {
		return nil, err
	}
	_, _, err = app.LoadConfig(os.Environ())
	return cfg, problemsFor(cfg, err, []string{"SINKS", "SUMMARY_EVENTS"}, sinks)
}

// problemsFor returns err, all that is wrong, if some of it concerns these variables, as Errors.For has them.
func problemsFor(cfg *config.Config, err error, bridge, sinks []string) error {
	if all, ok := errors.AsType[config.Errors](err); ok && len(all.For(cfg, bridge, sinks)) == 0 {
		return nil
	}
	return err
}
