package nats

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/fnbridge/fnbridge/config/setting"
)

// URL is the URL of a server. However it is printed, logged or marshalled, user, password or token in it are
// [redacted]. Reveal returns it whole.
type URL struct {
	whole setting.Secret
	shown string
}

// Reveal returns the whole URL.
func (u URL) Reveal() string { return u.whole.Reveal() }

// String returns the URL without its credentials.
func (u URL) String() string { return u.shown }

// GoString is String.
func (u URL) GoString() string { return u.shown }

// Format prints String for every verb.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.shown) }

// MarshalText is String; JSON and the like go by it.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.shown), nil }

// LogValue is String.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.shown) }

// hasCredentials tells whether there is a user, password or token in the URL.
func (u URL) hasCredentials() bool { return u.shown != u.whole.Reveal() }

// clear tells whether a connection to another machine may be without TLS.
func (u URL) clear() bool {
	parsed, reason := parseURL(u.whole.Reveal())
	if reason != "" || parsed.Scheme == "tls" || parsed.Scheme == "wss" {
		return false
	}
	return parsed.Hostname() != "localhost" && !net.ParseIP(parsed.Hostname()).IsLoopback()
}

// secureScheme is the scheme with which it could not.
func (u URL) secureScheme() string {
	if strings.HasPrefix(u.shown, "ws") {
		return "wss"
	}
	return "tls"
}

// URLs is a list of NATS server URLs.
type URLs []URL

// Reveal returns the whole URLs.
func (u URLs) Reveal() []string {
	list := make([]string, len(u))
	for i, one := range u {
		list[i] = one.Reveal()
	}
	return list
}

// Decode reads URLs separated by commas.
func (u *URLs) Decode(value string) error {
	list := setting.List(value)
	if len(list) == 0 {
		return errors.New("there is no URL in it: give nats://host:4222, several separated by commas")
	}
	// With an @ somewhere, a part of the value can be a part of a password: it may hold commas.
	mayHoldPassword := strings.Contains(value, "@")
	var (
		urls      = make(URLs, 0, len(list))
		errs      []error
		webSocket int
	)
	for i, text := range list {
		parsed, reason := parseURL(text)
		if reason != "" {
			what := setting.Quote(text)
			if mayHoldPassword {
				what = fmt.Sprintf("URL %d of %d (not shown, as there may be a password in it)", i+1, len(list))
			}
			errs = append(errs, fmt.Errorf(
				"%s %s: give nats://, tls://, ws:// or wss:// with a host and a port, such as nats://nats-1:4222",
				what, reason))
			continue
		}
		if strings.HasPrefix(parsed.Scheme, "ws") {
			webSocket++
		}
		one := URL{whole: setting.NewSecret(text), shown: text}
		if parsed.User != nil {
			_, host, _ := strings.Cut(text, "@")
			one.shown = parsed.Scheme + "://" + setting.Redacted + "@" + host
		}
		urls = append(urls, one)
	}
	if webSocket > 0 && webSocket < len(urls) {
		errs = append(errs, errors.New("WebSocket URLs (ws://, wss://) stand beside others: give one or the other"))
	}
	*u = urls
	return errors.Join(errs...)
}

func parseURL(text string) (*url.URL, string) {
	parsed, err := url.Parse(text)
	switch {
	case err != nil || !strings.Contains(text, "://"):
		return nil, "is not a URL"
	case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, parsed.Scheme):
		return nil, "has a scheme that NATS does not know"
	case parsed.Hostname() == "":
		return nil, "names no host"
	}
	if port := parsed.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, "has a port outside of 1 to 65535"
		}
	}
	// An @ left after the credentials would be a part of them that was not percent-encoded.
	if strings.Count(text, "@") > 1 {
		return nil, "has a second @ (write it as %40 in a user or password)"
	}
	return parsed, ""
}

// addresses returns what to dial for URLs that Decode has taken.
func addresses(urls string) []*url.URL {
	var list []*url.URL
	for _, text := range setting.List(urls) {
		u, reason := parseURL(text)
		if reason != "" {
			continue // New has refused it
		}
		if u.Port() == "" && (u.Scheme == "nats" || u.Scheme == "tls") {
			u.Host += ":4222"
		}
		list = append(list, u)
	}
	return list
}
