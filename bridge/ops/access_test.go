package ops_test

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/ops"
)

func TestWhoMaySeePayloads(t *testing.T) {
	const token = "0123456789abcdef"
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "payload") })
	basic := func(user, password string) []string {
		return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
	}
	local, open := ops.Access{Loopback: true}, ops.Access{}
	locked := ops.Access{Token: func() string { return token }}
	for name, c := range map[string]struct {
		access ops.Access
		host   string
		header []string
		status int
		says   string
	}{
		"loopback, by name":         {local, "localhost:8081", nil, 200, "payload"},
		"loopback, by address":      {local, "127.0.0.1", nil, 200, "payload"},
		"loopback, IPv6":            {local, "[::1]:8081", nil, 200, "payload"},
		"a name that points there":  {local, "attacker.example", nil, 403, "only a request to localhost"},
		"a name that begins alike":  {local, "localhost.attacker.example", nil, 403, "FNBRIDGE_PAGE_TOKEN"},
		"an address that is not":    {local, "10.0.0.1:8081", nil, 403, "FNBRIDGE_PAGE_TOKEN"},
		"no host":                   {local, "", nil, 403, "FNBRIDGE_PAGE_TOKEN"},
		"behind a proxy":            {local, "localhost", []string{"X-Forwarded-For", "1.2.3.4"}, 403, "X-Forwarded-For"},
		"behind a proxy, RFC 7239":  {local, "localhost", []string{"Forwarded", "for=1.2.3.4"}, 403, "header Forwarded"},
		"behind a proxy, Via":       {local, "localhost", []string{"Via", "1.1 x"}, 403, "header Via"},
		"behind nginx":              {local, "localhost", []string{"X-Real-IP", "1.2.3.4"}, 403, "X-Real-Ip"},
		"behind a content network":  {local, "localhost", []string{"CF-Connecting-IP", "1.2.3.4"}, 403, "Cf-Connecting-Ip"},
		"others reach the listener": {open, "localhost", nil, 403, "other machines reach this listener"},
		"from another site":         {local, "localhost", []string{"Sec-Fetch-Site", "cross-site"}, 403, "another site"},
		"a link on another site": {
			local, "localhost", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200, "payload",
		},
		"the token":            {locked, "bridge.example", basic("anybody", token), 200, "payload"},
		"the token, forwarded": {locked, "bridge.example", append(basic("", token), "Via", "1.1 x"), 200, "payload"},
		"no token":             {locked, "localhost", nil, 401, "FNBRIDGE_PAGE_TOKEN as the password"},
		"another token":        {locked, "localhost", basic("anybody", token+"0"), 401, "FNBRIDGE_PAGE_TOKEN"},
		"an empty one":         {locked, "localhost", basic("anybody", ""), 401, "FNBRIDGE_PAGE_TOKEN"},
		"the token as a user":  {locked, "localhost", basic(token, ""), 401, "FNBRIDGE_PAGE_TOKEN"},
		"the token, elsewhere": {
			locked, "bridge.example", append(basic("", token), "Sec-Fetch-Site", "cross-site"), 403, "another site",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := ops.New(ops.Options{Page: page, Access: c.access})
			for _, path := range []string{"/", "/api/status", "/api/events", "/page/page.js"} {
				r := httptest.NewRequest(http.MethodGet, "http://ignored"+path, nil)
				r.Host = c.host
				for i := 0; i < len(c.header); i += 2 {
					r.Header.Set(c.header[i], c.header[i+1])
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				require.Equal(t, c.status, w.Code, "%s: %s", path, w.Body)
				require.Contains(t, w.Body.String(), c.says)
				if c.status != http.StatusOK {
					require.NotContains(t, w.Body.String(), `"payload"`)
				}
				if c.status == http.StatusUnauthorized {
					require.Contains(t, w.Header().Get("WWW-Authenticate"), "Basic")
				}
			}
			for _, path := range []string{"/livez", "/readyz", "/metrics"} { // these answer everyone
				r := httptest.NewRequest(http.MethodGet, "http://ignored"+path, nil)
				r.Host = c.host
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				require.Equal(t, http.StatusOK, w.Code)
			}
		})
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "127.8.8.8": true, "::1": true, "0.0.0.0": false, "::": false, "10.0.0.1": false,
	} {
		require.Equal(t, want, ops.IsLoopback(&net.TCPAddr{IP: net.ParseIP(address)}), address)
	}
	require.False(t, ops.IsLoopback(&net.TCPAddr{}), "every interface")
}
