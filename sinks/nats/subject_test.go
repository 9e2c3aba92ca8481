package nats

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func parse(tb testing.TB, text string) bridge.Template {
	tb.Helper()
	template, err := bridge.ParseTemplate(text)
	require.NoError(tb, err)
	return template
}

func TestValidateSubject(t *testing.T) {
	tests := map[string]string{ // template: part of the error, or nothing
		"tensorlake.{route}": "",
		"tensorlake.events":  "",
		"tensorlake":         "",
		"a-b.pre{workflow}post.{function}.x{status}": "",
		"ünï.{type}":                     "",
		"":                               "is needed",
		"{route}":                        "begin with fixed text",
		"{project}.{route}":              "begin with fixed text",
		"x{project}.{route}":             "begin with fixed text",
		"tensorlake..{route}":            "empty token",
		".tensorlake":                    "empty token",
		"tensorlake.":                    "empty token",
		"tensor lake.{route}":            "cannot",
		"tensorlake.*":                   "cannot",
		"tensorlake.>":                   "cannot",
		"tensorlake.\x00{route}":         "cannot",
		"tensorlake.\n":                  "cannot",
		"tensorlake.\xff":                "cannot",
		"$JS.API.{type}":                 "$",
		"tensorlake.$x":                  "$",
		"_INBOX.{type}":                  "_INBOX",
		"_R_.{type}":                     "_R_",
		"t." + strings.Repeat("x", 1100): "too long",
		"t." + strings.Repeat("{route}.", 30) + "end": "too long",
	}
	for text, want := range tests {
		t.Run(text[:min(len(text), 40)], func(t *testing.T) {
			err := ValidateSubject(parse(t, text))
			if want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, want)
		})
	}
}

func TestStreamSubject(t *testing.T) {
	for text, want := range map[string]string{
		"tensorlake.{route}":           "tensorlake.>",
		"tensorlake.{type}.{status}":   "tensorlake.>",
		"a.b.c{type}.d":                "a.b.>",
		"tensorlake.events":            "tensorlake.events",
		"tensorlake":                   "tensorlake",
		"tensorlake.x.{workflow}.done": "tensorlake.x.>",
	} {
		require.Equal(t, want, streamSubject(parse(t, text)))
	}
}

func TestSubjectOf(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := map[string]struct {
		template string
		event    bridge.Event
		want     string
	}{
		"function": {
			"tensorlake.{route}",
			bridge.Event{About: bridge.About{Route: []string{"workflow", "wf", "fn", "success"}}},
			"tensorlake.workflow.wf.fn.success",
		},
		"no route":    {"tensorlake.{route}", bridge.Event{}, "tensorlake._"},
		"empty value": {"t.{workflow}.{status}", bridge.Event{About: bridge.About{Status: "ok"}}, "t._.ok"},
		"dots":        {"t.{type}", bridge.Event{Type: "a.b.c"}, "t.a_b_c"},
		"wildcards": {
			"t.{route}", bridge.Event{About: bridge.About{Route: []string{"*", ">", "a*b>c"}}}, "t._._.a_b_c",
		},
		"spaces and lines": {"t.{function}", bridge.Event{About: bridge.About{Function: "a b\r\nc\td\x00"}}, "t.a_b__c_d_"},
		"dollar":           {"t.{function}", bridge.Event{About: bridge.About{Function: "$SYS"}}, "t._SYS"},
		"dollar inside":    {"t.{function}", bridge.Event{About: bridge.About{Function: "a$b"}}, "t.a$b"},
		"not utf-8":        {"t.{function}", bridge.Event{About: bridge.About{Function: "a\xffb"}}, "t.a_b"},
		"replacement char": {"t.{function}", bridge.Event{About: bridge.About{Function: "a\ufffdb"}}, "t.a_b"},
		"unicode":          {"t.{function}", bridge.Event{About: bridge.About{Function: "Grüße漢字"}}, "t.Grüße漢字"},
		"invisible": {
			"t.{function}", bridge.Event{About: bridge.About{Function: "a\u200bb\u00a0c\u2028"}}, "t.a_b_c_",
		},
		"longest as it is": {
			"t.{function}", bridge.Event{About: bridge.About{Function: long[:bridge.MaxToken]}}, "t." + long[:bridge.MaxToken],
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, subjectOf(parse(t, tt.template), tt.event))
		})
	}
}

func TestSubjectIsBounded(t *testing.T) {
	parts := make([]string, 5000)
	for i := range parts {
		parts[i] = strings.Repeat("漢", 1000)
	}
	subject := subjectOf(parse(t, "tensorlake.{route}"), bridge.Event{About: bridge.About{Route: parts}})
	require.LessOrEqual(t, len(subject), maxSubject)
	require.Len(t, strings.Split(subject, "."), 1+bridge.MaxRoute)
	parts[4999] = "other"
	require.NotEqual(t, subject,
		subjectOf(parse(t, "tensorlake.{route}"), bridge.Event{About: bridge.About{Route: parts}}),
		"what is cut is told apart")
}

func FuzzSubject(f *testing.F) {
	f.Add("tensorlake.{route}", "workflow", "fn", "success", "inv", "a.b")
	f.Add("t.{workflow}.{function}-{status}", "", " ", ".", "*", ">")
	f.Add("t.x{type}{project}", "$SYS", "\x00", "\xff\xfe", "\r\nPUB x 0\r\n", strings.Repeat("漢", 999))
	f.Add("t.{route}.{partitionkey}", strings.Repeat("a", 201), strings.Repeat("é", 100), "\ufffd", "_INBOX.x", "\u2028")
	f.Fuzz(func(t *testing.T, text, a, b, c, d, e string) {
		template, err := bridge.ParseTemplate(text)
		if err != nil || ValidateSubject(template) != nil {
			return
		}
		event := bridge.Event{
			Type: a, PartitionKey: a + b,
			About: bridge.About{
				Route: []string{a, b, c, d, e}, Application: b, Function: c, Status: d, Request: e, Project: c + d,
			},
		}
		subject := subjectOf(template, event)
		require.True(t, server.IsValidPublishSubject(subject), "%q", subject)
		require.LessOrEqual(t, len(subject), maxSubject)
		require.NotContains(t, subject, string(utf8.RuneError), "which is what bytes that are not UTF-8 count as, too")
		require.NotContains(t, subject, " ")
		require.False(t, strings.ContainsFunc(subject, func(r rune) bool { return r < ' ' || r == 0x7f }), "%q", subject)
		filter := streamSubject(template)
		require.True(t, server.IsValidSubject(filter), "%q", filter)
		require.True(t, server.SubjectsCollide(subject, filter), "%q is not under %q", subject, filter)
		require.True(t, covers(filter, subject), "%q is not under %q", subject, filter)
		prefix, _, _ := strings.Cut(text, "{")
		require.True(t, strings.HasPrefix(subject, prefix), "%q does not begin with %q", subject, prefix)
		routes := strings.Count(text, "{route}")
		require.Equal(t, strings.Count(text, ".")+4*routes, strings.Count(subject, "."), "%q of %q", subject, text)
	})
}

func TestCoversAndOverlap(t *testing.T) {
	tests := []struct {
		a, b             string
		covers, overlaps bool
	}{
		{"tensorlake.>", "tensorlake.>", true, true},
		{">", "tensorlake.>", true, true},
		{"tensorlake.>", "tensorlake.a.b", true, true},
		{"tensorlake.*", "tensorlake.a.b", false, false},
		{"tensorlake.*.b", "tensorlake.a.b", true, true},
		{"tensorlake.*", "tensorlake.>", false, true},
		{"tensorlake.a.>", "tensorlake.>", false, true},
		{"tensorlake.>", "tensorlake", false, false},
		{"tensorlake", "tensorlake", true, true},
		{"other.>", "tensorlake.>", false, false},
		{"*.>", "tensorlake.>", true, true},
		{"tensorlake.>", "tensorlake.*", true, true},
	}
	for _, tt := range tests {
		require.Equal(t, tt.covers, covers(tt.a, tt.b), "%s covers %s", tt.a, tt.b)
		require.Equal(t, tt.overlaps, overlap(tt.a, tt.b), "%s and %s", tt.a, tt.b)
		require.Equal(t, tt.overlaps, overlap(tt.b, tt.a), "%s and %s", tt.b, tt.a)
		require.Equal(t, tt.overlaps, server.SubjectsCollide(tt.a, tt.b), "what the server says of %s and %s", tt.a, tt.b)
	}
}

func TestNewNeedsNoServer(t *testing.T) {
	sink, err := New(Options{Name: "n", URL: "nats://127.0.0.1:1", Stream: "S", Subject: parse(t, "t.{route}")})
	require.NoError(t, err)
	require.NoError(t, sink.Close(context.Background()))
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	valid := Options{Name: "n", URL: "nats://127.0.0.1:4222", Stream: "S", Subject: parse(t, "t.{route}")}
	tests := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no address":        {func(o *Options) { o.URL = "" }, "no URL"},
		"another scheme":    {func(o *Options) { o.URL = "http://a" }, "a scheme that NATS does not know"},
		"no host":           {func(o *Options) { o.URL = "nats://" }, "names no host"},
		"a bad port":        {func(o *Options) { o.URL = "nats://host:port" }, "is not a URL"},
		"a bad password":    {func(o *Options) { o.URL = "nats://user:s3cret%zz@host" }, "not shown"},
		"a password's path": {func(o *Options) { o.URL = "nats://user:s3cret/x@host:1" }, "not shown"},
		"no stream":         {func(o *Options) { o.Stream = "" }, "not a name of a stream"},
		"a bad stream":      {func(o *Options) { o.Stream = "a.b" }, "not a name of a stream"},
		"a bad subject":     {func(o *Options) { o.Subject = parse(t, ">") }, "subject"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := valid
			tt.change(&o)
			_, err := New(o)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "s3cret")
		})
	}
}
