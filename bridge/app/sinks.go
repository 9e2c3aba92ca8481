package app

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks"
	"github.com/fnbridge/fnbridge/sinks/kafka"
	"github.com/fnbridge/fnbridge/sinks/nats"
)

// SinkOptions turns the configuration of one sink into options. cfg must have passed Validate. A nats sink without a URL
// gets the embedded server's configured address.
func SinkOptions(cfg *config.Config, s config.Sink, log *slog.Logger) sinks.Options {
	format, _ := cloudevents.ParseFormat(s.Format) // Validate has parsed it
	if s.Kafka != nil {
		c := s.Kafka
		key, _ := bridge.ParseTemplate(c.Key)
		return sinks.Options{Kafka: &kafka.Options{
			Name: s.Name, Brokers: c.Brokers, Topic: c.Topic, Key: key, Format: format, DeadLetter: s.DeadLetter,
			CreateTopic: c.CreateTopic, Partitions: c.Partitions, ReplicationFactor: c.ReplicationFactor,
			TLS: c.TLS, TLSCAFile: c.TLSCAFile, TLSCertFile: c.TLSCertFile, TLSKeyFile: c.TLSKeyFile,
			SASLMechanism: c.SASLMechanism, SASLUsername: c.SASLUsername, SASLPassword: c.SASLPassword.Reveal(),
			Compression: c.Compression, Logger: log,
		}}
	}
	c := s.NATS
	subject, _ := bridge.ParseTemplate(c.Subject)
	url := strings.Join(c.URL.Reveal(), ",")
	if url == "" {
		url = "nats://" + LocalAddress(cfg.EmbeddedNATSListen)
	}
	return sinks.Options{NATS: &nats.Options{
		Name: s.Name, URL: url, CredsFile: c.CredsFile, Token: c.Token.Reveal(), User: c.User, Password: c.Password.Reveal(),
		NKeyFile: c.NKeyFile, TLSCAFile: c.TLSCAFile, TLSCertFile: c.TLSCertFile, TLSKeyFile: c.TLSKeyFile,
		Stream: c.Stream, CreateStream: c.CreateStream, Replicas: c.Replicas, MaxAge: c.MaxAge, DedupeWindow: c.DedupeWindow,
		Subject: subject, Format: format, DeadLetter: s.DeadLetter, Logger: log,
	}}
}

// Validate has each part look at the settings that only it understands, and returns what is wrong as config.Load does.
func Validate(cfg *config.Config) config.Errors {
	var problems config.Errors
	check := func(s config.Sink, field string, err error) {
		if err != nil {
			problems = append(problems, config.Problem{Variable: cfg.Variable(s.Name, field), Message: err.Error()})
		}
	}
	for _, s := range cfg.Sinks {
		_, err := ParseRoutes(s.Routes)
		check(s, "ROUTES", err)
		if s.NATS != nil {
			subject, err := bridge.ParseTemplate(s.NATS.Subject)
			if err == nil {
				err = nats.ValidateSubject(subject)
			}
			if err == nil {
				err = validateSubjectApart(cfg, s, subject)
			}
			check(s, "SUBJECT", err)
			if err == nil && s.DeadLetter != "" {
				check(s, "DEAD_LETTER", validateDeadLetter(cfg, s))
			}
		}
		if s.Kafka != nil {
			_, err := bridge.ParseTemplate(s.Kafka.Key)
			check(s, "KEY", err)
		}
	}
	return problems
}

// validateSubjectApart tells whether the streams of a nats sink and of those before it can be made beside each other.
func validateSubjectApart(cfg *config.Config, of config.Sink, subject bridge.Template) error {
	for _, s := range cfg.Sinks {
		if s.Name == of.Name {
			break
		}
		if s.NATS == nil || !sameServers(s, of) || s.NATS.Stream == of.NATS.Stream || (!s.NATS.CreateStream && !of.NATS.CreateStream) {
			continue
		}
		other, err := bridge.ParseTemplate(s.NATS.Subject)
		if err != nil {
			continue // a problem of its own
		}
		if theirs, ours := nats.StreamSubject(other), nats.StreamSubject(subject); nats.Overlap(theirs, ours) {
			return fmt.Errorf("the sink %s publishes under %s of the same server, which has subjects in common with %s, and a subject belongs to one stream: "+
				"give each sink subjects of its own, such as %s.{route}", s.Name, theirs, ours, of.Name)
		}
	}
	return nil
}

func sameServers(a, b config.Sink) bool {
	servers := func(s config.Sink) []string { return slices.Sorted(slices.Values(s.NATS.URL.Reveal())) }
	return slices.Equal(servers(a), servers(b))
}

// validateDeadLetter tells whether the dead letters of a nats sink stay apart from its events, and from those that other
// sinks publish to the same servers.
func validateDeadLetter(cfg *config.Config, of config.Sink) error {
	for _, s := range cfg.Sinks {
		if s.NATS == nil || !sameServers(s, of) {
			continue
		}
		subject, err := bridge.ParseTemplate(s.NATS.Subject)
		if err != nil || nats.ValidateSubject(subject) != nil {
			continue // a problem of its own
		}
		if err := nats.ValidateDeadLetter(of.DeadLetter, subject); err != nil {
			return err
		}
	}
	return nil
}

func usesEmbedded(cfg *config.Config) bool {
	for _, s := range cfg.Sinks {
		if s.NATS != nil && len(s.NATS.URL) == 0 {
			return true
		}
	}
	return false
}

func embeddedDir(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "nats") }

func sinkNames(cfg *config.Config) []string {
	names := make([]string, 0, len(cfg.Sinks))
	for _, s := range cfg.Sinks {
		names = append(names, s.Name)
	}
	return names
}
