package apachekafka

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const adminTimeout = 2 * time.Minute // for a change that may have to wait for a new controller

// CreateTopic creates a topic and returns once every running node knows it and its leaders, and the leaders know
// that they lead. config are the topic's own settings and may be nil.
func (c *Cluster) CreateTopic(tb testing.TB, name string, partitions, replicas int, config map[string]string) {
	tb.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic = name
	topic.NumPartitions = int32(partitions)
	topic.ReplicationFactor = int16(replicas)
	for k, v := range config {
		setting := kmsg.NewCreateTopicsRequestTopicConfig()
		setting.Name, setting.Value = k, &v
		topic.Configs = append(topic.Configs, setting)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, topic)
	c.admin(tb, "creating the topic "+name, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.CreateTopicsResponse](ctx, n, req)
		if err != nil {
			return err
		}
		return brokerError(resp.Topics[0].ErrorCode, resp.Topics[0].ErrorMessage)
	})
	c.onEveryNode(tb, "waiting for the leaders of the topic "+name, func(ctx context.Context, n *node) error {
		leaders, err := leaders(ctx, n, name)
		if err == nil && len(leaders) != partitions {
			err = fmt.Errorf("node %d knows the leaders %v", n.id, leaders)
		}
		for partition, leader := range leaders {
			if err == nil && leader == n.id {
				err = leads(ctx, n, name, partition)
			}
		}
		return err
	})
}

// leads returns an error unless n leads the partition: it learns of that a moment after it tells others.
func leads(ctx context.Context, n *node, topic string, partition int) error {
	_, err := endOffset(ctx, n, topic, partition)
	return err
}

// endOffset asks the leader of a partition for the offset behind its last record.
func endOffset(ctx context.Context, n *node, topic string, partition int) (int64, error) {
	last := kmsg.NewListOffsetsRequestTopicPartition()
	last.Partition, last.Timestamp = int32(partition), -1
	of := kmsg.NewListOffsetsRequestTopic()
	of.Topic = topic
	of.Partitions = append(of.Partitions, last)
	req := kmsg.NewPtrListOffsetsRequest()
	req.Topics = append(req.Topics, of)
	resp, err := request[*kmsg.ListOffsetsResponse](ctx, n, req)
	if err != nil {
		return 0, err
	}
	end := resp.Topics[0].Partitions[0]
	return end.Offset, brokerError(end.ErrorCode, nil)
}

// DeleteTopic deletes a topic and returns once no running node knows it.
func (c *Cluster) DeleteTopic(tb testing.TB, name string) {
	tb.Helper()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = &name
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Topics = append(req.Topics, topic)
	req.TopicNames = []string{name}
	c.admin(tb, "deleting the topic "+name, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.DeleteTopicsResponse](ctx, n, req)
		if err != nil {
			return err
		}
		return brokerError(resp.Topics[0].ErrorCode, resp.Topics[0].ErrorMessage)
	})
	c.onEveryNode(tb, "waiting for the end of the topic "+name, func(ctx context.Context, n *node) error {
		_, err := leaders(ctx, n, name)
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return nil
		case err == nil:
			return fmt.Errorf("node %d still knows it", n.id)
		default:
			return err
		}
	})
}

// ConfigureTopic sets settings of a topic. Brokers learn of them a moment later.
func (c *Cluster) ConfigureTopic(tb testing.TB, name string, config map[string]string) {
	tb.Helper()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, name
	for k, v := range config {
		setting := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		setting.Name, setting.Op, setting.Value = k, kmsg.IncrementalAlterConfigOpSet, &v
		resource.Configs = append(resource.Configs, setting)
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Resources = append(req.Resources, resource)
	c.admin(tb, "configuring the topic "+name, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.IncrementalAlterConfigsResponse](ctx, n, req)
		if err != nil {
			return err
		}
		return brokerError(resp.Resources[0].ErrorCode, resp.Resources[0].ErrorMessage)
	})
}

// Leader returns the node that leads a partition, as the running nodes know it, after waiting for there to be one.
func (c *Cluster) Leader(tb testing.TB, topic string, partition int) int {
	tb.Helper()
	leader := 0
	c.admin(tb, fmt.Sprintf("asking for the leader of %s/%d", topic, partition), func(ctx context.Context, n *node) error {
		leaders, err := leaders(ctx, n, topic)
		if err != nil {
			return err
		}
		id, ok := leaders[partition]
		if !ok {
			return fmt.Errorf("node %d knows of none", n.id)
		}
		for _, up := range c.running() {
			if up.id == id {
				leader = id
				return nil
			}
		}
		return fmt.Errorf("node %d still takes node %d for it, which does not run", n.id, id)
	})
	return leader
}

// MoveLeader has another of a partition's replicas lead it, and returns once it does. All nodes must run.
func (c *Cluster) MoveLeader(tb testing.TB, topic string, partition, to int) {
	tb.Helper()
	replicas := []int32{int32(to)} // the first is the preferred one
	for _, id := range c.Nodes() {
		if id != to {
			replicas = append(replicas, int32(id))
		}
	}
	order := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	order.Partition, order.Replicas = int32(partition), replicas
	of := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	of.Topic = topic
	of.Partitions = append(of.Partitions, order)
	reorder := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	reorder.Topics = append(reorder.Topics, of)
	what := fmt.Sprintf("moving the lead of %s/%d to node %d", topic, partition, to)
	c.admin(tb, what, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.AlterPartitionAssignmentsResponse](ctx, n, reorder)
		if err != nil {
			return err
		}
		if err := brokerError(resp.ErrorCode, resp.ErrorMessage); err != nil {
			return err
		}
		return brokerError(resp.Topics[0].Partitions[0].ErrorCode, resp.Topics[0].Partitions[0].ErrorMessage)
	})
	chosen := kmsg.NewElectLeadersRequestTopic()
	chosen.Topic, chosen.Partitions = topic, []int32{int32(partition)}
	elect := kmsg.NewPtrElectLeadersRequest()
	elect.Topics = append(elect.Topics, chosen)
	c.admin(tb, what, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.ElectLeadersResponse](ctx, n, elect)
		if err != nil {
			return err
		}
		result := resp.Topics[0].Partitions[0]
		switch err := brokerError(result.ErrorCode, result.ErrorMessage); {
		case errors.Is(err, kerr.ElectionNotNeeded):
			return nil
		case errors.Is(err, kerr.PreferredLeaderNotAvailable): // it catches up first
			return fmt.Errorf("node %d: %s", to, err) //nolint:errorlint // not to be taken for final
		default:
			return err
		}
	})
	c.onEveryNode(tb, what, func(ctx context.Context, n *node) error {
		known, err := leaders(ctx, n, topic)
		if err == nil && known[partition] != to {
			err = fmt.Errorf("node %d takes node %d for the leader", n.id, known[partition])
		}
		return err
	})
}

// EndOffsets returns for each partition of a topic the offset behind the last record that consumers can read, after
// waiting for every partition to have a leader.
func (c *Cluster) EndOffsets(tb testing.TB, topic string) map[int]int64 {
	tb.Helper()
	var ends map[int]int64
	c.admin(tb, "asking for the ends of the topic "+topic, func(ctx context.Context, n *node) error {
		found, err := partitionLeaders(ctx, n, topic)
		if err != nil {
			return err
		}
		ends = make(map[int]int64, len(found))
		for partition, leader := range found {
			if leader < 0 {
				return fmt.Errorf("%s/%d has no leader", topic, partition)
			}
			if ends[partition], err = endOffset(ctx, c.node(tb, leader), topic, partition); err != nil {
				return err
			}
		}
		return nil
	})
	return ends
}

// DenyWrite forbids a user of Options.Users to write to a topic, by an ACL, and AllowWrite takes that back.
func (c *Cluster) DenyWrite(tb testing.TB, user, topic string) {
	tb.Helper()
	acl := kmsg.NewCreateACLsRequestCreation()
	acl.ResourceType, acl.ResourceName, acl.ResourcePatternType =
		kmsg.ACLResourceTypeTopic, topic, kmsg.ACLResourcePatternTypeLiteral
	acl.Principal, acl.Host = "User:"+user, "*"
	acl.Operation, acl.PermissionType = kmsg.ACLOperationWrite, kmsg.ACLPermissionTypeDeny
	req := kmsg.NewPtrCreateACLsRequest()
	req.Creations = append(req.Creations, acl)
	c.admin(tb, "denying "+user+" to write to "+topic, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.CreateACLsResponse](ctx, n, req)
		if err != nil {
			return err
		}
		return brokerError(resp.Results[0].ErrorCode, resp.Results[0].ErrorMessage)
	})
}

// AllowWrite takes back every DenyWrite of a topic.
func (c *Cluster) AllowWrite(tb testing.TB, topic string) {
	tb.Helper()
	acl := kmsg.NewDeleteACLsRequestFilter()
	acl.ResourceType, acl.ResourceName, acl.ResourcePatternType =
		kmsg.ACLResourceTypeTopic, &topic, kmsg.ACLResourcePatternTypeLiteral
	acl.Operation, acl.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	req := kmsg.NewPtrDeleteACLsRequest()
	req.Filters = append(req.Filters, acl)
	c.admin(tb, "allowing to write to "+topic, func(ctx context.Context, n *node) error {
		resp, err := request[*kmsg.DeleteACLsResponse](ctx, n, req)
		if err != nil {
			return err
		}
		return brokerError(resp.Results[0].ErrorCode, resp.Results[0].ErrorMessage)
	})
}

// ChangePassword gives a user of Options.Users a new password for SCRAM, and returns once every running node takes it
// and refuses the old one. PLAIN keeps the old one, and connections that are logged in stay.
func (c *Cluster) ChangePassword(tb testing.TB, user, password string) {
	tb.Helper()
	salt := make([]byte, 24)
	_, _ = rand.Read(salt) // never fails
	const iterations = 4096
	sha256Salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		tb.Fatalf("salting the password of %s: %v", user, err)
	}
	sha512Salted, err := pbkdf2.Key(sha512.New, password, salt, iterations, sha512.Size)
	if err != nil {
		tb.Fatalf("salting the password of %s: %v", user, err)
	}
	what := "changing the password of " + user
	for i, salted := range [][]byte{sha256Salted, sha512Salted} { // one in a request, or Kafka takes it for a repetition
		upsertion := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
		upsertion.Name, upsertion.Mechanism, upsertion.Iterations = user, int8(i+1), iterations
		upsertion.Salt, upsertion.SaltedPassword = salt, salted
		req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		req.Upsertions = append(req.Upsertions, upsertion)
		c.admin(tb, what, func(ctx context.Context, n *node) error {
			resp, err := request[*kmsg.AlterUserSCRAMCredentialsResponse](ctx, n, req)
			if err != nil {
				return err
			}
			return brokerError(resp.Results[0].ErrorCode, resp.Results[0].ErrorMessage)
		})
	}
	credentials := scram.Auth{User: user, Pass: password}
	c.onEveryNode(tb, what, func(ctx context.Context, n *node) error {
		l, ok := n.listener(saslListener)
		if !ok {
			return errors.New("the cluster has no users")
		}
		for _, mechanism := range []kgo.Opt{
			kgo.SASL(credentials.AsSha256Mechanism()), kgo.SASL(credentials.AsSha512Mechanism()),
		} {
			dialTLS := kgo.DialTLSConfig(&tls.Config{RootCAs: c.ca.Pool, MinVersion: tls.VersionTLS12})
			if _, err := requestAt[*kmsg.MetadataResponse](ctx, l.port.Address(),
				kmsg.NewPtrMetadataRequest(), dialTLS, mechanism); err != nil {
				return err
			}
		}
		return nil
	})
}

// leaders returns the leader of each partition of a topic that has one, as n knows them.
func leaders(ctx context.Context, n *node, topic string) (map[int]int, error) {
	all, err := partitionLeaders(ctx, n, topic)
	maps.DeleteFunc(all, func(_, leader int) bool { return leader < 0 })
	return all, err
}

// partitionLeaders returns the leader of each partition of a topic, as n knows them; -1 for none.
func partitionLeaders(ctx context.Context, n *node, topic string) (map[int]int, error) {
	of := kmsg.NewMetadataRequestTopic()
	of.Topic = &topic
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = append(req.Topics, of)
	resp, err := request[*kmsg.MetadataResponse](ctx, n, req)
	if err != nil {
		return nil, err
	}
	if err := brokerError(resp.Topics[0].ErrorCode, nil); err != nil {
		return nil, err
	}
	leaders := make(map[int]int)
	for _, p := range resp.Topics[0].Partitions {
		leaders[int(p.Partition)] = -1
		if p.ErrorCode == 0 {
			leaders[int(p.Partition)] = int(p.Leader)
		}
	}
	return leaders, nil
}

// admin calls f with a running node until it succeeds. What a later try finds done already counts as success.
func (c *Cluster) admin(tb testing.TB, what string, f func(ctx context.Context, n *node) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), adminTimeout)
	defer cancel()
	tried := 0
	var final error
	err := await(ctx, func(ctx context.Context) error {
		up := c.running()
		if len(up) == 0 {
			return errors.New("no node runs")
		}
		err := f(ctx, up[tried%len(up)])
		tried++
		if e, ok := errors.AsType[*kerr.Error](err); ok && !e.Retriable {
			final = err
			if tried > 1 && (e == kerr.TopicAlreadyExists || e == kerr.UnknownTopicOrPartition) {
				final = nil
			}
			return nil
		}
		return err
	})
	if err := errors.Join(err, final); err != nil {
		tb.Fatalf("Kafka: %s: %v", what, err)
	}
}

// onEveryNode calls f with each running node until it succeeds there.
func (c *Cluster) onEveryNode(tb testing.TB, what string, f func(ctx context.Context, n *node) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), adminTimeout)
	defer cancel()
	for _, n := range c.running() {
		if err := await(ctx, func(ctx context.Context) error { return f(ctx, n) }); err != nil {
			tb.Fatalf("Kafka: %s: %v", what, err)
		}
	}
}

// request asks one node, which forwards to the controller what is the controller's.
func request[R kmsg.Response](ctx context.Context, n *node, req kmsg.Request) (R, error) {
	l, _ := n.listener(plaintext)
	return requestAt[R](ctx, l.port.Address(), req)
}

func requestAt[R kmsg.Response](ctx context.Context, address string, req kmsg.Request, opts ...kgo.Opt) (R, error) {
	var none R
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(address))...)
	if err != nil {
		return none, fmt.Errorf("making a client: %w", err)
	}
	defer client.Close()
	resp, err := client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return none, fmt.Errorf("asking %s: %w", address, err)
	}
	typed, ok := resp.(R)
	if !ok {
		return none, fmt.Errorf("asking %s: it answered with %T", address, resp)
	}
	return typed, nil
}

func brokerError(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err != nil && message != nil {
		return fmt.Errorf("%w (%s)", err, *message)
	}
	return err
}
