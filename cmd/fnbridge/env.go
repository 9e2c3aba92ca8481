package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

// envColumns is how wide the list is where no terminal says how wide it is.
const envColumns = 100

func envCommand(c console) *cobra.Command {
	var asJSON, asMarkdown bool
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print every environment variable with its type, default and meaning",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			switch {
			case asJSON && asMarkdown:
				return usageError{errors.New("--json and --markdown exclude each other")}
			case asJSON:
				e := encoder(c.out)
				e.SetIndent("", "  ")
				return e.Encode(config.Variables(app.Kinds()))
			case asMarkdown:
				return config.WriteMarkdown(c.out, app.Kinds())
			default:
				columns := c.columns()
				if columns == 0 {
					columns = envColumns
				}
				return config.WriteText(c.out, app.Kinds(), columns)
			}
		},
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&asMarkdown, "markdown", false, "print the tables of docs/configuration.md")
	return cmd
}
