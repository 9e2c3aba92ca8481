package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Stamped by the build with -ldflags "-X main.version=v1.2.3 -X main.revision=…".
var (
	version  = "dev"
	revision string
)

// buildInfo is what a binary knows of its making.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func build() buildInfo {
	b := buildInfo{
		Version: version, Revision: revision, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok && revision == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				b.Revision = s.Value
			}
		}
	}
	return b
}

// String is one line for people.
func (b buildInfo) String() string {
	from := ""
	if b.Revision != "" {
		from = " (" + b.Revision + ")"
	}
	return fmt.Sprintf("fnbridge %s%s %s %s", b.Version, from, b.Go, b.Platform)
}

func versionCommand(c console) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := build()
			if asJSON {
				return encoder(c.out).Encode(b)
			}
			_, err := fmt.Fprintln(c.out, b)
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
