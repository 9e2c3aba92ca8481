package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
)

// Check asks the leader of every partition for its newest offset. That finds what the client's cached metadata hides:
// brokers that died, leaders that moved, credentials and certificates that ran out. It writes nothing, so a missing
// permission to write shows at the first Publish. It returns within ten seconds even if ctx does not end.
func (s *Sink) Check(ctx context.Context) error {
	if err := s.refused(ctx); err != nil {
		return bridge.Retry(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.attempt)
	defer cancel()
	t, err := s.awaitTopology(ctx)
	if err != nil {
		return err
	}
	failures := s.askLeaders(ctx, t)

	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) == 0 {
		s.awaitDescribed(ctx)
		return nil
	}
	// What a person has to mend is the more important news.
	worst := failures[0]
	for _, err := range failures {
		if bridge.KindOf(err) == bridge.FailureBlocked {
			worst = err
			break
		}
	}
	if len(t.partitions) == 1 {
		return worst
	}
	return mark(bridge.KindOf(worst),
		fmt.Errorf("%d of %d partitions cannot be published to; one is %w", len(failures), len(t.partitions), worst))
}

// awaitDescribed waits until the topic's settings have been looked at, once, so that whoever checks has seen what the
// log warns of.
func (s *Sink) awaitDescribed(ctx context.Context) {
	if s.keeper.role == reading {
		return
	}
	select {
	case <-s.keeper.described:
	case <-s.stopping:
	case <-ctx.Done():
	}
}

// askLeaders checks every partition, those of different leaders at a time, and returns an error or nil for each.
func (s *Sink) askLeaders(ctx context.Context, t *topology) []error {
	byLeader := make(map[int][]int)
	for partition, leader := range t.leaders {
		byLeader[leader] = append(byLeader[leader], partition)
	}
	failures := make([]error, len(t.partitions))
	var wg sync.WaitGroup
	for _, partitions := range byLeader {
		wg.Go(func() {
			for _, partition := range partitions {
				failures[partition] = s.checkPartition(ctx, t, partition)
			}
		})
	}
	wg.Wait()
	return failures
}

func (s *Sink) checkPartition(ctx context.Context, t *topology, partition int) error {
	what := s.partition(partition)
	if t.leaders[partition] < 0 {
		s.noteStale()
		return bridge.Retry(fmt.Errorf("%s: no broker leads it now", what))
	}
	if s.quotas.holds(t.leaders[partition]) {
		return nil // it has just answered, and answers nothing else until then
	}
	// One partition a request: of several, the library says that one failed and not why.
	res, err := request(ctx, s.keeper.generation.Load().client.ListOffsets, &kafkago.ListOffsetsRequest{
		Topics: map[string][]kafkago.OffsetRequest{s.opts.Topic: {kafkago.LastOffsetOf(partition)}},
	})
	if err == nil {
		err = offsetError(res, s.opts.Topic)
	}
	if err != nil {
		if isStale(err) {
			s.noteStale()
		}
		return explain(what, err)
	}
	// More than there are replicas no broker asks for.
	if need := min(int(s.limits.minSync.Load()), t.replicas); t.inSync[partition] < need {
		return bridge.Retry(fmt.Errorf("%s: %d of its replicas are in sync, and min.insync.replicas is %d",
			what, t.inSync[partition], need))
	}
	return nil
}

// offsetError returns what the brokers have against a request for offsets.
func offsetError(res *kafkago.ListOffsetsResponse, topic string) error {
	partitions := res.Topics[topic]
	if len(partitions) == 0 {
		return errors.New("the broker's answer leaves it out")
	}
	var errs []error
	for _, p := range partitions {
		errs = append(errs, p.Error)
	}
	return errors.Join(errs...)
}
