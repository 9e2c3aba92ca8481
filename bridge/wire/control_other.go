//go:build !linux

package wire

import "syscall"

// control does nothing: only Linux has a limit for what is unacknowledged. Keepalive is everywhere.
func control(string, string, syscall.RawConn) error { return nil }
