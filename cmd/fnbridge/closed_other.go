//go:build !unix

package main

import "os"

// awaitClosed knows nothing here: the next write fails.
func awaitClosed(*os.File) bool { return false }
