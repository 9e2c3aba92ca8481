//go:build !linux

package journal

import (
	"context"
	"errors"
)

// appendPastAFileSizeLimit belongs to a test that runs on Linux alone.
func appendPastAFileSizeLimit(context.Context, *Journal) error { return errors.ErrUnsupported }
