package nats_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natsserver.Leftovers()...) }

const (
	// patience is for the answers of a server that is well, on a machine that is busy.
	patience = 20 * time.Second
	// ackTimeout is for those of one that is not, which tests wait for in vain.
	ackTimeout = time.Second
	// publishBound is what Publish promises then.
	publishBound = 8 * ackTimeout
	deadLetters  = natsserver.DeadLetters + "tensorlake"
)

func template(tb testing.TB, text string) bridge.Template {
	tb.Helper()
	subject, err := bridge.ParseTemplate(text)
	require.NoError(tb, err)
	return subject
}

// options are those of a sink with the contract's defaults.
func options(tb testing.TB, url string) nats.Options {
	tb.Helper()
	return nats.Options{
		Name: "nats", URL: url, Stream: "TENSORLAKE", CreateStream: true, Replicas: 1,
		MaxAge: 168 * time.Hour, DedupeWindow: 10 * time.Minute,
		Subject: template(tb, "tensorlake.{route}"), AckTimeout: patience,
	}
}

func newSink(tb testing.TB, o nats.Options) *nats.Sink {
	tb.Helper()
	sink, err := nats.New(o)
	require.NoError(tb, err)
	return sink
}

func TestSingleServer(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, func(t *testing.T) sinktest.Broker { return brokerOf(t, natsserver.Single(t)) })
}

func TestServerOfAnotherVersion(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Broker { return brokerOf(t, natsserver.OfAnotherVersion(t)) })
	t.Run("tail", func(t *testing.T) {
		o := options(t, natsserver.OfAnotherVersion(t).URL())
		requirePublishes(t, open(t, o), "version")
		require.Equal(t, "version-0", startTail(t, o, bridge.TailStart{All: true}).next(t).Event.ID)
	})
}

// single is a server of this version or another.
type single interface {
	Addr() string
	URL() string
	Start(tb testing.TB)
	Stop(tb testing.TB)
}

// brokerOf describes one server, behind a proxy that plays faults.
func brokerOf(t *testing.T, srv single) sinktest.Broker {
	t.Helper()
	proxy := faultproxy.New(t, srv.Addr())
	o := options(t, "nats://"+proxy.Addr())
	o.AckTimeout = ackTimeout
	withLetters := o
	withLetters.DeadLetter = deadLetters
	return sinktest.Broker{
		NewSink: func(t *testing.T) bridge.Sink { return newSink(t, o) },
		DeadLetters: &sinktest.DeadLetterTest{
			NewSink:   func(t *testing.T) bridge.DeadLetterPublisher { return newSink(t, withLetters) },
			Stored:    func(t *testing.T) []sinktest.Letter { return natsserver.Letters(t, srv.URL(), "TENSORLAKE") },
			AddressOf: natsserver.Subject("tensorlake"),
		},
		Stored:       func(t *testing.T) []sinktest.Record { return natsserver.Records(t, srv.URL(), "TENSORLAKE") },
		TooLarge:     2 << 20,
		PublishBound: publishBound,
		RecoverBound: 3 * bound,
		Faults: sinktest.Faults{
			Stop:             func(t *testing.T) { srv.Stop(t) },
			Start:            func(t *testing.T) { srv.Start(t) },
			Unreachable:      true,
			Stall:            func(*testing.T) { proxy.Stall() },
			StallMidResponse: func(*testing.T) { proxy.StallAnswersAfter(7) },
			Resume:           func(*testing.T) { proxy.Resume() },
			DropConnections:  func(*testing.T) { proxy.Cut() },
			CutMidResponse:   func(*testing.T) { <-proxy.CutAnswersAfter(7) },
			AnswerLate:       func(*testing.T) { proxy.DelayAnswers(ackTimeout + ackTimeout/4) },
			AnswerInTime:     func(*testing.T) { proxy.Resume() },
		},
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Cluster(t, 3) // elections take seconds, so that each subtest gets a stream, not a cluster
	streams := 0
	sinktest.Run(t, func(t *testing.T) sinktest.Broker {
		streams++
		stream, first := fmt.Sprintf("TENSORLAKE_%d", streams), fmt.Sprintf("tensorlake_%d", streams)
		o := options(t, cluster.URL())
		o.Replicas, o.AckTimeout = 3, ackTimeout
		o.Stream = stream
		o.Subject = template(t, first+".{route}")
		withLetters := o
		withLetters.DeadLetter = natsserver.DeadLetters + first
		return sinktest.Broker{
			NewSink: func(t *testing.T) bridge.Sink { return newSink(t, o) },
			DeadLetters: &sinktest.DeadLetterTest{
				NewSink:   func(t *testing.T) bridge.DeadLetterPublisher { return newSink(t, withLetters) },
				Stored:    func(t *testing.T) []sinktest.Letter { return natsserver.Letters(t, cluster.URL(), stream) },
				AddressOf: natsserver.Subject(first),
			},
			Stored:       func(t *testing.T) []sinktest.Record { return natsserver.Records(t, cluster.URL(), stream) },
			TooLarge:     2 << 20,
			PublishBound: publishBound,
			RecoverBound: 3 * bound,
			Faults: sinktest.Faults{
				Stop:        func(t *testing.T) { cluster.Stop(t) },
				Start:       func(t *testing.T) { cluster.Start(t) },
				Unreachable: true,
				ChangeLeader: func(t *testing.T) {
					// The leader dies, another takes over, and the dead one comes back.
					leader := cluster.Leader(t, stream)
					leader.Stop(t)
					cluster.Leader(t, stream)
					cluster.Start(t)
				},
			},
		}
	})
}
