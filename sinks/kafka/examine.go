package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

var _ bridge.Examined = (*Sink)(nil)

// Examine implements bridge.Examined. Whether the user may write, and what time a broker has, Kafka tells only of what
// is published.
func (s *Sink) Examine(ctx context.Context, largest bridge.Largest) []bridge.Step {
	steps := wire.Examine(ctx, s.opts.Brokers)
	if last := steps[len(steps)-1]; last.Err != nil {
		return steps
	}
	step := s.examineTLS(ctx)
	if steps = append(steps, step); step.Err != nil {
		return steps
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.attempt)
	defer cancel()
	t, err := s.awaitTopology(ctx)
	login := bridge.Step{Name: "authentication", Detail: "no SASL is configured"}
	if s.opts.SASLMechanism != "" {
		login.Detail = s.opts.SASLMechanism + " accepted"
	}
	if isLogin(err) {
		return append(steps, bridge.Step{Name: login.Name, Err: err})
	}
	topic := "topic " + s.opts.Topic
	if err != nil {
		return append(steps, bridge.Step{Name: topic, Err: err})
	}
	s.awaitDescribed(ctx)
	most := s.limits.maxBytes.Load()
	detail := fmt.Sprintf("%d partitions, %d replicas, batches of at most %d bytes", len(t.partitions), t.replicas, most)
	if most == 0 {
		detail = fmt.Sprintf("%d partitions, %d replicas; its limits are not shown to this user",
			len(t.partitions), t.replicas)
	}
	return append(steps, login,
		wire.Clock(time.Time{}, time.Time{}, time.Time{}),
		wire.Fits(topic, detail, largest, most, maxMessageBytes),
		bridge.Step{Name: "permission to publish", Detail: "Kafka tells when something is published", Skipped: true})
}

// examineTLS makes a connection of its own to the first broker that can be reached, for its certificate.
func (s *Sink) examineTLS(ctx context.Context) bridge.Step {
	if s.connector.tls == nil {
		return bridge.Step{Name: "TLS", Detail: "not used", Skipped: true}
	}
	var last error
	for _, broker := range s.opts.Brokers {
		raw, err := wire.Dial(ctx, "tcp", broker)
		if err != nil {
			last = err
			continue
		}
		config := s.connector.tls.Client()
		config.ServerName, _, _ = net.SplitHostPort(broker)
		conn := tls.Client(raw, config)
		limited, cancel := context.WithTimeout(ctx, wire.Connect)
		err = conn.HandshakeContext(limited)
		cancel()
		state := conn.ConnectionState()
		_ = raw.Close()
		if err != nil {
			return bridge.Step{Name: "TLS", Err: s.explain("TLS with "+broker, err)}
		}
		return wire.Certificate(state, time.Now())
	}
	return bridge.Step{Name: "TLS", Err: s.explain("TLS", last)}
}

// isLogin tells whether err is of a broker that does not take the credentials.
func isLogin(err error) bool {
	code, _ := errors.AsType[kafkago.Error](err)
	switch code {
	case kafkago.SASLAuthenticationFailed, kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState:
		return true
	default:
		return errors.Is(err, errOldSASL)
	}
}
