package kafka

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/faultproxy"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	sinktest.Run(t, func(t *testing.T) sinktest.Broker { return newFaulty(t, 3).broker() })
}

// faulty is a kfake cluster whose brokers stand behind proxies and keep what they store over a restart.
type faulty struct {
	t       *testing.T
	cluster *kfake.Cluster
	dir     string
	at      kfake.Opt // where its brokers listen, also when they come back

	mu      sync.Mutex
	proxies map[int]*faultproxy.Proxy // by the port of the broker itself
}

func newFaulty(t *testing.T, brokers int) *faulty {
	t.Helper()
	f := &faulty{t: t, dir: t.TempDir(), at: reserved(t, brokers), proxies: make(map[int]*faultproxy.Proxy)}
	f.start(t, f.at)
	t.Cleanup(func() { f.cluster.Close() })
	for _, topic := range []string{testTopic, testDeadLetters} {
		require.NoError(t, f.cluster.CreateTopic(topic, 4, map[string]string{maxMessageBytes: "100000"}))
	}
	return f
}

func (f *faulty) start(t *testing.T, opts ...kfake.Opt) {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.DataDir(f.dir), kfake.SyncWrites(), kfake.ListenFn(f.listen))...)
	require.NoError(t, err)
	f.cluster = c
}

// listen opens a broker's port, and has it tell clients of its proxy instead.
func (f *faulty) listen(network, address string) (net.Listener, error) {
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	f.mu.Lock()
	defer f.mu.Unlock()
	proxy := f.proxies[port]
	if proxy == nil {
		proxy = faultproxy.New(f.t, listener.Addr().String())
		f.proxies[port] = proxy
	}
	at, err := net.ResolveTCPAddr("tcp", proxy.Addr())
	return advertised{listener, at}, err
}

type advertised struct {
	net.Listener
	at net.Addr
}

func (a advertised) Addr() net.Addr { return a.at }

func (f *faulty) each(do func(*faultproxy.Proxy)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.proxies {
		do(p)
	}
}

// recordsIn reads what was stored as events.
func recordsIn(t *testing.T, stored [][]*kgo.Record) []sinktest.Record {
	t.Helper()
	var all []sinktest.Record
	for partition, records := range stored {
		for _, r := range records {
			e, err := cloudevents.Decode(headersOf(r), cloudevents.KafkaPrefix, r.Value)
			require.NoError(t, err)
			all = append(all, sinktest.Record{Partition: partition, Event: e})
		}
	}
	return all
}

// lettersIn reads what was stored as dead letters.
func lettersIn(t *testing.T, stored [][]*kgo.Record) []sinktest.Letter {
	t.Helper()
	var all []sinktest.Letter
	for _, r := range slices.Concat(stored...) {
		all = append(all, sinktest.ReadLetter(t, headersOf(r), cloudevents.KafkaPrefix, r.Value))
	}
	return all
}

func headersOf(r *kgo.Record) []cloudevents.Header {
	headers := make([]cloudevents.Header, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = cloudevents.Header{Name: h.Key, Value: string(h.Value)}
	}
	return headers
}

func (f *faulty) broker() sinktest.Broker {
	addresses := f.cluster.ListenAddrs()
	var o Options
	hasty(&o)
	var late *kfake.FaultHandle
	return sinktest.Broker{
		NewSink: func(t *testing.T) bridge.Sink {
			t.Helper()
			s, err := New(testOptions(t, addresses, hasty))
			require.NoError(t, err)
			return s
		},
		DeadLetters: &sinktest.DeadLetterTest{
			NewSink: func(t *testing.T) bridge.DeadLetterPublisher {
				t.Helper()
				s, err := New(testOptions(t, addresses, hasty, withDeadLetters))
				require.NoError(t, err)
				return s
			},
			Stored:    func(t *testing.T) []sinktest.Letter { return lettersIn(t, storedIn(t, f.cluster, testDeadLetters)) },
			AddressOf: func(bridge.Event) string { return testTopic },
		},
		Stored:       func(t *testing.T) []sinktest.Record { return recordsIn(t, stored(t, f.cluster)) },
		TooLarge:     100_001,
		PublishBound: o.timing.publish + slack,
		RecoverBound: within,
		Faults: sinktest.Faults{
			Unreachable: true,
			Stop:        func(*testing.T) { f.cluster.Close() },
			Start: func(t *testing.T) {
				t.Helper()
				f.start(t, f.at)
			},
			Stall:            func(*testing.T) { f.each((*faultproxy.Proxy).Stall) },
			StallMidResponse: func(*testing.T) { f.each(func(p *faultproxy.Proxy) { p.StallAnswersAfter(7) }) },
			Resume:           func(*testing.T) { f.each((*faultproxy.Proxy).Resume) },
			DropConnections:  func(*testing.T) { f.each((*faultproxy.Proxy).Cut) },
			CutMidResponse: func(t *testing.T) {
				t.Helper()
				cut := make(chan struct{}, len(f.proxies))
				f.each(func(p *faultproxy.Proxy) {
					done := p.CutAnswersAfter(7)
					go func() {
						select {
						case <-done:
							cut <- struct{}{}
						case <-t.Context().Done():
						}
					}()
				})
				select {
				case <-cut:
				case <-time.After(within):
					require.FailNow(t, "no answer came to be cut")
				}
			},
			ChangeLeader: func(t *testing.T) {
				t.Helper()
				for partition := range int32(len(f.cluster.PartitionInfos(testTopic))) {
					next := (f.cluster.LeaderFor(testTopic, partition) + 1) % int32(len(f.proxies))
					require.NoError(t, f.cluster.MoveTopicPartition(testTopic, partition, next))
				}
			},
			AnswerLate: func(*testing.T) {
				late = f.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
			},
			AnswerInTime: func(*testing.T) { late.Remove() },
		},
	}
}
