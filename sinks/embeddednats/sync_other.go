//go:build !linux

package embeddednats

import (
	"errors"
	"os"
)

func canSync(string) bool { return false }

func syncFileSystem(*os.File) error { return errors.ErrUnsupported }

func forgetCached(string) {}
