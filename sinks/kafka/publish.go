package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"

	"github.com/fnbridge/fnbridge/bridge"
)

const (
	// A batch is kept below both, by an estimate that is never too low.
	maxBatchRecords = 2048
	maxBatchBytes   = 900_000

	// What the record format adds at most: to a batch, to a record, to a header.
	batchOverhead  = 100
	recordOverhead = 40
	headerOverhead = 10

	// The largest request that a broker takes by default (socket.request.max.bytes). It cuts the connection
	// on a larger one without a word, which would be tried again for ever.
	maxRequestBytes = 100 << 20
)

// record is one of a call's records, on its way to a partition. Nothing of it changes: a Produce that was given up
// reads it for as long as it likes.
type record struct {
	index      int // in the call
	event      *bridge.Event
	key, value []byte
	headers    []kafkago.Header
	size       int // estimate
}

// errUnanswered is the result of an event that has none of its own. Only a broker's answer makes it nil.
var errUnanswered = bridge.Retry(errors.New("not stored"))

// call is one call of Publish, or of PublishDeadLetters.
type call struct {
	sink    *Sink
	results []error
}

// part is what there is for one partition: of a call, or of a request.
type part struct {
	partition int
	records   []record
}

// Publish stores events in the partitions of their keys, partitions in parallel, each in the order of events. What one
// broker leads goes in one request, as far as a partition's first batch reaches.
// It returns within 20 seconds even if ctx does not end; events that it has not got to by then end in Retry.
//
// Order is Kafka's: within a partition. When a batch fails, the later events of its partition are not sent.
// An event that the brokers can never store is rejected and holds back no other.
func (s *Sink) Publish(ctx context.Context, events []bridge.Event) []error {
	return s.publish(ctx, len(events), s.eventRecord(events))
}

// publish stores n records. write makes the i-th, or says why it cannot be made.
func (s *Sink) publish(ctx context.Context, n int, write func(i int) (record, error)) []error {
	c := &call{sink: s, results: same(n, errUnanswered)}
	if len(c.results) == 0 {
		return c.results
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.timing.publish,
		fmt.Errorf("not done within %v", s.timing.publish))
	defer cancel()
	topology, err := s.awaitTopology(ctx)
	if err != nil {
		return same(len(c.results), mark(bridge.KindOf(err), err))
	}
	var wg sync.WaitGroup
	for _, parts := range topology.byLeader(c.records(topology, write)) {
		wg.Go(func() { c.publishParts(ctx, parts) })
	}
	wg.Wait()
	return c.results
}

// byLeader puts parts together that one broker leads, and leaves alone those of partitions that none is known to lead.
func (t *topology) byLeader(parts []part) (together [][]part) {
	at := make(map[int]int, 1)
	for _, p := range parts {
		leader := t.leader(p.partition)
		i, known := at[leader]
		if known && leader >= 0 {
			together[i] = append(together[i], p)
			continue
		}
		at[leader] = len(together)
		together = append(together, []part{p})
	}
	return together
}

func same(n int, err error) []error {
	results := make([]error, n)
	for i := range results {
		results[i] = err
	}
	return results
}

// records sorts what is to be stored by partition, in the order of partitions. What can never be stored gets its result
// at once.
func (c *call) records(t *topology, write func(i int) (record, error)) (parts []part) {
	places := make(map[int]int, 1)
	for i := range c.results {
		r, err := write(i)
		if err != nil {
			c.results[i] = bridge.Reject(fmt.Errorf("writing the event: %w", err))
			continue
		}
		if err := c.sink.checkSize(r); err != nil {
			c.results[i] = err
			continue
		}
		r.index = i
		partition := t.partitionOf(r.key)
		place, ok := places[partition]
		if !ok {
			place = len(parts)
			places[partition] = place
			parts = append(parts, part{partition: partition})
		}
		parts[place].records = append(parts[place].records, r)
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.partition, b.partition) })
	return parts
}

// checkSize rejects a record that no broker takes. Whether it is too large for the topic the broker judges: the limit
// that the sink has read may have been raised since, and a reject is final.
func (s *Sink) checkSize(r record) error {
	if batchOverhead+r.size <= maxRequestBytes {
		return nil
	}
	if size, err := s.batchSize(r); err == nil && size > maxRequestBytes {
		return bridge.Reject(fmt.Errorf("%s: the event is too large: %d bytes as it is sent, "+
			"and socket.request.max.bytes is %d", s.place(), size, maxRequestBytes))
	}
	return nil
}

// batchSize is the exact size of a batch with r alone, after compression, which is what brokers measure.
func (s *Sink) batchSize(r record) (int64, error) {
	set := protocol.RecordSet{
		Version:    2,
		Attributes: protocol.Attributes(s.compression),
		Records:    &recordReader{batch: []record{r}},
	}
	n, err := set.WriteTo(io.Discard)
	const sizePrefix = 4
	return n - sizePrefix, err
}

// publishParts sends what there is for partitions of one leader: the first batch of each in one request, and then the
// rest of each by itself.
func (c *call) publishParts(ctx context.Context, parts []part) {
	var locked, heads []part
	for _, p := range parts { // in the order of partitions, so that no two calls wait for each other
		unlock, err := c.sink.partitionLocks.lock(ctx, p.partition, c.sink.stopping)
		if err != nil {
			c.settle(p.records, bridge.Retry(fmt.Errorf("%s: not sent: %w", c.sink.partition(p.partition), err)))
			continue
		}
		defer unlock()
		locked = append(locked, p)
		heads = append(heads, part{p.partition, p.records[:c.sink.batchLength(p.records)]})
	}
	if len(heads) == 0 {
		return
	}
	errs := c.sink.produce(ctx, heads...)
	var wg sync.WaitGroup
	for i, head := range heads {
		rest := locked[i].records[len(head.records):]
		if errs[i] == nil && len(rest) == 0 {
			c.stored(head.records)
			continue
		}
		wg.Go(func() {
			if len(heads) > 1 && c.sink.blamesRequest(ctx, head.partition, errs[i]) {
				errs[i] = c.send(ctx, head)
			} else {
				errs[i] = c.sent(ctx, head, errs[i])
			}
			c.sendRest(ctx, head.partition, rest, errs[i])
		})
	}
	wg.Wait()
}

// sendRest sends what is left for a partition, batch by batch. before is the failure of the one ahead, if it failed.
func (c *call) sendRest(ctx context.Context, partition int, records []record, before error) {
	for err := before; len(records) > 0; {
		if err != nil {
			c.notSent(records, err)
			return
		}
		n := c.sink.batchLength(records)
		err = c.send(ctx, part{partition, records[:n]})
		records = records[n:]
	}
}

// blamesRequest tells whether err, of a batch that went with those of other partitions, may be the fault of them all
// going together: the broker takes no request of its size, or the library sees another leader for one of them.
func (s *Sink) blamesRequest(ctx context.Context, partition int, err error) bool {
	if _, unsent := errors.AsType[*produce.Error](err); unsent {
		return true
	}
	return isCut(err) && s.answers(ctx, partition)
}

// batchLength is how many of records, at least one, make the next batch.
func (s *Sink) batchLength(records []record) int {
	limit := maxBatchBytes
	if topic := s.limits.maxBytes.Load(); topic > 0 && topic < maxBatchBytes {
		limit = int(topic)
	}
	size := batchOverhead
	for n, r := range records {
		if size += r.size; n == maxBatchRecords || (n > 0 && size > limit) {
			return n
		}
	}
	return len(records)
}

// send stores one batch, alone in its request. The error is a failure that is not a record's own. It is in the results
// already.
func (c *call) send(ctx context.Context, p part) error {
	return c.sent(ctx, p, c.sink.produce(ctx, p)[0])
}

// sent takes what became of a batch. A broker that refuses it for one of its records does not say which, and one that
// takes no request of its size (socket.request.max.bytes) ends the connection without a word. So the batch is halved
// until such a record is alone; what comes before it is stored before what comes after.
func (c *call) sent(ctx context.Context, p part, err error) error {
	if err == nil {
		c.stored(p.records)
		return nil
	}
	refused := isRecordFault(err) || (isCut(err) && c.sink.answers(ctx, p.partition))
	if refused && len(p.records) > 1 {
		half := len(p.records) / 2
		if err := c.send(ctx, part{p.partition, p.records[:half]}); err != nil {
			c.notSent(p.records[half:], err)
			return err
		}
		return c.send(ctx, part{p.partition, p.records[half:]})
	}
	switch {
	case refused && isCut(err):
		err = c.sink.cut(p.partition, p.records[0], err)
	case refused:
		err = c.sink.rejected(p.partition, p.records[0], err)
	}
	c.settle(p.records, err)
	if bridge.KindOf(err) == bridge.FailureReject {
		return nil
	}
	return err
}

// stored takes a batch that was acknowledged.
func (c *call) stored(records []record) {
	c.sink.cuts.stored(records)
	c.settle(records, nil)
}

// answers tells whether the leader of the partition answers a small request, on whatever connection.
func (s *Sink) answers(ctx context.Context, partition int) bool {
	t := s.keeper.topology.Load()
	return t != nil && s.askLeaders(ctx, t, []int{partition})[0] == nil
}

// Leader returns the number of the broker that leads the partition, and -1 as long as none is known to. An event that
// came before the partitions were known is of partition -1, until it is published.
func (s *Sink) Leader(partition int) int {
	if t := s.keeper.topology.Load(); t != nil {
		return t.leader(partition)
	}
	return -1
}

// leader is Leader, as far as t knows.
func (t *topology) leader(partition int) int {
	if partition < 0 || partition >= len(t.leaders) {
		return -1
	}
	return t.leaders[partition]
}

// leaderAddress is where that broker is, or empty.
func (s *Sink) leaderAddress(partition int) string {
	if t := s.keeper.topology.Load(); t != nil && partition < len(t.addresses) {
		return t.addresses[partition]
	}
	return ""
}

// cut is the result of an event at which a broker, which is well, has ended the connection that it alone was sent on.
// That is a passing fault until it has happened again and again.
func (s *Sink) cut(partition int, r record, cause error) error {
	size, err := s.batchSize(r)
	if err != nil {
		size = int64(batchOverhead + r.size)
	}
	f := &failure{
		text: fmt.Sprintf("%s: the broker answers others and ends the connection at this event alone: "+
			"%d bytes as it is sent: is its socket.request.max.bytes, or the limit of what is before it, smaller? (%s)",
			s.partition(partition), size, inWords(cause)),
		cause: cause,
	}
	if s.cuts.repeated(r.event, s.timing.cutting) {
		return bridge.Reject(f)
	}
	return bridge.Retry(f)
}

// cuts are the events at which connections have been ended.
type cuts struct {
	mu     sync.Mutex
	events map[cutEvent]cutCount
}

type cutEvent struct{ source, id string }

type cutCount struct {
	tries int
	since time.Time
}

// repeated notes another try of e, and tells whether it has had enough of them over at least the time given.
func (c *cuts) repeated(e *bridge.Event, over time.Duration) bool {
	const enough, most = 5, 1024
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.events == nil || len(c.events) >= most {
		c.events = make(map[cutEvent]cutCount)
	}
	key := cutEvent{e.Source, e.ID}
	count, ok := c.events[key]
	if !ok {
		count.since = time.Now()
	}
	count.tries++
	c.events[key] = count
	if count.tries < enough || time.Since(count.since) < over {
		return false
	}
	delete(c.events, key)
	return true
}

// stored forgets the events of a batch.
func (c *cuts) stored(batch []record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.events) == 0 {
		return
	}
	for _, r := range batch {
		delete(c.events, cutEvent{r.event.Source, r.event.ID})
	}
}

// rejected words why a broker will never store the record.
func (s *Sink) rejected(partition int, r record, err error) error {
	if errors.Is(err, kafkago.MessageSizeTooLarge) || errors.Is(err, kafkago.RecordListTooLarge) {
		size, sizeErr := s.batchSize(r)
		if sizeErr != nil {
			size = int64(batchOverhead + r.size)
		}
		var known string
		if limit := s.limits.maxBytes.Load(); limit > 0 && size > limit {
			known = fmt.Sprintf(", and %s is %d", maxMessageBytes, limit)
		}
		return bridge.Reject(&failure{
			text: fmt.Sprintf("%s: the event is too large: %d bytes as it is sent%s: %s",
				s.partition(partition), size, known, inWords(err)),
			cause: err,
		})
	}
	return bridge.Reject(&failure{
		text: s.partition(partition) + ": the broker refuses the event: " + inWords(err), cause: err,
	})
}

// produce sends a batch to each of some partitions that one broker leads, once, in one request. The errors are
// explained, except record faults of the batches.
func (s *Sink) produce(ctx context.Context, parts ...part) []error {
	notSent := func(err error) []error {
		errs := make([]error, len(parts))
		for i, p := range parts {
			errs[i] = bridge.Retry(fmt.Errorf("%s: not sent: %w", s.partition(p.partition), err))
		}
		return errs
	}
	if err := s.refused(ctx); err != nil {
		return notSent(err)
	}
	quota := s.quotas.of(s.Leader(parts[0].partition))
	done, err := quota.await(ctx, s.stopping)
	if err != nil {
		return notSent(err)
	}
	defer done()
	address := s.leaderAddress(parts[0].partition)
	errs := s.clearDoubt(ctx, address, parts)
	sendable := make([]part, 0, len(parts))
	for i, p := range parts {
		if errs[i] == nil {
			sendable = append(sendable, p)
		}
	}
	if len(sendable) == 0 {
		return errs
	}
	g := s.keeper.generation.Load()
	attempt, cancel := context.WithTimeout(ctx, s.timing.attempt)
	defer cancel()
	attempt, give := context.WithCancelCause(attempt)
	defer give(nil)
	if address != "" {
		defer s.doubt(attempt, g, address, give)()
	}
	before := make([]bridge.Since, len(parts))
	for i, p := range parts {
		before[i] = s.water.Since(s.partition(p.partition))
	}
	res, err := request(attempt, g.produce, s.produceRequest(attempt, sendable))
	if err == nil {
		quota.hold(time.Duration(res.ThrottleTimeMs) * time.Millisecond)
	}
	failure := s.newProduceFailure(ctx, attempt, g, address)
	for i, p := range parts {
		if errs[i] != nil {
			continue // it was not sent
		}
		if errs[i] = err; err == nil {
			got := answerFor(res, p.partition)
			if errs[i] = answer(got); errs[i] == nil {
				s.water.Acknowledged(before[i], got.BaseOffset, got.BaseOffset+int64(len(p.records))-1)
			}
		}
		errs[i] = failure.explain(p.partition, errs[i])
	}
	return errs
}

// produceRequest asks the leader of some partitions to store a batch in each.
func (s *Sink) produceRequest(ctx context.Context, parts []part) *produce.Request {
	left := s.timing.attempt
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	topic := produce.RequestTopic{Topic: s.opts.Topic, Partitions: make([]produce.RequestPartition, len(parts))}
	for i, p := range parts {
		topic.Partitions[i] = produce.RequestPartition{
			Partition: int32(p.partition), //nolint:gosec // it is a partition's number
			RecordSet: protocol.RecordSet{
				Attributes: protocol.Attributes(s.compression), Records: &recordReader{batch: p.records},
			},
		}
	}
	return &produce.Request{
		Acks: int16(kafkago.RequireAll),
		// Half of what there is, so that the answer is here in time. It has what became of each partition by then.
		Timeout: int32(left.Milliseconds() / 2), //nolint:gosec // it is some seconds
		Topics:  []produce.RequestTopic{topic},
	}
}

// produceFailure knows of a request what explains its failures.
type produceFailure struct {
	sink    *Sink
	ctx     context.Context //nolint:containedctx // of the call, for as long as that lasts
	attempt context.Context //nolint:containedctx // of the request
	address string
	// unread is why metadata cannot be read, if it is so.
	unread func() error
}

func (s *Sink) newProduceFailure(ctx, attempt context.Context, g *generation, address string) *produceFailure {
	return &produceFailure{
		sink: s, ctx: ctx, attempt: attempt, address: address,
		unread: sync.OnceValue(func() error {
			_, _, err := g.describeTopic(attempt, s.opts.Topic)
			return err
		}),
	}
}

// explain says of a partition's failure what to do about it, and what the sink is to know of it is noted.
func (f *produceFailure) explain(partition int, err error) error {
	if err == nil || isRecordFault(err) {
		return err
	}
	s := f.sink
	select {
	case <-s.stopping:
		return bridge.Retry(fmt.Errorf("%s: %w: %s", s.partition(partition), errClosed, inWords(err)))
	default:
	}
	if f.ctx.Err() != nil {
		return bridge.Retry(&failure{
			text: s.partition(partition) + ": given up while sending: " + context.Cause(f.ctx).Error(), cause: err,
		})
	}
	if _, answered := errors.AsType[kafkago.Error](err); !answered {
		s.doubtful.set(f.address, true)
	}
	if context.Cause(f.attempt) == errSilent { //nolint:errorlint // it is never wrapped
		s.noteStale()
		return bridge.Retry(fmt.Errorf("%s: %w", s.partition(partition), errSilent))
	}
	if isStale(err) {
		s.noteStale()
	}
	if isMissing(err) {
		// The library says so of every failure to read metadata too.
		if cause := f.unread(); cause != nil && !isMissing(cause) {
			err = cause
		}
	}
	return s.explain(s.partition(partition), err)
}

// refused tells why nothing is to be sent now.
func (s *Sink) refused(ctx context.Context) error {
	select {
	case <-s.stopping:
		return errClosed
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// answerFor returns what a broker answers for a partition, of which the answer has been checked to be there.
func answerFor(res *produce.Response, partition int) *produce.ResponsePartition {
	got := res.Topics[0].Partitions
	for i := range got {
		if int(got[i].Partition) == partition {
			return &got[i]
		}
	}
	return &produce.ResponsePartition{ErrorCode: int16(kafkago.Unknown)}
}

// answer returns what a broker's answer to a batch has against it.
func answer(p *produce.ResponsePartition) error {
	var err error
	if p.ErrorCode != 0 {
		err = kafkago.Error(p.ErrorCode)
		if p.ErrorMessage != "" {
			err = fmt.Errorf("%w: %s", err, p.ErrorMessage)
		}
	}
	if len(p.RecordErrors) == 0 {
		return err
	}
	// They say which records the whole batch was dropped for.
	if err == nil {
		err = kafkago.InvalidRecord
	}
	first := slices.MinFunc(p.RecordErrors, func(a, b produce.ResponseError) int {
		return cmp.Compare(a.BatchIndex, b.BatchIndex)
	})
	return fmt.Errorf("%w (record %d: %s)", err, first.BatchIndex, first.BatchIndexErrorMessage)
}

// partition names a partition in errors.
func (s *Sink) partition(n int) string { return fmt.Sprintf("topic %q partition %d", s.opts.Topic, n) }

func (c *call) settle(records []record, err error) {
	for _, r := range records {
		c.results[r.index] = err
	}
}

// notSent marks records that wait behind a failure of their partition. They keep its kind: what blocks it blocks them.
func (c *call) notSent(records []record, cause error) {
	if len(records) == 0 {
		return
	}
	c.settle(records, mark(bridge.KindOf(cause), fmt.Errorf("not sent: an earlier batch failed: %w", cause)))
}
