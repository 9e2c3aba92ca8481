//go:build linux

package torture

import "testing"

type diskSide struct{}

func startDisk(t *testing.T) *diskSide { t.Helper(); return &diskSide{} }

func (d *diskSide) env() []string   { return []string{"DATA_DIR=" + "TODO"} }
func (d *diskSide) faults() []fault { return nil }
