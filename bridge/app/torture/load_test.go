//go:build linux

package torture

import "context"

// load sends webhooks as the real sender does.
type load struct{}

// pause returns once no request is under way, and none begins until resume.
func (l *load) pause(ctx context.Context) {}

func (l *load) resume() {}

// accepted counts webhooks that were answered with 2xx, refused answers 503, since the beginning.
func (l *load) accepted() int64 { return 0 }
func (l *load) refused() int64  { return 0 }

// forget says that the bridge may from now on take a webhook for new that it has accepted before.
func (l *load) forget() {}
