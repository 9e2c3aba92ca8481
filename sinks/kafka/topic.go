package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
)

// limits are settings of the topic, 0 while they are not known: to read them takes a permission that a producer
// can do without.
type limits struct {
	maxBytes atomic.Int64 // max.message.bytes: the largest batch, after compression
	minSync  atomic.Int64 // min.insync.replicas
}

const (
	maxMessageBytes   = "max.message.bytes"
	minInSyncReplicas = "min.insync.replicas"
	cleanupPolicy     = "cleanup.policy"
)

// create makes the topic. That it exists already is success.
func (s *Sink) create(ctx context.Context) error {
	// On a client that goes on, the library would wait for the topic in metadata that may not list it.
	g, err := s.connector.open(ctx, s.keeper.generation.Load().brokers)
	if err != nil {
		return s.explain("creating "+s.place(), err)
	}
	defer g.abort()
	config := kafkago.TopicConfig{Topic: s.opts.Topic, NumPartitions: -1, ReplicationFactor: -1}
	if s.opts.Partitions > 0 {
		config.NumPartitions = s.opts.Partitions
	}
	if s.opts.ReplicationFactor > 0 {
		config.ReplicationFactor = s.opts.ReplicationFactor
	}
	if config.ReplicationFactor >= 3 {
		// With the brokers' default of 1, what is acknowledged could be with one broker alone.
		config.ConfigEntries = []kafkago.ConfigEntry{{ConfigName: minInSyncReplicas, ConfigValue: "2"}}
	}
	res, err := request(ctx, g.client.CreateTopics, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{config}})
	if err == nil {
		err = res.Errors[s.opts.Topic]
	}
	what := "creating " + s.place()
	code, _ := errors.AsType[kafkago.Error](err)
	switch {
	case err == nil:
		s.log.Info("created the Kafka topic", slog.String("topic", s.opts.Topic),
			slog.Int("partitions", config.NumPartitions), slog.Int("replication_factor", config.ReplicationFactor))
		return nil
	case code == kafkago.TopicAlreadyExists:
		return nil
	case code == kafkago.InvalidReplicationFactor:
		return bridge.Blocked(&failure{
			text: fmt.Sprintf("%s: %s is %d, and the cluster has fewer brokers: lower it, or start more brokers (%s)",
				what, s.opts.Files.Variable("REPLICATION_FACTOR"), s.opts.ReplicationFactor, inWords(err)),
			cause: err,
		})
	case code == kafkago.InvalidPartitionNumber, code == kafkago.InvalidConfiguration, code == kafkago.InvalidRequest:
		return bridge.Blocked(&failure{
			text: what + ": " + inWords(err) + ": check " +
				s.opts.Files.Variables("PARTITIONS", "REPLICATION_FACTOR"),
			cause: err,
		})
	case code == kafkago.TopicAuthorizationFailed:
		// Kafka answers so when neither the topic nor the cluster grants CREATE.
		return bridge.Blocked(&failure{
			text: what + ": " + inWords(err) + ": grant the user CREATE, or create the topic by hand", cause: err,
		})
	}
	return s.explain(what, err)
}

// compare warns, once, of what differs between the topic and the options that would have created it.
func (s *Sink) compare(t *topology) {
	if s.keeper.compared {
		return
	}
	s.keeper.compared = true
	if !s.opts.CreateTopic {
		return // PARTITIONS and REPLICATION_FACTOR are nobody's wish then
	}
	if want := s.opts.Partitions; want > 0 && want != len(t.partitions) {
		s.warn("topic_partitions",
			"the Kafka topic exists with another number of partitions than "+s.opts.Files.Variable("PARTITIONS")+
				" says; it is used as it is",
			slog.Int("partitions", len(t.partitions)), slog.Int("configured", want))
	}
	if want := s.opts.ReplicationFactor; want > 0 && want != t.replicas {
		s.warn("topic_replicas",
			"the Kafka topic exists with another replication factor than "+s.opts.Files.Variable("REPLICATION_FACTOR")+
				" says; it is used as it is",
			slog.Int("replication_factor", t.replicas), slog.Int("configured", want))
	}
}

// warn tells the log about the topic, and keeps it for Warnings.
func (s *Sink) warn(key, message string, attrs ...any) {
	s.log.With(slog.String("topic", s.opts.Topic)).Warn(message, attrs...) //nolint:sloglint // all messages are constants of this file
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	s.keeper.warnings = append(s.keeper.warnings, bridge.Warning{Key: key, Text: s.place() + ": " + message})
}

// Warnings implements bridge.Warner: how the topics are set up, where that endangers events. That of the credentials
// comes once: those of the dead letters are the same.
func (s *Sink) Warnings() []bridge.Warning {
	warnings := append(s.keeper.renewal.Warnings(), s.topicWarnings()...)
	if s.letters != nil {
		warnings = append(warnings, s.letters.topicWarnings()...)
	}
	return warnings
}

func (s *Sink) topicWarnings() []bridge.Warning {
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	return slices.Clone(s.keeper.warnings)
}

// describe reads the topic's settings as well as it may.
func (s *Sink) describe(ctx context.Context, t *topology) {
	s.keeper.nextDescribe = time.Now().Add(s.timing.describe)
	ctx, cancel := context.WithTimeout(ctx, s.timing.metadata)
	defer cancel()
	res, err := request(ctx, s.keeper.generation.Load().client.DescribeConfigs, &kafkago.DescribeConfigsRequest{
		Resources: []kafkago.DescribeConfigRequestResource{{
			ResourceType: kafkago.ResourceTypeTopic,
			ResourceName: s.opts.Topic,
			ConfigNames:  []string{maxMessageBytes, minInSyncReplicas, cleanupPolicy},
		}},
	})
	if err != nil {
		s.log.Debug("cannot read the settings of the Kafka topic", slog.Any("error", err))
		return
	}
	for _, resource := range res.Resources {
		if resource.Error != nil {
			s.log.Debug("cannot read the settings of the Kafka topic", slog.Any("error", resource.Error))
		}
		for _, entry := range resource.ConfigEntries {
			if entry.ConfigName == cleanupPolicy {
				s.warnOfCompaction(entry.ConfigValue)
				continue
			}
			n, err := strconv.ParseInt(entry.ConfigValue, 10, 64)
			if err != nil || n <= 0 {
				continue
			}
			switch entry.ConfigName {
			case maxMessageBytes:
				s.limits.maxBytes.Store(n)
			case minInSyncReplicas:
				s.limits.minSync.Store(n)
			}
		}
	}
	s.warnOfFewReplicas(t)
}

// warnOfCompaction warns, once, of a topic that keeps the last record of a key alone.
func (s *Sink) warnOfCompaction(policy string) {
	if !strings.Contains(policy, "compact") || s.keeper.warnedCompact {
		return
	}
	s.keeper.warnedCompact = true
	s.warn("topic_compaction",
		"the Kafka topic keeps the last record of a key alone, so that the events of a request replace each other; "+
			"set its cleanup.policy to delete",
		slog.String("cleanup_policy", policy))
}

// warnOfFewReplicas warns, once, of a topic whose acknowledgement is the word of one broker, which Kafka gives before
// its disk has the event.
func (s *Sink) warnOfFewReplicas(t *topology) {
	if s.limits.minSync.Load() != 1 || s.keeper.warnedInSync {
		return
	}
	s.keeper.warnedInSync = true
	what := "min.insync.replicas of the Kafka topic is 1: a broker may acknowledge what it alone has, and lose it; " +
		"set it to 2, with three replicas"
	if t.replicas == 1 {
		what = "the Kafka topic has one replica: what its broker acknowledges is lost with that broker; " +
			"give it three, and min.insync.replicas=2"
	}
	s.warn("topic_durability", what, slog.Int("replication_factor", t.replicas))
}
