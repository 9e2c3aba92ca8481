package ops

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/problem"
)

// Access says who may see names and payloads: the page and what is under /api/. The zero Access lets nobody.
type Access struct {
	// Token is what is asked of everyone now, as the password of HTTP Basic authentication with any user name. Nil: none
	// is asked, and only requests from this machine may see.
	Token func() string
	// Loopback tells whether the listener can be reached from this machine alone.
	Loopback bool
}

// IsLoopback tells whether a listener at this address can be reached from this machine alone.
func IsLoopback(at net.Addr) bool {
	tcp, ok := at.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// howToSee is what every refusal without a token ends with.
const howToSee = "Set FNBRIDGE_PAGE_TOKEN, at least 16 characters, and give it as the password of HTTP Basic " +
	"authentication, with any user name; or open the page on the bridge's own machine, with FNBRIDGE_OPS_LISTEN at " +
	"127.0.0.1."

// guard answers who may not see, and hands on the rest.
func (a Access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := a.foreign(r); why != "" {
			problem.New(http.StatusForbidden, why).Write(w)
			return
		}
		if a.Token == nil {
			next.ServeHTTP(w, r)
			return
		}
		_, given, _ := r.BasicAuth()
		got, want := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(a.Token()))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="fnbridge", charset="UTF-8"`)
			problem.New(http.StatusUnauthorized, "The page and /api/ show payloads. Give the value of FNBRIDGE_PAGE_TOKEN as "+
				"the password of HTTP Basic authentication, with any user name.").Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign says why a request may not see, whatever token it has; empty: it may.
func (a Access) foreign(r *http.Request) string {
	// A page of another site may link here, and no more: what it fetched it could not read, but it would take places.
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return "The page and /api/ show payloads, and this request comes from a page of another site."
	}
	if a.Token != nil {
		return ""
	}
	switch forwarded := forwardingHeader(r.Header); {
	case !a.Loopback:
		return "The page and /api/ show payloads, and other machines reach this listener. " + howToSee
	case !loopbackHost(r.Host): // a name that an attacker's DNS points at this machine ends here
		return "The page and /api/ show payloads, and without a token only a request to localhost, 127.0.0.1 or [::1] may " +
			"see them. " + howToSee
	case forwarded != "":
		return "The page and /api/ show payloads, and the header " + forwarded + " says that a proxy forwards this request " +
			"for somebody else. " + howToSee
	}
	return ""
}

// loopbackHost tells whether a Host header, with a port or without, names this machine's loopback.
func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// forwardingHeader returns the name of a header that proxies add, and empty if there is none.
func forwardingHeader(header http.Header) string {
	for name := range header { // in their canonical form
		switch {
		case strings.HasPrefix(name, "X-Forwarded"), strings.HasPrefix(name, "X-Original"),
			strings.HasSuffix(name, "-Connecting-Ip"), strings.HasSuffix(name, "-Client-Ip"):
			return name
		}
		switch name {
		case "Forwarded", "Via", "X-Real-Ip", "X-Envoy-External-Address", "X-Cluster-Client-Ip", "Cf-Ray":
			return name
		}
	}
	return ""
}
