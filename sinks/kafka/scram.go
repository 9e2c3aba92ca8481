package kafka

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"github.com/segmentio/kafka-go/sasl"
)

// maxSCRAMRounds is far above the 16384 that Kafka allows, and costs about a second.
const maxSCRAMRounds = 1_000_000

// boundedSCRAM refuses a challenge that asks for more work than any broker means, which nothing could stop.
type boundedSCRAM struct{ sasl.Mechanism }

// Start implements sasl.Mechanism.
func (m boundedSCRAM) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	login, first, err := m.Mechanism.Start(ctx)
	return boundedLogin{login}, first, err
}

type boundedLogin struct{ sasl.StateMachine }

// Next implements sasl.StateMachine. It runs on a goroutine of the library, so a panic there would end the process.
func (l boundedLogin) Next(ctx context.Context, challenge []byte) (done bool, response []byte, err error) {
	defer recovered(&err)
	for field := range bytes.SplitSeq(challenge, []byte(",")) {
		rounds, ok := bytes.CutPrefix(field, []byte("i="))
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(string(rounds)); err != nil || n > maxSCRAMRounds {
			return false, nil, fmt.Errorf("the broker asks for %q rounds of SCRAM, and the most is %d; is it a broker of Kafka?",
				rounds, maxSCRAMRounds)
		}
	}
	return l.StateMachine.Next(ctx, challenge)
}
