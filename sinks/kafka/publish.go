package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

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

// Publish stores events in the partitions of their keys, partitions in parallel, each in the order of events.
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
	for partition, records := range c.records(topology, write) {
		wg.Go(func() { c.publishPartition(ctx, partition, records) })
	}
	wg.Wait()
	return c.results
}

func same(n int, err error) []error {
	results := make([]error, n)
	for i := range results {
		results[i] = err
	}
	return results
}

// records sorts what is to be stored by partition. What can never be stored gets its result at once.
func (c *call) records(t *topology, write func(i int) (record, error)) map[int][]record {
	byPartition := make(map[int][]record)
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
		byPartition[partition] = append(byPartition[partition], r)
	}
	return byPartition
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

// publishPartition sends the records of one partition, batch by batch.
func (c *call) publishPartition(ctx context.Context, partition int, records []record) {
	unlock, err := c.sink.partitionLocks.lock(ctx, partition, c.sink.stopping)
	if err != nil {
		c.settle(records, bridge.Retry(fmt.Errorf("%s: not sent: %w", c.sink.partition(partition), err)))
		return
	}
	defer unlock()
	for len(records) > 0 {
		n := c.sink.batchLength(records)
		if err := c.send(ctx, partition, records[:n]); err != nil {
			c.notSent(records[n:], err)
			return
		}
		records = records[n:]
	}
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

// send stores one batch. A broker that refuses it for one of its records does not say which, and one that takes no
// request of its size (socket.request.max.bytes) ends the connection without a word. So the batch is halved until such
// a record is alone; what comes before it is stored before what comes after. The error is a failure that is not a
// record's own. It is in the results already.
func (c *call) send(ctx context.Context, partition int, batch []record) error {
	err := c.sink.produce(ctx, partition, batch)
	if err == nil {
		c.sink.cuts.stored(batch)
		c.settle(batch, nil)
		return nil
	}
	refused := isRecordFault(err) || (isCut(err) && c.sink.answers(ctx, partition))
	if refused && len(batch) > 1 {
		half := len(batch) / 2
		if err := c.send(ctx, partition, batch[:half]); err != nil {
			c.notSent(batch[half:], err)
			return err
		}
		return c.send(ctx, partition, batch[half:])
	}
	switch {
	case refused && isCut(err):
		err = c.sink.cut(partition, batch[0], err)
	case refused:
		err = c.sink.rejected(partition, batch[0], err)
	}
	c.settle(batch, err)
	if bridge.KindOf(err) == bridge.FailureReject {
		return nil
	}
	return err
}

// answers tells whether the leader of the partition answers a small request, on whatever connection.
func (s *Sink) answers(ctx context.Context, partition int) bool {
	t := s.keeper.topology.Load()
	return t != nil && partition < len(t.leaders) && s.checkPartition(ctx, t, partition) == nil
}

// leader is the broker that leads the partition, as far as is known.
func (s *Sink) leader(partition int) int {
	if t := s.keeper.topology.Load(); t != nil && partition < len(t.leaders) {
		return t.leaders[partition]
	}
	return -1
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

// produce sends one batch once. The error is explained, except a record fault of the batch.
func (s *Sink) produce(ctx context.Context, partition int, batch []record) error {
	if err := s.refused(ctx); err != nil {
		return bridge.Retry(fmt.Errorf("%s: not sent: %w", s.partition(partition), err))
	}
	quota := s.quotas.of(s.leader(partition))
	done, err := quota.await(ctx, s.stopping)
	if err != nil {
		return bridge.Retry(fmt.Errorf("%s: not sent: %w", s.partition(partition), err))
	}
	defer done()
	g := s.keeper.generation.Load()
	attempt, cancel := context.WithTimeout(ctx, s.timing.attempt)
	defer cancel()
	res, err := request(attempt, g.client.Produce, &kafkago.ProduceRequest{
		Topic:        s.opts.Topic,
		Partition:    partition,
		RequiredAcks: kafkago.RequireAll,
		Records:      &recordReader{batch: batch},
		Compression:  s.compression,
	})
	if err == nil {
		quota.hold(res.Throttle)
		err = answer(res)
	}
	if err == nil || isRecordFault(err) {
		return err
	}
	select {
	case <-s.stopping:
		return bridge.Retry(fmt.Errorf("%s: %w: %s", s.partition(partition), errClosed, inWords(err)))
	default:
	}
	if ctx.Err() != nil {
		return bridge.Retry(&failure{
			text: s.partition(partition) + ": given up while sending: " + context.Cause(ctx).Error(), cause: err,
		})
	}
	if isStale(err) {
		s.noteStale()
	}
	if isMissing(err) {
		// The library says so of every failure to read metadata too.
		if _, _, cause := g.describeTopic(attempt, s.opts.Topic); cause != nil && !isMissing(cause) {
			err = cause
		}
	}
	return explain(s.partition(partition), err)
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

// answer returns what a broker's answer to a batch has against it. The library reports broker errors there only.
func answer(res *kafkago.ProduceResponse) error {
	if len(res.RecordErrors) == 0 {
		return res.Error
	}
	// They say which records the whole batch was dropped for.
	err := res.Error
	if err == nil {
		err = kafkago.InvalidRecord
	}
	first := -1
	for i := range res.RecordErrors {
		if first < 0 || i < first {
			first = i
		}
	}
	return fmt.Errorf("%w (record %d: %w)", err, first, res.RecordErrors[first])
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
