//go:build !linux

package charttest

import "testing"

func smallDisk(t *testing.T, _ int) string {
	t.Helper()
	lacks(t, "a small disk is mounted on Linux only")
	return ""
}
