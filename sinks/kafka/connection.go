package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/fnbridge/fnbridge/bridge/reload"
	"github.com/fnbridge/fnbridge/bridge/tlsfiles"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

// clientID is what the brokers' logs and quotas know us by.
const clientID = "fnbridge"

// connector makes generations, and knows every connection that is open.
type connector struct {
	brokers []string // of BROKERS
	topic   string
	tls     *tlsfiles.Files
	login   *reload.Value[login]
	timing  timing
	log     *slog.Logger

	version atomic.Int64 // of the credentials and certificates: it grows with each change

	mu      sync.Mutex
	conns   map[*conn]struct{}
	reached map[string]bool // addresses that were connected to, ever
	closed  bool
}

func newConnector(o *Options, c checked, log *slog.Logger) *connector {
	return &connector{
		brokers: o.Brokers, topic: o.Topic, tls: c.tls, login: c.login, timing: o.timing, log: log,
		conns: make(map[*conn]struct{}), reached: make(map[string]bool),
	}
}

// generation is a client with a pool of connections and a cache of metadata of its own.
type generation struct {
	brokers   []string // where it starts from
	client    *kafkago.Client
	transport *kafkago.Transport
	connector *connector
	version   int64     // of the credentials and certificates that it connects with
	renew     time.Time // when another one has to take its place; zero: never
	retired   atomic.Bool
}

// open returns a new generation, which starts from brokers, with the credentials and certificates of this moment. It
// connects to none of them yet. The error is that of getting credentials.
func (c *connector) open(ctx context.Context, brokers []string) (*generation, error) {
	version := c.version.Load() // before they are read
	mechanism, renew, err := c.login.Get()(ctx)
	if err != nil {
		return nil, err
	}
	g := c.prepare(brokers, mechanism)
	g.version, g.renew = version, renew
	return g, nil
}

// prepare returns a new generation that logs in with mechanism, or not at all if that is nil.
func (c *connector) prepare(brokers []string, mechanism sasl.Mechanism) *generation {
	g := &generation{brokers: brokers, connector: c}
	g.transport = &kafkago.Transport{
		Dial:           g.dial,
		DialTimeout:    c.timing.dial,
		IdleTimeout:    c.timing.idle,
		MetadataTTL:    c.timing.metadata,
		MetadataTopics: []string{c.topic},
		ClientID:       clientID,
		SASL:           mechanism,
	}
	if c.tls != nil {
		g.transport.TLS = c.tls.Client()
	}
	// Without a Timeout the library leaks a goroutine for each cancelled call, and gives brokers half a second.
	g.client = &kafkago.Client{Addr: kafkago.TCP(brokers...), Timeout: c.timing.attempt, Transport: g}
	return g
}

// retire closes the connections that nobody uses, and the others as they fall idle. What is under way on them goes on.
func (g *generation) retire() {
	g.retired.Store(true)
	g.transport.CloseIdleConnections()
}

// RoundTrip sends the client's requests, and checks what a broker acknowledges. One that begins just as the generation
// is retired has the library make a new pool, which would ask for metadata for ever: it is retired too, once the
// request is through.
//
// Brokers end connections that lie idle (connections.max.idle.ms), and those whose login has run out
// (connections.max.reauth.ms), which a client learns from its next request; and the sink ends those of a broker that
// has been silent. That is no failure: the request goes out again until it had a connection of its own. An end of that
// one is an answer.
func (g *generation) RoundTrip(
	ctx context.Context, address net.Addr, req kafkago.Request,
) (res kafkago.Response, err error) {
	defer func() {
		if g.retired.Load() {
			g.transport.CloseIdleConnections()
		}
	}()
	_, cached := req.(*metadata.Request)
	for {
		fresh := new(atomic.Bool)
		res, err = g.transport.RoundTrip(context.WithValue(ctx, freshKey{}, fresh), address, req)
		ended := isCut(err) || errors.Is(err, net.ErrClosed)
		if err == nil || cached || !ended || fresh.Load() || ctx.Err() != nil || !rewind(req) {
			break
		}
	}
	if asked, ok := req.(*produce.Request); ok {
		err = checkAcknowledgement(asked, res, err)
	}
	return res, err
}

// request makes a call of the client. A panic of the library at what a broker answers is an error of the call.
func request[Req, Res any](
	ctx context.Context, call func(context.Context, *Req) (*Res, error), req *Req,
) (res *Res, err error) {
	defer recovered(&err)
	return call(ctx, req)
}

// freshKey is where the context of a request has an *atomic.Bool, which is set when a connection is made for it.
type freshKey struct{}

// rewind has a request that was sent ready to be sent again.
func rewind(req kafkago.Request) bool {
	asked, ok := req.(*produce.Request)
	if !ok {
		return true
	}
	for i := range asked.Topics[0].Partitions {
		records, ok := asked.Topics[0].Partitions[i].RecordSet.Records.(*recordReader)
		if !ok {
			return false
		}
		records.rewind()
	}
	return true
}

// produce sends a request whose answer is for each batch of it.
func (g *generation) produce(ctx context.Context, req *produce.Request) (*produce.Response, error) {
	res, err := g.RoundTrip(ctx, g.client.Addr, req)
	if err != nil {
		return nil, err
	}
	return res.(*produce.Response), nil //nolint:forcetypeassert // checkAcknowledgement has looked
}

// checkAcknowledgement returns an error unless res acknowledges, or refuses, each batch that was asked for, and nothing
// else. The library takes a batch without records for one that was stored.
func checkAcknowledgement(asked *produce.Request, res kafkago.Response, err error) error {
	if errors.Is(err, protocol.ErrNoRecord) {
		return errors.New("nothing was sent, since there was no record to send")
	}
	if err != nil {
		return err
	}
	topic := asked.Topics[0]
	answer, ok := res.(*produce.Response)
	if !ok || len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != len(topic.Partitions) {
		return fmt.Errorf("not stored: the broker was asked for %d partitions of one topic, "+
			"and does not answer for as many; is it a broker of Kafka?", len(topic.Partitions))
	}
	open := make(map[int32]bool, len(topic.Partitions))
	for i := range topic.Partitions {
		open[topic.Partitions[i].Partition] = true
	}
	for i := range answer.Topics[0].Partitions {
		got := &answer.Topics[0].Partitions[i]
		if answer.Topics[0].Topic != topic.Topic || !open[got.Partition] {
			return fmt.Errorf("not stored: the broker answers for topic %q partition %d, "+
				"and was asked for others, of topic %q; is it a broker of Kafka?",
				answer.Topics[0].Topic, got.Partition, topic.Topic)
		}
		open[got.Partition] = false
		if got.ErrorCode == 0 && got.BaseOffset < 0 {
			return fmt.Errorf("not stored: the broker acknowledges a batch for topic %q partition %d without an offset; "+
				"is it a broker of Kafka?",
				topic.Topic, got.Partition)
		}
	}
	return nil
}

// abort closes the generation's connections whatever is under way.
func (g *generation) abort() {
	g.retire()
	g.connector.closeWhere(func(c *conn) bool { return c.generation == g })
}

func (g *generation) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if fresh, ok := ctx.Value(freshKey{}).(*atomic.Bool); ok {
		fresh.Store(true)
	}
	ctx, cancel := context.WithTimeout(ctx, g.connector.timing.dialTCP)
	defer cancel()
	raw, err := wire.Dial(ctx, network, address)
	if err != nil {
		if g.connector.onlyAdvertised(address) {
			err = &advertisedError{address, err}
		}
		return nil, err
	}
	c := &conn{Conn: raw, generation: g, address: address, silence: g.connector.timing.silence}
	if !g.connector.add(c, address) {
		_ = raw.Close()
		return nil, errClosed
	}
	if g.connector.tls == nil {
		return &plainConn{Conn: c, address: address}, nil
	}
	return c, nil
}

// onlyAdvertised tells whether nobody but the cluster has ever shown that a broker is at the address.
func (c *connector) onlyAdvertised(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.reached[address] && !slices.Contains(c.brokers, address)
}

func (c *connector) add(open *conn, address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.reached[address] = true
	c.conns[open] = struct{}{}
	return true
}

// elsewhere returns those of the brokers that no try to connect is waiting for beside the current generation, which may
// be nil; all of them if there is no other. The library takes what it is given in any order: a try that begins because
// another hangs would often hang at the same broker.
func (c *connector) elsewhere(brokers []string, current *generation) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	waitedFor := make(map[string]bool)
	for open := range c.conns {
		if open.generation != current && !open.generation.retired.Load() {
			waitedFor[open.address] = true
		}
	}
	others := slices.DeleteFunc(slices.Clone(brokers), func(b string) bool { return waitedFor[b] })
	if len(others) == 0 {
		return brokers
	}
	return others
}

func (c *connector) remove(open *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, open)
}

// close closes every connection and refuses new ones.
func (c *connector) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.closeWhere(func(*conn) bool { return true })
}

func (c *connector) closeWhere(match func(*conn) bool) {
	c.mu.Lock()
	var matching []*conn
	for open := range c.conns {
		if match(open) {
			matching = append(matching, open)
		}
	}
	c.mu.Unlock()
	for _, open := range matching {
		_ = open.Close()
	}
}

// conn is a connection whose every read and write ends in time. The client library sets deadlines for most
// of what it does, but clears them before it authenticates: a broker that falls silent then would hold
// the client's only path to metadata for ever.
type conn struct {
	net.Conn
	generation *generation
	address    string
	silence    time.Duration

	mu          sync.Mutex
	read, write time.Time // what the library has set; zero: nothing
}

func (c *conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	err := c.Conn.SetReadDeadline(c.earliest(c.read))
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	err := c.Conn.SetWriteDeadline(c.earliest(c.write))
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) earliest(set time.Time) time.Time {
	if limit := time.Now().Add(c.silence); set.IsZero() || set.After(limit) {
		return limit
	}
	return set
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.Conn.SetReadDeadline(c.earliest(t))
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write = t
	return c.Conn.SetWriteDeadline(c.earliest(t))
}

func (c *conn) Close() error {
	c.generation.connector.remove(c)
	return c.Conn.Close()
}
