package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/wire"
)

// keeper is the state of the goroutine that looks after connections and metadata. The goroutine writes
// generation and topology, anybody reads them.
type keeper struct {
	generation atomic.Pointer[generation] // nil until a broker has been reached
	topology   atomic.Pointer[topology]   // nil while the topic is not known
	role       role
	renewal    wire.Renewal

	described     chan struct{} // closed once the topic's settings have been asked for
	describedOnce sync.Once

	mu       sync.Mutex
	cause    error         // why topology is nil; nil: it is not
	round    chan struct{} // closed at the end of the next round
	wanted   bool          // somebody waits for a round
	stale    bool          // connections or metadata have shown to be out of date
	warnings []bridge.Warning

	// Of the keeper's goroutine alone.
	lastRound, lastConnect   time.Time
	lastVersion              int64 // of the credentials and certificates at lastConnect
	lastCreate, nextDescribe time.Time
	known                    []string  // brokers, as the metadata listed them last
	createErr                error     // of the last try
	seen, missingSince       time.Time // when the topic was there last, and since when it is not
	compared                 bool      // the topic has been compared with the options
	warnedInSync             bool
	warnedCompact            bool
	warnedBlocked            bool // of a topic of dead letters: the log has been told why it cannot be published to
}

// topology is the topic as the metadata shows it. It is not changed once made.
type topology struct {
	partitions []int    // 0 to the count less one
	leaders    []int    // by partition: a broker's ID, -1 for none
	addresses  []string // by partition: where its leader is, empty for none
	inSync     []int    // by partition: how many replicas are in sync
	replicas   int      // of the partition with the fewest
}

// partitionOf is the Java client's choice: murmur2 of the key, over all partitions whether they have a leader or not.
func (t *topology) partitionOf(key []byte) int {
	return kafkago.Murmur2Balancer{Consistent: true}.Balance(kafkago.Message{Key: key}, t.partitions...)
}

// keep runs the keeper until ctx ends.
func (s *Sink) keep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
			// What was asked for since the timer was set may not be due yet.
			if !time.Now().Before(s.due()) {
				s.lookAfter(ctx)
			}
		}
		timer.Reset(time.Until(s.due()))
	}
}

// due is when the next round is to run, given what has been asked for.
func (s *Sink) due() time.Time {
	k := &s.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	due := k.lastRound.Add(s.timing.refresh)
	// Other credentials than those that were tried last are tried at once.
	other := k.lastVersion != s.connector.version.Load()
	if k.wanted || k.stale || other {
		due = k.lastRound.Add(s.timing.pace)
	}
	if outdated := s.outdated(); !other && (k.stale || outdated || k.generation.Load() == nil) {
		pause := s.timing.reset
		if outdated {
			pause = s.timing.blocked
		}
		if bridge.KindOf(k.cause) == bridge.FailureBlocked {
			pause = s.timing.blocked
		}
		if allowed := k.lastConnect.Add(pause); due.Before(allowed) {
			due = allowed
		}
	}
	return due
}

// awaitTopology returns the topic as it is known. While it is not, it waits for the keeper's next round, and
// returns the cause if that does not find it.
func (s *Sink) awaitTopology(ctx context.Context) (*topology, error) {
	if t := s.keeper.topology.Load(); t != nil {
		return t, nil
	}
	round := s.ask(func(k *keeper) { k.wanted = true })
	select {
	case <-round:
	case <-s.stopping:
		return nil, errClosed
	case <-ctx.Done():
		return nil, s.explain(s.place(), context.Cause(ctx))
	}
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	return s.keeper.topology.Load(), s.keeper.cause
}

// noteStale has the keeper renew the connections, and with them the metadata.
func (s *Sink) noteStale() { s.ask(func(k *keeper) { k.stale = true }) }

func (s *Sink) ask(what func(k *keeper)) (round <-chan struct{}) {
	k := &s.keeper
	k.mu.Lock()
	what(k)
	round = k.round
	k.mu.Unlock()
	s.wakeUp()
	return round
}

func (s *Sink) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// lookAfter is one round: connections if they are needed, then what the metadata says.
func (s *Sink) lookAfter(ctx context.Context) {
	k := &s.keeper
	k.mu.Lock()
	renew := k.stale || s.outdated()
	k.stale, k.wanted = false, false
	k.mu.Unlock()

	topology, err := s.learn(ctx, renew)
	if ctx.Err() != nil {
		return
	}
	switch {
	case err == nil && k.role != reading:
		s.compare(topology)
	case k.role == burying:
		s.warnOfDeadLetters(err)
	}

	k.lastRound = time.Now()
	k.mu.Lock()
	k.topology.Store(topology)
	k.cause = err
	close(k.round)
	k.round = make(chan struct{})
	k.mu.Unlock()

	if err == nil && k.role != reading && !time.Now().Before(k.nextDescribe) {
		s.describe(ctx, topology)
		k.describedOnce.Do(func() { close(k.described) })
	}
}

// learn reads the topic's metadata, over new connections if the old ones are to be renewed, and creates the topic if it
// should.
func (s *Sink) learn(ctx context.Context, renew bool) (*topology, error) {
	k := &s.keeper
	if renew || k.generation.Load() == nil {
		if err := s.connect(ctx); err != nil {
			if k.generation.Load() == nil {
				return nil, err
			}
			// What there is may still serve some partitions, and its errors reach whom they concern.
			s.sayNotRenewed(err)
		}
	}
	topology, err := s.read(ctx)
	if err == nil {
		k.seen, k.missingSince = time.Now(), time.Time{}
		return topology, nil
	}
	if !isMissing(err) {
		return nil, s.explain(s.place(), err)
	}
	if !s.opts.CreateTopic {
		return nil, s.missing(err)
	}
	if time.Since(k.lastCreate) < s.timing.create {
		if k.createErr != nil {
			return nil, k.createErr
		}
		return nil, bridge.Retry(fmt.Errorf("%s: it has been created and does not show yet", s.place()))
	}
	k.lastCreate = time.Now()
	if k.createErr = s.create(ctx); k.createErr != nil {
		return nil, k.createErr
	}
	if topology, err = s.awaitCreated(ctx); err != nil {
		return nil, err
	}
	k.seen = time.Now()
	return topology, nil
}

// outdated tells whether the connections were made with other credentials or certificates than those of now, or with a
// login that ends soon.
func (s *Sink) outdated() bool {
	g := s.keeper.generation.Load()
	return g != nil && (g.version != s.connector.version.Load() || !g.renew.IsZero() && !time.Now().Before(g.renew))
}

func (s *Sink) sayNotRenewed(err error) {
	if !s.outdated() {
		s.log.Debug("cannot renew the Kafka connections", slog.Any("error", err))
		return
	}
	s.keeper.renewal.Failed(s.log, err)
}

// awaitCreated returns the topic that has just been created, once its leaders know that they lead it. Until then they
// refuse what the metadata sends them.
func (s *Sink) awaitCreated(ctx context.Context) (*topology, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timing.connect)
	defer cancel()
	pause := time.NewTicker(s.timing.pace)
	defer pause.Stop()
	for {
		// The library does not read its metadata again when a broker says that it does not lead.
		err := s.connect(ctx)
		var t *topology
		if err == nil {
			t, err = s.read(ctx)
		}
		if err == nil {
			err = errors.Join(s.askLeaders(ctx, t, t.partitions)...)
		}
		if err == nil {
			return t, nil
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil, bridge.Retry(&failure{
				text:  s.place() + ": it has been created and cannot be published to yet: " + inWords(err),
				cause: err,
			})
		}
	}
}

// connect puts a new generation in the place of the current one, once it has read the metadata. The brokers last known
// are asked when none of BROKERS answers, and not before: their addresses may have become another cluster's.
func (s *Sink) connect(ctx context.Context) error {
	k := &s.keeper
	k.lastConnect, k.lastVersion = time.Now(), s.connector.version.Load()
	err := s.connectTo(ctx, s.connector.brokers)
	if err != nil && len(k.known) > 0 && s.connectTo(ctx, k.known) == nil {
		s.log.Debug("connected by the brokers last known, since none of those configured answers", slog.Any("error", err))
		return nil
	}
	return err
}

func (s *Sink) connectTo(ctx context.Context, brokers []string) error {
	k := &s.keeper
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, s.timing.connect)
	defer cancel()
	next, err := beside(ctx, s.timing.beside, func(ctx context.Context) (*generation, error) {
		next, err := s.connector.open(ctx, s.connector.elsewhere(brokers, k.generation.Load()))
		if err != nil {
			return nil, err
		}
		_, err = request(ctx, next.client.Metadata, &kafkago.MetadataRequest{Topics: []string{s.opts.Topic}})
		if err != nil {
			next.abort()
		}
		return next, err
	}, func(g *generation) {
		if g != nil {
			g.abort()
		}
	})
	if err != nil {
		if k.generation.Load() == nil || s.outdated() {
			return s.firstContact(whole, brokers, err)
		}
		return s.explain("connecting to "+strings.Join(brokers, ", "), err)
	}
	if old := k.generation.Swap(next); old != nil {
		if old.version != next.version {
			s.log.Info("connected to Kafka anew, since credentials or certificates have changed")
		}
		k.renewal.Ended()
		old.retire()
	}
	return nil
}

// read takes the topic from the current generation's metadata.
func (s *Sink) read(ctx context.Context) (*topology, error) {
	topic, brokers, err := s.keeper.generation.Load().describeTopic(ctx, s.opts.Topic)
	if len(brokers) > 0 {
		s.keeper.known = brokers
	}
	if err != nil {
		return nil, err
	}
	t := &topology{
		partitions: make([]int, len(topic.Partitions)),
		leaders:    make([]int, len(topic.Partitions)),
		addresses:  make([]string, len(topic.Partitions)),
		inSync:     make([]int, len(topic.Partitions)),
		replicas:   len(topic.Partitions[0].Replicas),
	}
	for i, p := range topic.Partitions {
		if p.ID != i {
			return nil, fmt.Errorf("the metadata of its %d partitions leaves out number %d", len(topic.Partitions), i)
		}
		t.partitions[i] = i
		t.inSync[i] = len(p.Isr)
		t.replicas = min(t.replicas, len(p.Replicas))
		// A broker that the metadata does not list comes without a host.
		if t.leaders[i] = p.Leader.ID; p.Leader.Host == "" {
			t.leaders[i] = -1
		} else {
			t.addresses[i] = net.JoinHostPort(p.Leader.Host, strconv.Itoa(p.Leader.Port))
		}
	}
	return t, nil
}

// describeTopic returns the topic from the cached metadata, with at least one partition, and the addresses of the
// brokers.
func (g *generation) describeTopic(ctx context.Context, name string) (_ kafkago.Topic, brokers []string, _ error) {
	md, err := request(ctx, g.client.Metadata, &kafkago.MetadataRequest{Topics: []string{name}})
	if err != nil {
		return kafkago.Topic{}, nil, err
	}
	for _, b := range md.Brokers {
		brokers = append(brokers, net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
	}
	for _, topic := range md.Topics {
		switch {
		case topic.Name != name:
		case len(topic.Partitions) > 0:
			// An error beside partitions concerns some of them, and is theirs to report.
			return topic, brokers, nil
		case topic.Error != nil:
			return kafkago.Topic{}, brokers, topic.Error
		default:
			return kafkago.Topic{}, brokers, kafkago.LeaderNotAvailable
		}
	}
	return kafkago.Topic{}, brokers, kafkago.UnknownTopicOrPartition
}

// missing is the error for a topic that does not exist and is not ours to create. One that was there a moment ago
// may only be unknown to a broker that has just started.
func (s *Sink) missing(err error) error {
	k := &s.keeper
	if k.missingSince.IsZero() {
		k.missingSince = time.Now()
	}
	f := &failure{
		text: s.place() + ": it does not exist at " + strings.Join(s.opts.Brokers, ", ") +
			": create it, correct " + s.opts.Files.Variable(k.role.setting()) + ", or set " +
			s.opts.Files.Variable("CREATE_TOPIC") + " to true",
		cause: err,
	}
	if !k.seen.IsZero() && time.Since(k.missingSince) < s.timing.missing {
		return bridge.Retry(f)
	}
	return bridge.Blocked(f)
}

// place names the topic in errors.
func (s *Sink) place() string { return fmt.Sprintf("topic %q", s.opts.Topic) }

// isTopicMissing tells whether err, as a caller sees it, is about a topic that does not exist.
func isTopicMissing(err error) bool {
	return errors.Is(err, kafkago.UnknownTopicOrPartition)
}
