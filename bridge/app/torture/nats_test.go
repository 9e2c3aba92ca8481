//go:build linux

package torture

import "context"

// natsSide is a NATS cluster of three server processes behind proxies.
type natsSide struct{}

func (n *natsSide) env() []string                          { return nil }
func (n *natsSide) consume(ctx context.Context, l *ledger) {}
func (n *natsSide) faults() []fault                        { return nil }

// cut the connections between bridge and NATS, stall them, or let them go on.
func (n *natsSide) stall()   {}
func (n *natsSide) unstall() {}
