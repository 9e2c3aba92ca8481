package wire

import (
	"log/slog"
	"sync"

	"github.com/fnbridge/fnbridge/bridge"
)

// Renewal is whether connections can be made with the credentials and certificates of now, while those that were made
// with older ones stay in use: nothing else shows that they fail, until the old connections end. It is safe for
// concurrent use.
type Renewal struct {
	mu   sync.Mutex
	text string // why none can be made; empty: that is not known to be so
}

const notRenewed = "no connection can be made with the credentials and certificates of now; " +
	"those that were made before stay in use until they end"

// Failed notes why none can be made, and tells log of each new reason.
func (r *Renewal) Failed(log *slog.Logger, err error) {
	r.mu.Lock()
	before := r.text
	r.text = err.Error()
	r.mu.Unlock()
	if err.Error() != before {
		log.Warn(notRenewed, "error", err)
	}
}

// Ended notes that there are new connections, or no old ones any more.
func (r *Renewal) Ended() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text = ""
}

// Warnings returns what is to be warned of now.
func (r *Renewal) Warnings() []bridge.Warning {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.text == "" {
		return nil
	}
	return []bridge.Warning{{Key: "credentials_refused", Text: notRenewed + ": " + r.text}}
}
