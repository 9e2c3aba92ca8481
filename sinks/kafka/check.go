package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/listoffsets"

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
	failures := s.askLeaders(ctx, t, t.partitions)

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

// askLeaders checks partitions, those of each leader together, so that it takes a round trip whatever their number, and
// returns an error or nil for each.
func (s *Sink) askLeaders(ctx context.Context, t *topology, partitions []int) []error {
	byLeader := make(map[int][]int)
	places := make(map[int]int, len(partitions))
	for i, partition := range partitions {
		leader := t.leader(partition)
		byLeader[leader] = append(byLeader[leader], partition)
		places[partition] = i
	}
	failures := make([]error, len(partitions))
	var wg sync.WaitGroup
	for leader, partitions := range byLeader {
		wg.Go(func() {
			for i, err := range s.askLeader(ctx, t, leader, partitions) {
				failures[places[partitions[i]]] = err
			}
		})
	}
	wg.Wait()
	return failures
}

// askLeader checks partitions that leader leads, and returns an error or nil for each.
func (s *Sink) askLeader(ctx context.Context, t *topology, leader int, partitions []int) []error {
	failures := make([]error, len(partitions))
	if leader < 0 {
		s.noteStale()
		for i, partition := range partitions {
			failures[i] = bridge.Retry(fmt.Errorf("%s: no broker leads it now", s.partition(partition)))
		}
		return failures
	}
	if s.quotas.holds(leader) {
		return failures // it has just answered, and answers nothing else until then
	}
	before := make([]bridge.Since, len(partitions))
	for i, partition := range partitions {
		before[i] = s.water.Since(s.partition(partition))
	}
	ctx, cancel := context.WithTimeout(ctx, s.timing.attempt)
	defer cancel()
	ends, err := beside(ctx, s.timing.beside, func(ctx context.Context) (map[int]listoffsets.ResponsePartition, error) {
		return s.keeper.generation.Load().offsets(ctx, s.opts.Topic, partitions, kafkago.LastOffset)
	}, func(map[int]listoffsets.ResponsePartition) {})
	for i, partition := range partitions {
		failures[i] = s.judge(t, partition, before[i], ends, err)
	}
	return failures
}

// judge returns what is wrong with a partition, given the answer of its leader or why there is none.
func (s *Sink) judge(
	t *topology, partition int, before bridge.Since, ends map[int]listoffsets.ResponsePartition, err error,
) error {
	what := s.partition(partition)
	var end int64
	if err == nil {
		end, err = offsetOf(ends, partition)
	}
	if err != nil {
		if isStale(err) {
			s.noteStale()
		}
		return s.explain(what, err)
	}
	// They are those of the topic that is published to. A leader that was cut off from the others may not know the last.
	s.water.Ends(before, bridge.Mark{Last: end - 1},
		bridge.Evidence{Certain: true, Confirm: s.timing.confirm})
	// More than there are replicas no broker asks for.
	if need := min(int(s.limits.minSync.Load()), t.replicas); t.inSync[partition] < need {
		return bridge.Retry(fmt.Errorf("%s: %d of its replicas are in sync, and min.insync.replicas is %d",
			what, t.inSync[partition], need))
	}
	return nil
}
