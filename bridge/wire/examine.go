package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// soon is how long before its end a certificate is worth a warning.
const soon = 21 * 24 * time.Hour

// Examine looks up the names of brokers and connects to each, and returns the steps. addresses are host:port. One of
// them that can be reached is enough; the others are a warning.
func Examine(ctx context.Context, addresses []string) []bridge.Step {
	names := bridge.Step{Name: "name resolution"}
	reached := bridge.Step{Name: "connection"}
	var found, connected, unknown, away []string
	var lookup, dial error
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		if net.ParseIP(host) == nil {
			ips, err := net.DefaultResolver.LookupHost(ctx, host)
			if err != nil {
				lookup = err
				unknown = append(unknown, host)
				continue
			}
			found = append(found, host+" is "+strings.Join(ips, ", "))
		}
		began := time.Now()
		conn, err := Dial(ctx, "tcp", address)
		if err != nil {
			dial = err
			away = append(away, address)
			continue
		}
		_ = conn.Close()
		connected = append(connected, fmt.Sprintf("%s in %s", address, time.Since(began).Round(100*time.Microsecond)))
	}
	names.Detail, reached.Detail = strings.Join(found, "; "), strings.Join(connected, "; ")
	if names.Detail == "" && lookup == nil {
		names.Detail = "no names are used"
	}
	if lookup != nil {
		what := fmt.Errorf("%s cannot be looked up: check the address, and the resolver of this machine: %w",
			strings.Join(unknown, ", "), lookup)
		if len(unknown) == len(addresses) {
			names.Err = bridge.Retry(what)
			return []bridge.Step{names}
		}
		names.Warning = what.Error()
	}
	if dial != nil {
		what := fmt.Errorf("%s cannot be reached: check address and port, whether the broker runs, and what lies between "+
			"(firewall, NetworkPolicy): %w", strings.Join(away, ", "), dial)
		if len(connected) == 0 {
			reached.Err = bridge.Retry(what)
		} else {
			reached.Warning = what.Error()
		}
	}
	return []bridge.Step{names, reached}
}

// Certificate is the step of a TLS connection: what the other side's certificate is for, and until when.
func Certificate(state tls.ConnectionState, now time.Time) bridge.Step {
	if len(state.PeerCertificates) == 0 {
		return bridge.Step{Name: "TLS", Detail: "the other side shows no certificate", Skipped: true}
	}
	step := bridge.Step{Name: "TLS"}
	step.Detail, step.Warning = Validity(state.PeerCertificates[0], now)
	return step
}

// Validity says until when a certificate is valid, and warns if that is soon.
func Validity(c *x509.Certificate, now time.Time) (detail, warning string) {
	days := int(c.NotAfter.Sub(now) / (24 * time.Hour))
	detail = fmt.Sprintf("certificate until %s, %d days", c.NotAfter.UTC().Format(time.DateOnly), days)
	switch {
	case now.After(c.NotAfter):
		warning = fmt.Sprintf("the certificate has expired on %s: renew it", c.NotAfter.UTC().Format(time.DateOnly))
	case c.NotAfter.Sub(now) < soon:
		warning = fmt.Sprintf("the certificate ends in %d days: renew it", days)
	}
	return detail, warning
}

// Fits is the step that compares the largest webhook with the largest message that a broker takes, 0 for any, as the
// setting limits it.
func Fits(name, detail string, largest bridge.Largest, most int64, setting string) bridge.Step {
	step := bridge.Step{Name: name, Detail: detail}
	if most > 0 && most < largest.Bytes {
		step.Warning = fmt.Sprintf("FNBRIDGE_MAX_BODY is %d bytes, and %s takes at most %d: the events of larger webhooks "+
			"%s. Raise %s, or lower FNBRIDGE_MAX_BODY", largest.Bytes, name, most, largest.TooLarge, setting)
	}
	return step
}

// patience is how far clocks may be apart before it is worth a warning.
const patience = 30 * time.Second

// Clock is the step that compares this machine's clock with a broker's, which said at while it was asked between before
// and after.
func Clock(at, before, after time.Time) bridge.Step {
	step := bridge.Step{Name: "clock"}
	if at.IsZero() {
		step.Detail, step.Skipped = "the broker does not tell its time", true
		return step
	}
	var apart time.Duration
	switch {
	case at.Before(before):
		apart = at.Sub(before)
	case at.After(after):
		apart = at.Sub(after)
	}
	step.Detail = fmt.Sprintf("the broker's is within %s", max(apart.Abs(), after.Sub(before)).Round(time.Millisecond))
	if apart.Abs() > patience {
		step.Warning = fmt.Sprintf("this machine's clock and the broker's are %s apart: one of them is wrong. "+
			"Signatures are judged by this machine's clock (FNBRIDGE_WEBHOOK_TOLERANCE): look at its time service",
			apart.Abs().Round(time.Second))
	}
	return step
}
