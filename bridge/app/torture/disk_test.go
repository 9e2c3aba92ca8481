//go:build linux

package torture

import "testing"

type diskSide struct{ dir string }

func startDisk(t *testing.T) *diskSide { t.Helper(); return &diskSide{dir: t.TempDir()} }

func (d *diskSide) env() []string   { return []string{"DATA_DIR=" + d.dir} }
func (d *diskSide) faults() []fault { return nil }
