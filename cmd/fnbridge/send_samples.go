package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

func findSample(name string) (admin.Sample, error) {
	samples := admin.Samples()
	i := slices.IndexFunc(samples, func(s admin.Sample) bool { return s.Name == name })
	if i < 0 {
		return admin.Sample{}, usageError{fmt.Errorf("no sample is called %q; \"fnbridge send --list\" lists them", name)}
	}
	return samples[i], nil
}

func listSamples(c console, asJSON bool) error {
	samples := admin.Samples()
	if asJSON {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(samples)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SAMPLE\tTELLS\tEVENTS")
	for _, s := range samples {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.About, strings.Join(s.Types, ", "))
	}
	return w.Flush()
}
