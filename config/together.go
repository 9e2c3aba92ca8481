package config

import (
	"fmt"
	"net"
	"unicode/utf8"

	"github.com/fnbridge/fnbridge/config/setting"
)

// leastBodies is how many webhooks of the greatest size the journal has room for at the least, so that one that waits
// does not shut out the next.
const leastBodies = 4

// leastToken is the fewest characters of the page's token.
const leastToken = 16

// checkTogether finds values that are right one by one, and wrong beside each other.
func (l *loader) checkTogether() {
	l.checkBridge()
	l.checkAck()
	l.checkListeners()
	sinks := make([]*setting.Sink, len(l.config.Sinks))
	for i, s := range l.config.Sinks {
		sinks[i] = &setting.Sink{
			Scope: l.scope(s.Name), Name: s.Name, Settings: s.Settings, DeadLetter: s.DeadLetter, Embedded: s.Embedded,
			Bridge: l.scope(""), MaxBody: l.config.MaxBody,
		}
		s.Settings.Check(sinks[i], sinks[:i])
	}
}

// CheckPageToken says what is wrong with a value of FNBRIDGE_PAGE_TOKEN. The error does not show it.
func CheckPageToken(token string) error {
	if n := utf8.RuneCountInString(token); n < leastToken {
		return fmt.Errorf("has %d characters, and whoever guesses it sees every payload: give at least %d, "+
			"such as what \"openssl rand -hex 16\" prints", n, leastToken)
	}
	return nil
}

func (l *loader) checkBridge() {
	c, bridge := l.config, l.scope("")
	bridge.Both("TLS_CERT_FILE", "TLS_KEY_FILE")
	if bridge.Given("WEBHOOK_SECRETS") && c.InsecureUnsigned {
		bridge.Problem("INSECURE_UNSIGNED", "true accepts webhooks that nobody signed, although %s is set: remove one of "+
			"the two",
			bridge.As("WEBHOOK_SECRETS"))
	}
	if bridge.Given("PAGE_TOKEN") && !bridge.Bad("PAGE_TOKEN") {
		if err := CheckPageToken(c.PageToken.Reveal()); err != nil {
			bridge.Problem("PAGE_TOKEN", "%v", err)
		}
	}
	if !c.AcksFromSinks() && !bridge.Bad("JOURNAL_MAX_BYTES") && !bridge.Bad("MAX_BODY") &&
		c.JournalMaxBytes < leastBodies*c.MaxBody {
		bridge.Problem("JOURNAL_MAX_BYTES", "%s is less than %d times FNBRIDGE_MAX_BODY (%s), so that few webhooks could "+
			"fill the journal: give at least %s, or a smaller FNBRIDGE_MAX_BODY",
			c.JournalMaxBytes, leastBodies, c.MaxBody, leastBodies*c.MaxBody)
	}
}

// checkAck finds what does not go with the way in which webhooks are acknowledged.
func (l *loader) checkAck() {
	c, bridge := l.config, l.scope("")
	if bridge.Bad("ACK") {
		return
	}
	if !c.AcksFromSinks() {
		for _, s := range c.Sinks {
			if sink := l.scope(s.Name); sink.Given("REQUIRED") && !s.Required && !sink.Bad("REQUIRED") {
				sink.Warn("REQUIRED", "has no effect with FNBRIDGE_ACK=%s, where no webhook waits for a sink, "+
					"and each sink gets every event however long it was down", AckJournal)
			}
		}
		return
	}
	required := false
	for _, s := range c.Sinks {
		sink := l.scope(s.Name)
		required = required || s.Required || sink.Bad("REQUIRED")
		if sink.Given("GIVE_UP_AFTER") && s.GiveUpAfter > 0 {
			sink.Problem("GIVE_UP_AFTER", "is for FNBRIDGE_ACK=%s: with %s, a webhook that is not stored within 12s is "+
				"answered 503, and its sender keeps it; leave this out", AckJournal, AckSinks)
		}
	}
	if !required && len(c.Sinks) > 0 {
		l.scope(c.Sinks[0].Name).Problem("REQUIRED", "false leaves no sink that a 2xx answer could stand for with "+
			"FNBRIDGE_ACK=%s: make one sink required", AckSinks)
	}
	if !bridge.Given("WEBHOOK_SECRETS") && !c.InsecureUnsigned && !c.UsesEmbedded() {
		bridge.Problem("WEBHOOK_SECRETS", "is not set, and with FNBRIDGE_ACK=%s each process would make a secret of its "+
			"own: give the signing secret that Tensorlake shows for the endpoint", AckSinks)
	}
	for _, name := range []string{"JOURNAL_MAX_BYTES", "RETENTION"} {
		if bridge.Given(name) {
			bridge.Warn(name, "has no effect with FNBRIDGE_ACK=%s, which has no journal", AckSinks)
		}
	}
}

// checkListeners finds two listeners on one address, and settings of an embedded NATS server that does not run.
func (l *loader) checkListeners() {
	c, bridge := l.config, l.scope("")
	const embedded, monitor = "EMBEDDED_NATS_LISTEN", "EMBEDDED_NATS_MONITOR_LISTEN"
	type listener struct{ name, address string }
	listeners := []listener{{"LISTEN", c.Listen}, {"OPS_LISTEN", c.OpsListen}}
	if c.UsesEmbedded() {
		listeners = append(listeners, listener{embedded, c.EmbeddedNATSListen})
		if bridge.Given(monitor) {
			listeners = append(listeners, listener{monitor, c.EmbeddedNATSMonitorListen})
		}
	} else if len(c.Sinks) > 0 {
		for _, name := range []string{embedded, "EMBEDDED_NATS_TOKEN", monitor} {
			if bridge.Given(name) {
				bridge.Warn(name, "has no effect, as no sink uses the embedded NATS server")
			}
		}
	}
	for i, one := range listeners {
		for _, other := range listeners[:i] {
			if overlap(one.address, other.address) {
				bridge.Problem(one.name, "%s is taken by %s (%s): give each a port of its own",
					one.address, bridge.As(other.name), other.address)
			}
		}
	}
}

// overlap tells whether one machine cannot listen on both addresses. Port 0 is a free port each time.
func overlap(a, b string) bool {
	hostA, portA, okA := setting.SplitAddress(a)
	hostB, portB, okB := setting.SplitAddress(b)
	everywhere := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "" || ip != nil && ip.IsUnspecified()
	}
	return okA && okB && portA == portB && portA != 0 && (hostA == hostB || everywhere(hostA) || everywhere(hostB))
}

// AsksNATSToken tells whether clients of the embedded NATS server need a token: where others than this machine reach
// it, or where one is given.
func (c *Config) AsksNATSToken() bool {
	host, _, ok := setting.SplitAddress(c.EmbeddedNATSListen)
	ip := net.ParseIP(host)
	return !c.EmbeddedNATSToken.IsZero() || ok && host != "localhost" && !ip.IsLoopback()
}
