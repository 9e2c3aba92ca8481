package config

import (
	"net"
	"slices"
	"strings"
)

const (
	// maxEmbeddedBody is the largest body that the embedded NATS server stores for sure, when an event has all of it as its
	// data. It takes 8 MiB a message, headers included.
	maxEmbeddedBody Bytes = 7 << 20
	// leastBodies is how many webhooks of the greatest size the journal has room for at the least, so that one that waits
	// does not shut out the next.
	leastBodies = 4
)

// checkTogether finds values that are right one by one, and wrong beside each other.
func (l *loader) checkTogether() {
	l.checkBridge()
	l.checkAck()
	l.checkListeners()
	for i := range l.config.Sinks {
		s := &l.config.Sinks[i]
		switch s.Kind {
		case KindNATS:
			l.checkNATS(s)
		case KindKafka:
			l.checkKafka(s)
		}
		for _, other := range l.config.Sinks[:i] {
			l.checkPair(other, *s)
		}
	}
}

// given returns the name under which a variable was given; ok is false when it was not.
func (l *loader) given(sink, name string) (as string, ok bool) {
	as, ok = l.config.given[prefixOf(sink)+name]
	return as, ok
}

// bad tells whether a variable has a problem already, which another one would only repeat.
func (l *loader) bad(variable string) bool {
	return slices.ContainsFunc(l.errs, func(p Problem) bool {
		return p.Variable == variable || p.Variable == variable+fileSuffix
	})
}

// both demands that of two variables none or both are given.
func (l *loader) both(sink, first, second string) {
	for range 2 {
		_, has := l.given(sink, second)
		if as, ok := l.given(sink, first); ok && !has {
			l.problem(prefixOf(sink)+second, "is not set, and %s is: give both or none", as)
		}
		first, second = second, first
	}
}

func (l *loader) checkBridge() {
	c := l.config
	l.both("", "TLS_CERT_FILE", "TLS_KEY_FILE")
	if as, ok := l.given("", "WEBHOOK_SECRETS"); ok && c.InsecureUnsigned {
		l.problem(c.Variable("", "INSECURE_UNSIGNED"), "true accepts webhooks that nobody signed, although %s is set: remove one of the two", as)
	}
	if !c.AcksFromSinks() && !l.bad(prefix+"JOURNAL_MAX_BYTES") && !l.bad(prefix+"MAX_BODY") && c.JournalMaxBytes < leastBodies*c.MaxBody {
		l.problem(c.Variable("", "JOURNAL_MAX_BYTES"), "%s is less than %d times FNBRIDGE_MAX_BODY (%s), so that few webhooks could fill the journal: give at least %s, or a smaller FNBRIDGE_MAX_BODY",
			c.JournalMaxBytes, leastBodies, c.MaxBody, leastBodies*c.MaxBody)
	}
}

// checkAck finds what does not go with the way in which webhooks are acknowledged.
func (l *loader) checkAck() {
	c := l.config
	if l.bad(prefix + "ACK") {
		return
	}
	if !c.AcksFromSinks() {
		for _, s := range c.Sinks {
			if as, ok := l.given(s.Name, "REQUIRED"); ok && !s.Required && !l.bad(prefixOf(s.Name)+"REQUIRED") {
				l.warn(as, "has no effect with FNBRIDGE_ACK=%s, where no webhook waits for a sink, and each sink gets every event however long it was down", AckJournal)
			}
		}
		return
	}
	embedded, required := false, false
	for i := range c.Sinks {
		s := &c.Sinks[i]
		embedded = embedded || (s.NATS != nil && !l.external(*s))
		required = required || s.Required || l.bad(prefixOf(s.Name)+"REQUIRED")
		if as, ok := l.given(s.Name, "GIVE_UP_AFTER"); ok && s.GiveUpAfter > 0 {
			l.problem(as, "is for FNBRIDGE_ACK=%s: with %s, a webhook that is not stored within 12s is answered 503, and its sender keeps it; leave this out", AckJournal, AckSinks)
		}
	}
	if !required && len(c.Sinks) > 0 {
		l.problem(c.Variable(c.Sinks[0].Name, "REQUIRED"), "false leaves no sink that a 2xx answer could stand for with FNBRIDGE_ACK=%s: make one sink required", AckSinks)
	}
	if _, ok := l.given("", "WEBHOOK_SECRETS"); !ok && !c.InsecureUnsigned && !embedded {
		l.problem(prefix+"WEBHOOK_SECRETS", "is not set, and with FNBRIDGE_ACK=%s each process would make a secret of its own: give the signing secret that Tensorlake shows for the endpoint", AckSinks)
	}
	for _, v := range []string{"JOURNAL_MAX_BYTES", "RETENTION"} {
		if as, ok := l.given("", v); ok {
			l.warn(as, "has no effect with FNBRIDGE_ACK=%s, which has no journal", AckSinks)
		}
	}
}

// checkListeners finds two listeners on one address, and an embedded NATS server that is not needed or open to all.
func (l *loader) checkListeners() {
	c := l.config
	const embedded = "EMBEDDED_NATS_LISTEN"
	type listener struct{ name, address string }
	listeners := []listener{{"LISTEN", c.Listen}, {"OPS_LISTEN", c.OpsListen}}
	runs := slices.ContainsFunc(c.Sinks, func(s Sink) bool { return s.NATS != nil && !l.external(s) })
	as, given := l.given("", embedded)
	host, _, ok := splitAddress(c.EmbeddedNATSListen)
	switch {
	case runs && ok && !loopback(host):
		l.warn(c.Variable("", embedded), "whoever reaches %s can read and publish every event, as the embedded NATS server asks for no credentials", c.EmbeddedNATSListen)
	case given && !runs && len(c.Sinks) > 0:
		l.warn(as, "has no effect, as no sink uses the embedded NATS server")
	}
	if runs {
		listeners = append(listeners, listener{embedded, c.EmbeddedNATSListen})
	}
	for i, one := range listeners {
		for _, other := range listeners[:i] {
			if overlap(one.address, other.address) {
				l.problem(c.Variable("", one.name), "%s is taken by %s (%s): give each a port of its own", one.address, c.Variable("", other.name), other.address)
			}
		}
	}
}

// overlap tells whether one machine cannot listen on both addresses. Port 0 is a free port each time.
func overlap(a, b string) bool {
	hostA, portA, okA := splitAddress(a)
	hostB, portB, okB := splitAddress(b)
	everywhere := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "" || ip != nil && ip.IsUnspecified()
	}
	return okA && okB && portA == portB && portA != 0 && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// external tells whether a NATS sink has servers of its own, even if what it was given for them is wrong.
func (l *loader) external(s Sink) bool {
	_, ok := l.given(s.Name, "URL")
	return ok
}

func (l *loader) checkNATS(s *Sink) {
	c, n, name := l.config, s.NATS, s.Name
	l.both(name, "USER", "PASSWORD")
	l.both(name, "TLS_CERT_FILE", "TLS_KEY_FILE")

	var logins []string
	for _, v := range []string{"CREDS_FILE", "TOKEN", "USER", "NKEY_FILE"} {
		if as, ok := l.given(name, v); ok {
			logins = append(logins, as)
		}
	}
	if slices.ContainsFunc(n.URL, URL.hasCredentials) {
		logins = append(logins, c.Variable(name, "URL"))
	}
	if last := len(logins) - 1; last > 0 {
		l.problem(logins[last], "logs in, and so does %s: keep one way to log in", strings.Join(logins[:last], ", "))
	}

	if !l.external(*s) {
		if c.MaxBody > maxEmbeddedBody && !l.bad(prefix+"MAX_BODY") {
			l.problem(c.Variable("", "MAX_BODY"), "%s is more than the embedded NATS server stores in one message: give at most %s, or set %s to a server whose max_payload is larger",
				c.MaxBody, maxEmbeddedBody, prefixOf(name)+"URL")
		}
		for _, v := range []string{"CREDS_FILE", "TOKEN", "USER", "PASSWORD", "NKEY_FILE", "TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"} {
			if as, ok := l.given(name, v); ok {
				l.problem(as, "is for a server of your own, and the embedded one takes no credentials and no TLS: set %s, or leave this out", prefixOf(name)+"URL")
			}
		}
		if n.Replicas > 1 && !l.bad(prefixOf(name)+"REPLICAS") {
			l.problem(c.Variable(name, "REPLICAS"), "%d replicas need a cluster, and the embedded server is a single one: set %s, or give 1", n.Replicas, prefixOf(name)+"URL")
		}
	}

	if !l.bad(prefixOf(name)+"DEDUPE_WINDOW") && !l.bad(prefixOf(name)+"MAX_AGE") && n.DedupeWindow > n.MaxAge {
		l.problem(c.Variable(name, "DEDUPE_WINDOW"), "%s is longer than events are kept (%s, %s), which no stream allows: give at most %s",
			n.DedupeWindow, prefixOf(name)+"MAX_AGE", n.MaxAge, n.MaxAge)
	}
}

func (l *loader) checkKafka(s *Sink) {
	c, k, name := l.config, s.Kafka, s.Name
	if _, ok := l.given(name, "BROKERS"); !ok {
		l.problem(prefixOf(name)+"BROKERS", "is not set: give host:port of one broker or more, separated by commas, such as broker-1:9092,broker-2:9092")
	}

	switch as := c.Variable(name, "DEAD_LETTER"); {
	case s.DeadLetter == "":
	case !isTopic(s.DeadLetter):
		l.problem(as, "%s is not a name of a topic: give one fixed topic, at most 249 of a-z, A-Z, 0-9, dot, _ and -, such as %s-dead-letters",
			quote(s.DeadLetter), k.Topic)
	case s.DeadLetter == k.Topic:
		l.problem(as, "%s is the topic of the events, whose consumers would take dead letters for events: give a topic of its own, such as %s-dead-letters",
			s.DeadLetter, k.Topic)
	}

	l.both(name, "TLS_CERT_FILE", "TLS_KEY_FILE")
	for _, v := range []string{"TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE"} {
		if as, ok := l.given(name, v); ok && !k.TLS && !l.bad(prefixOf(name)+"TLS") {
			l.problem(as, "has no effect without TLS: set %s=true, or leave this out", prefixOf(name)+"TLS")
		}
	}

	mechanism, hasMechanism := l.given(name, "SASL_MECHANISM")
	for _, v := range []string{"SASL_USERNAME", "SASL_PASSWORD"} {
		as, ok := l.given(name, v)
		switch {
		case ok && !hasMechanism:
			l.problem(as, "has no effect without a mechanism: set %s to PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", prefixOf(name)+"SASL_MECHANISM")
		case !ok && hasMechanism:
			l.problem(prefixOf(name)+v, "is not set, and %s is: give user and password", mechanism)
		}
	}
	if k.SASLMechanism == "PLAIN" && !k.TLS && !l.bad(prefixOf(name)+"TLS") {
		l.warn(mechanism, "PLAIN without TLS sends the password in clear text: set %s=true", prefixOf(name)+"TLS")
	}
}

// checkPair finds two sinks that get into each other's way.
func (l *loader) checkPair(a, b Sink) {
	switch {
	case a.NATS != nil && b.NATS != nil && l.sameServers(a, b):
		// A stream is made for the subjects of one sink.
		if a.NATS.Stream == b.NATS.Stream {
			l.problem(l.config.Variable(b.Name, "STREAM"), "the sink %s writes to the stream %s of the same server: give each sink a stream and a subject of its own",
				a.Name, a.NATS.Stream)
		}
	case a.Kafka != nil && b.Kafka != nil && len(a.Kafka.Brokers) > 0 && sameSet(a.Kafka.Brokers, b.Kafka.Brokers):
		if a.Kafka.Topic == b.Kafka.Topic {
			l.warn(l.config.Variable(b.Name, "TOPIC"), "the sink %s writes to the topic %s of the same brokers: it will hold every event twice", a.Name, a.Kafka.Topic)
		}
		l.checkLettersApart(a, b)
		l.checkLettersApart(b, a)
	}
}

// checkLettersApart demands that the dead letters of a Kafka sink go to another topic than the events of one at the same brokers.
func (l *loader) checkLettersApart(of, from Sink) {
	if of.DeadLetter != "" && of.DeadLetter == from.Kafka.Topic && of.DeadLetter != of.Kafka.Topic {
		l.problem(l.config.Variable(of.Name, "DEAD_LETTER"), "%s is the topic of the events of the sink %s, whose consumers would take dead letters for events: give a topic of its own, such as %s-dead-letters",
			of.DeadLetter, from.Name, of.Kafka.Topic)
	}
}

// sameServers tells whether two NATS sinks are known to publish to the same place.
func (l *loader) sameServers(a, b Sink) bool {
	if l.external(a) != l.external(b) || l.bad(prefixOf(a.Name)+"URL") || l.bad(prefixOf(b.Name)+"URL") {
		return false
	}
	return sameSet(a.NATS.URL.Reveal(), b.NATS.URL.Reveal())
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
