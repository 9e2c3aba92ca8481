package tensorlake_test

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// The page is made of the golden files, so what it shows is what the tests hold.
//
//go:generate go test . -run ^TestGolden$ -update
//go:generate go test . -run ^TestEventsPage$ -update

const eventsPage = "../../docs/events.md"

//go:embed testdata/events-page.md
var eventsPageIntro string

func TestEventsPage(t *testing.T) {
	page := renderEventsPage(t)
	if *update {
		require.NoError(t, os.MkdirAll("../../docs", 0o750))
		require.NoError(t, os.WriteFile(eventsPage, []byte(page), 0o600))
	}
	written, err := os.ReadFile(eventsPage)
	require.NoError(t, err)
	require.Equal(t, page, string(written), "docs/events.md is stale: run go generate ./bridge/tensorlake")
}

func renderEventsPage(tb testing.TB) string {
	tb.Helper()
	var b strings.Builder
	b.WriteString(eventsPageIntro)

	b.WriteString("\n## Every payload, at a glance\n\n" +
		"The subject is that of `FNBRIDGE_NATS_SUBJECT=tensorlake.{route}`, the default.\n\n" +
		"| payload | type | subject in NATS | `partitionkey`, the key in Kafka |\n|---|---|---|---|\n")
	for _, section := range goldenSections() {
		for _, c := range section.cases {
			g := readEvents(tb, c)
			fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %s |\n", c.title, anchor(c.title),
				each(g, func(e goldenEvent) string { return e.Type }), each(g, goldenEvent.natsSubject),
				each(g, func(e goldenEvent) string { return e.PartitionKey }))
		}
	}

	fmt.Fprintf(&b, "\nEvery event below also has `specversion` 1.0, `datacontenttype` application/json and "+
		"`webhookid` %s; "+
		"its webhook was signed at %s.\n", messageID, signedAt().Format(time.RFC3339))

	for _, section := range goldenSections() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", section.title, section.text)
		for _, c := range section.cases {
			renderCase(tb, &b, c)
		}
	}
	return wrapped(b.String())
}

// wrapped breaks lines of prose after at most 120 columns: not those of tables, of code and of headings.
func wrapped(page string) string {
	const columns = 120
	var b strings.Builder
	code := false
	for line := range strings.Lines(page) {
		fence := strings.HasPrefix(line, "```")
		code = code != fence
		if code || fence || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "#") {
			b.WriteString(line)
			continue
		}
		indent := ""
		if strings.HasPrefix(line, "- ") {
			indent = "  "
		}
		column := 0
		for i, word := range strings.Split(strings.TrimSuffix(line, "\n"), " ") {
			width := utf8.RuneCountInString(word)
			switch {
			case i == 0:
			case column+1+width > columns:
				b.WriteString("\n" + indent)
				column = len(indent)
			default:
				b.WriteString(" ")
				column++
			}
			b.WriteString(word)
			column += width
		}
		b.WriteString("\n")
	}
	return b.String()
}

func renderCase(tb testing.TB, b *strings.Builder, c goldenCase) {
	tb.Helper()
	fmt.Fprintf(b, "\n### %s\n\n", c.title)
	if c.note != "" {
		fmt.Fprintf(b, "%s\n\n", c.note)
	}
	fmt.Fprintf(b, "```json\n%s\n```\n\n", strings.TrimRight(string(readGolden(tb, c.name+".json")), "\n"))

	g := readEvents(tb, c)
	switch len(g.Events) {
	case 0:
		b.WriteString("→ no event\n")
		return
	case 1:
		b.WriteString("→ one event")
	default:
		fmt.Fprintf(b, "→ %d events", len(g.Events))
	}
	if g.Reason != "" {
		fmt.Fprintf(b, "; the reason in the log is `%s`", g.Reason)
	}
	b.WriteString("\n\n```json\n")
	for _, e := range g.Events {
		b.WriteString(strings.TrimSuffix(string(marshal(tb, e.goldenAttributes)), "\n}\n"))
		if e.DataIsPayload {
			b.WriteString(",\n  \"data\": … the payload, byte for byte …\n}\n")
		} else {
			fmt.Fprintf(b, ",\n  \"data\": %s\n}\n", oneLine(tb, e.Data))
		}
	}
	b.WriteString("```\n")
}

func readEvents(tb testing.TB, c goldenCase) golden {
	tb.Helper()
	var g golden
	require.NoError(tb, json.Unmarshal(readGolden(tb, c.name+".events.json"), &g))
	return g
}

// each lists what of returns of the events, in cells of a table, repeats left out.
func each(g golden, of func(goldenEvent) string) string {
	if len(g.Events) == 0 {
		return "no event"
	}
	var values []string
	for _, e := range g.Events {
		if quoted := "`" + strings.ReplaceAll(of(e), "|", "\\|") + "`"; !slices.Contains(values, quoted) {
			values = append(values, quoted)
		}
	}
	return strings.Join(values, "<br>")
}

// natsSubject is the subject of an event by default.
func (e goldenEvent) natsSubject() string {
	tokens := []string{"tensorlake"}
	for _, part := range bridge.FoldRoute(e.Template.Route) {
		tokens = append(tokens, bridge.Token(part, bridge.MaxToken))
	}
	return strings.Join(tokens, ".")
}

// oneLine undoes the golden file's indentation.
func oneLine(tb testing.TB, data json.RawMessage) string {
	tb.Helper()
	var b bytes.Buffer
	require.NoError(tb, json.Compact(&b, data))
	return b.String()
}

// anchor is the fragment that renderers of Markdown make of a heading.
func anchor(title string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ':
			return '-'
		case ',':
			return -1
		default:
			return r
		}
	}, strings.ToLower(title))
}
