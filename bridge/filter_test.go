package bridge_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func routes(tb testing.TB, text string) bridge.Routes {
	tb.Helper()
	r, err := bridge.ParseRoutes(text)
	require.NoError(tb, err)
	return r
}

func TestRoutesMatchTheTokensThatANATSSubjectShows(t *testing.T) {
	long := strings.Repeat("long", 60)
	route := func(parts ...string) bridge.Event { return bridge.Event{About: bridge.About{Route: parts}} }
	failed := route("application", "invoices", "request", "failed")
	for _, tt := range []struct {
		patterns string
		event    bridge.Event
		want     bool
	}{
		{"", failed, true},
		{">", failed, true},
		{"application.invoices.request.failed", failed, true},
		{"application.*.request.failed", failed, true},
		{"application.>", failed, true},
		{"application.invoices.request.failed.>", failed, false},
		{"application.*", failed, false},
		{"*.*.*.*", failed, true},
		{"*.*.*.*.*", failed, false},
		{"application.invoices.request", failed, false},
		{"application.other.>, workflow.>", failed, false},
		{"workflow.*.*.failure,application.*.request.failed", failed, true},
		{"Application.>", failed, false},
		{"workflow.w_a.*.*", route("workflow", "w.a", "f", "success"), true},
		{"workflow.w_a.*.*", route("workflow", "w*a", "f", "success"), true},
		{"workflow._SYS._.>", route("workflow", "$SYS", "", "x", "y"), true},
		{"sandbox._.failed", route("sandbox", "", "failed"), true},
		{"*", route(), true},
		{bridge.Token(long, bridge.MaxToken) + ".x", route(long, "x"), true},
		{bridge.Token(long, bridge.ShortToken) + ".x", route(long, "x"), true},
		{long[:bridge.MaxToken] + ".x", route(long, "x"), false},
		{"a.*.*.*.*.*.*.*.*.*.*.*.*.*.*.p_q_r", route(strings.Split("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r", ".")...), true},
	} {
		require.Equal(t, tt.want, routes(t, tt.patterns).Match(&tt.event), "%s %q", tt.patterns, tt.event.Route)
	}
}

func TestAPatternThatIsNoneIsRefusedWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"tensorlake.application.>": `"tensorlake.application.>" begins with tensorlake, which is no part of a route`,
		"workflow.>,a..b": `"a..b" has an empty token: there must be something before, between and after dots ` +
			`(token 2, "")`,
		"a.": `(token 2, "")`,
		"a,": `the pattern "" has an empty token`,
		"a.>.b": `has a > before its end: > stands for all that follows; * stands for one token ` +
			`(token 2, ">")`,
		"a.b*":                          `has a wildcard within a token: * and > are tokens of their own (token 2, "b*")`,
		"a.b c":                         `(token 2, "b c")`,
		"$SYS.>":                        `(token 1, "$SYS")`,
		"a.\x00":                        `(token 2, "\x00")`,
		strings.Repeat("a.", 16) + "b":  "has 17 tokens, and no route has more than 16",
		"a." + strings.Repeat("x", 201): "has a token that no route has",
	} {
		_, err := bridge.ParseRoutes(text)
		require.ErrorContains(t, err, want)
	}
	_, err := bridge.ParseRoutes("a..b,c.>.d")
	require.ErrorContains(t, err, `"a..b"`)
	require.ErrorContains(t, err, `"c.>.d"`, "all at once")
}

func TestAFilterSelectsWhatAllOfItAppliesTo(t *testing.T) {
	e := bridge.Event{Type: "tensorlake.application.request.failed", About: bridge.About{
		Application: "invoices", Route: []string{"application", "invoices", "request", "failed"},
	}}
	for _, tt := range []struct {
		filter bridge.Filter
		want   bool
	}{
		{bridge.Filter{}, true},
		{bridge.Filter{Application: "invoices", Type: "tensorlake.application.*", Routes: routes(t, "application.>")}, true},
		{bridge.Filter{Application: "other"}, false},
		{bridge.Filter{Type: "tensorlake.application.request"}, false},
		{bridge.Filter{Type: "tensorlake.application.request.failed"}, true},
		{bridge.Filter{Application: "invoices", Routes: routes(t, "workflow.>")}, false},
	} {
		require.Equal(t, tt.want, tt.filter.Match(&e), "%+v", tt.filter)

		text, err := json.Marshal(tt.filter)
		require.NoError(t, err)
		var read bridge.Filter
		require.NoError(t, json.Unmarshal(text, &read))
		require.Equal(t, tt.filter, read, "the control socket and the journal pass it on as JSON: %s", text)
	}
}

func TestADedupeIDDiffersWithEverythingThatTellsEventsApart(t *testing.T) {
	digest := bridge.WebhookDigest
	seen := make(map[string]bool)
	for _, o := range []bridge.Origin{
		{Webhook: digest("a", []byte("b"))},
		{Webhook: digest("a", []byte("c"))},
		{Webhook: digest("ab", nil)},
		{Webhook: digest("", []byte("ab"))},
		{Webhook: digest("a", []byte("b")), Index: 1},
		{Webhook: digest("a", []byte("b")), Replay: 1},
	} {
		for _, address := range []string{"", "x", "x.y"} {
			id := o.DedupeID(address)
			require.Regexp(t, "^[0-9a-f]{32}$", id)
			require.False(t, seen[id])
			seen[id] = true
			require.Equal(t, id, o.DedupeID(address))
		}
	}
	require.Empty(t, bridge.Origin{Index: 1}.DedupeID("x"), "no webhook brought it")
}

func BenchmarkRoutes(b *testing.B) {
	e := bridge.Event{About: bridge.About{Route: []string{"application", "invoices", "request", "failed"}}}
	r := routes(b, "workflow.*.*.failure,sandbox.>,application.*.request.completed")
	b.ReportAllocs()
	for b.Loop() {
		r.Match(&e)
	}
}
