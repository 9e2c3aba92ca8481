//go:build !linux

package apachekafka

import "syscall"

// dieWithParent has no way to say so on this system: a test that panics leaves its brokers running.
func dieWithParent(*syscall.SysProcAttr) {}
