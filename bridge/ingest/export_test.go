package ingest

import "time"

// SetClock replaces the clock of c, which must not be in use yet.
func SetClock(c *Certificates, now func() time.Time) {
	c.now = now
	c.start = now()
}
