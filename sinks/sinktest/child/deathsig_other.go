//go:build !linux

package child

import "syscall"

// dieWithParent has no way to say so on this system: a test that panics leaves its children running.
func dieWithParent(*syscall.SysProcAttr) {}
