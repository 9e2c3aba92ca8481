package main

import (
	"fmt"
	"slices"
	"strings"

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
		e := encoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(samples)
	}
	rows := make([][]string, 0, len(samples))
	for _, s := range samples {
		rows = append(rows, []string{s.Name, s.About, strings.Join(s.Types, ", ")})
	}
	return c.table([]string{"SAMPLE", "TELLS", "EVENTS"}, rows)
}
