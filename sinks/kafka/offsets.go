package kafka

import (
	"context"
	"errors"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// offsetsRequest asks one broker for offsets of several partitions that it leads. The library's own is split into a
// request for each.
type offsetsRequest listoffsets.Request

var _ protocol.BrokerMessage = (*offsetsRequest)(nil)

// ApiKey implements protocol.Message.
func (r *offsetsRequest) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

// Broker implements protocol.BrokerMessage.
func (r *offsetsRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return (*listoffsets.Request)(r).Broker(cluster)
}

// offsets asks the leader of partitions, which is one, for their offsets at a time: kafkago.FirstOffset, LastOffset or
// milliseconds. What the broker says of each is in the answer, its error too.
func (g *generation) offsets(
	ctx context.Context, topic string, partitions []int, at int64,
) (map[int]listoffsets.ResponsePartition, error) {
	asked := listoffsets.RequestTopic{Topic: topic, Partitions: make([]listoffsets.RequestPartition, len(partitions))}
	for i, partition := range partitions {
		asked.Partitions[i] = listoffsets.RequestPartition{
			Partition: int32(partition), CurrentLeaderEpoch: -1, Timestamp: at, //nolint:gosec // as the broker numbers it
		}
	}
	res, err := request(ctx, func(ctx context.Context, req *offsetsRequest) (*listoffsets.Response, error) {
		res, err := g.RoundTrip(ctx, g.client.Addr, req)
		if err != nil {
			return nil, err
		}
		answer, ok := res.(*listoffsets.Response)
		if !ok {
			return nil, errors.New("the broker answers another question")
		}
		return answer, nil
	}, &offsetsRequest{ReplicaID: -1, Topics: []listoffsets.RequestTopic{asked}})
	if err != nil {
		return nil, err
	}
	offsets := make(map[int]listoffsets.ResponsePartition, len(partitions))
	for _, t := range res.Topics {
		for _, p := range t.Partitions {
			if t.Topic == topic {
				offsets[int(p.Partition)] = p
			}
		}
	}
	return offsets, nil
}

// offsetOf returns what the answer of offsets says of a partition.
func offsetOf(answer map[int]listoffsets.ResponsePartition, partition int) (int64, error) {
	found, answered := answer[partition]
	switch {
	case !answered:
		return 0, errors.New("the broker's answer leaves it out")
	case found.ErrorCode != 0:
		return 0, kafkago.Error(found.ErrorCode)
	}
	return found.Offset, nil
}
