package catalogue_test

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

//go:generate go test . -run ^TestSchemas$|^TestAsyncAPI$ -update

const (
	schemasDir = "../../docs/schemas"
	goldenDir  = "../../bridge/tensorlake/testdata/golden"
	eventsPage = "../../bridge/tensorlake/testdata/events-page.md"
)

var update = flag.Bool("update", false, "write docs/schemas and docs/asyncapi.yaml anew")

// kind is what events of one route have in common.
type kind struct {
	name, title string
	route       string // with placeholders of docs/events.md, each of which is one token; {rest} is one or more
	typePrefix  string
	words       []string // that are documented as the end of the type
	data        string   // the schema of the data
	golden      string   // a payload that becomes such an event, as an example
}

// kinds lists all that goes out. An event is of the first kind whose route is its own.
func kinds() []kind {
	return []kind{
		{
			name: "workflow-function", title: "A function of a workflow has ended",
			route:      "workflow.{workflow}.{function}.{status}",
			typePrefix: "tensorlake.workflow.function.", words: []string{"success", "failure"},
			data: "data/workflow-function", golden: "workflow",
		},
		{
			name: "workflow-summary", title: "The functions of a workflow's invocation have ended",
			route:      "workflow.invocation.finished",
			typePrefix: "tensorlake.workflow.invocation.", words: []string{"finished"},
			data: "data/workflow-summary", golden: "workflow",
		},
		{
			name: "document", title: "A document ingestion job", route: "document_ingestion.job.{status}",
			typePrefix: "tensorlake.document_ingestion.job.", words: []string{"created", "processing", "completed", "failed"},
			data: "payloads/document", golden: "document-completed",
		},
		{
			name: "request", title: "A request to an application", route: "application.{application}.request.{rest}",
			typePrefix: "tensorlake.application.request.", words: []string{"created", "completed", "failed"},
			data: "payloads/request", golden: "request-failed",
		},
		{
			name: "application", title: "An application", route: "application.{application}.{rest}",
			typePrefix: "tensorlake.application.", words: []string{"created", "updated", "deleted"},
			data: "payloads/application", golden: "application-updated",
		},
		{
			name: "sandbox", title: "A sandbox", route: "sandbox.{sandbox_name}.{rest}",
			typePrefix: "tensorlake.sandbox.",
			words:      []string{"created", "running", "suspended", "resumed", "terminated", "failed"},
			data:       "payloads/sandbox", golden: "sandbox-failed",
		},
		{
			name: "other", title: "An envelope that cannot be what it calls itself", route: "other.{rest}",
			data: "payloads/envelope", golden: "envelope-impostor",
		},
		{
			name: "unrecognized", title: "Any other JSON object", route: "unrecognized",
			typePrefix: "tensorlake.", words: []string{"unrecognized"},
			data: "payloads/unrecognized", golden: "unrecognized-nearly",
		},
		{
			name: "family", title: "An envelope of a family that is new", route: "{rest}", typePrefix: "tensorlake.",
			data: "payloads/envelope", golden: "envelope-family",
		},
	}
}

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

// patternOf is what selects all of a route or a subject with placeholders, in the syntax of NATS.
func patternOf(route string) string {
	return placeholder.ReplaceAllString(strings.ReplaceAll(route, "{rest}", ">"), "*")
}

func (k kind) types() (types []string) {
	for _, word := range k.words {
		types = append(types, k.typePrefix+word)
	}
	return types
}

func kindOf(tb testing.TB, e *bridge.Event) kind {
	tb.Helper()
	for _, k := range kinds() {
		routes, err := bridge.ParseRoutes(patternOf(k.route))
		require.NoError(tb, err)
		if routes.Match(e) {
			return k
		}
	}
	require.Fail(tb, "an event of no kind", "%v", e.Route)
	return kind{}
}

// goldenPayload is a payload of bridge/tensorlake/testdata/golden.
type goldenPayload struct {
	name string
	body []byte
}

func goldenPayloads(tb testing.TB) (payloads []goldenPayload) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.json"))
	require.NoError(tb, err)
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".json"); !strings.HasSuffix(name, ".events") {
			body, err := os.ReadFile(file)
			require.NoError(tb, err)
			payloads = append(payloads, goldenPayload{name, body})
		}
	}
	require.NotEmpty(tb, payloads)
	return payloads
}

func (p goldenPayload) parse(tb testing.TB) tensorlake.Payload {
	tb.Helper()
	parsed, err := tensorlake.Parse(p.body)
	require.NoError(tb, err)
	return parsed
}

// events are what the payload becomes, summaries included.
func (p goldenPayload) events(tb testing.TB) []bridge.Event {
	tb.Helper()
	webhook := bridge.Webhook{
		ID: "msg_2pQ5wL9aXkTzB7cVdEfGhJ", Timestamp: time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC),
		Body: p.body,
	}
	return slices.Collect(p.parse(tb).Events(webhook, tensorlake.Options{SummaryEvents: true}))
}

// goldenEvent is the event that is shown for a kind.
func goldenEvent(tb testing.TB, k kind) bridge.Event {
	tb.Helper()
	for _, p := range goldenPayloads(tb) {
		if p.name != k.golden {
			continue
		}
		for _, e := range p.events(tb) {
			if kindOf(tb, &e).name == k.name {
				return e
			}
		}
	}
	require.Fail(tb, "no such event", "%s has none of the kind %s", k.golden, k.name)
	return bridge.Event{}
}

// The routes and the types of the table are those that the code makes.
func TestKinds(t *testing.T) {
	var types []string
	for _, p := range goldenPayloads(t) {
		for _, e := range p.events(t) {
			types = append(types, e.Type)
		}
	}
	for _, k := range kinds() {
		routes, err := bridge.ParseRoutes(patternOf(k.route))
		require.NoError(t, err)
		require.NoError(t, tensorlake.CheckRoutes(routes), k.name)
		require.Subset(t, types, k.types(), "a type that no golden payload becomes")
	}
}

// schemas returns every schema by its path in docs/schemas, without .json.
func schemas(tb testing.TB) map[string]*schema {
	tb.Helper()
	all := map[string]*schema{
		"payloads/workflow": titled("What a workflow's webhook brings", reflect.TypeFor[workflow]()),
		"payloads/document": titled("What a document ingestion job's webhook brings", reflect.TypeFor[documentJob]()),
		"payloads/envelope": titled("What any lifecycle webhook brings", reflect.TypeFor[envelope[any]]()),
		"payloads/request":  titled("What a request's webhook brings", reflect.TypeFor[envelope[requestData]]()),
		"payloads/application": titled("What an application's webhook brings",
			reflect.TypeFor[envelope[applicationData]]()),
		"payloads/sandbox":       titled("What a sandbox's webhook brings", reflect.TypeFor[envelope[sandboxData]]()),
		"payloads/unrecognized":  titled("What a webhook of no known shape brings", reflect.TypeFor[struct{}]()),
		"data/workflow-function": titled("How a function of a workflow ended", reflect.TypeFor[function]()),
		"data/workflow-summary":  titled("How the functions of an invocation ended", reflect.TypeFor[summary]()),
		"headers/nats":           headers(tb, "The attributes of an event in binary mode", cloudevents.NATSPrefix),
		"headers/kafka":          headers(tb, "The attributes of an event in binary mode", cloudevents.KafkaPrefix),
	}
	for _, k := range kinds() {
		all["events/"+k.name] = k.event(tb)
		if eventType := all[k.data].property("event_type"); eventType != nil && k.words != nil {
			k.describeType(eventType)
		}
	}
	return all
}

func titled(title string, t reflect.Type) *schema {
	s := schemaOf(t)
	s.Title = title
	return s
}

// event is the schema of an event in structured mode.
func (k kind) event(tb testing.TB) *schema {
	tb.Helper()
	s := headers(tb, k.title, "")
	k.describeType(s.property("type"))
	s.add("data", &schema{Ref: "../" + k.data + ".json"}, true)
	return s
}

// describeType says which types the kind has: a new word behind the prefix is none the less one of them.
func (k kind) describeType(s *schema) {
	if k.typePrefix != "" {
		s.Pattern = "^" + regexp.QuoteMeta(k.typePrefix)
	}
	s.Examples = toAny(k.types())
}

// headers is the schema of the attributes of an event, named as in headers that begin with prefix, or as in structured
// mode if that is empty.
func headers(tb testing.TB, title, prefix string) *schema {
	tb.Helper()
	everything := bridge.Event{
		ID: "x", Type: "x", Source: "x", Subject: "x", Time: time.Unix(0, 0),
		PartitionKey: "x", Sequence: "x", SourceID: "x", WebhookID: "x",
	}
	written, _, err := cloudevents.Binary.Encode(everything, prefix)
	require.NoError(tb, err)
	meaning := tableOf(tb, "Attributes")
	s := &schema{Title: title, Type: "object"}
	for _, header := range written {
		value := &schema{Type: "string"}
		attribute := strings.TrimPrefix(header.Name, prefix)
		switch attribute {
		case "specversion":
			value.Const = header.Value
		case "content-type":
			attribute, value.Const = "datacontenttype", header.Value
			if prefix == "" {
				header.Name = attribute
			}
		case "time":
			value.Format = "date-time"
		case "sequence":
			value.Pattern = `^[0-9]{20}\.[0-9]{10}$`
		}
		value.Description = meaning[attribute]
		s.add(header.Name, value, !slices.Contains([]string{"subject", "sequence", "sourceid"}, attribute))
	}
	return s
}

// tableOf reads the table of docs/events.md under a heading: the words in its first column with the text in its second.
func tableOf(tb testing.TB, heading string) map[string]string {
	tb.Helper()
	page, err := os.ReadFile(eventsPage)
	require.NoError(tb, err)
	_, section, found := strings.Cut(string(page), "\n## "+heading+"\n")
	require.True(tb, found, "%s has no heading %s", eventsPage, heading)
	section, _, _ = strings.Cut(section, "\n## ")
	table := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\| (.*) \\|$").FindAllStringSubmatch(section, -1) {
		for _, word := range regexp.MustCompile("`(.*?)`").FindAllStringSubmatch(row[1], -1) {
			table[word[1]] = row[2]
		}
	}
	require.NotEmpty(tb, table)
	return table
}

func TestSchemas(t *testing.T) {
	all := schemas(t)
	if *update {
		require.NoError(t, os.RemoveAll(schemasDir))
	}
	for name, s := range all {
		s.Dialect, s.Comment = dialect, "Generated by make generate. Do not edit."
		requireCurrent(t, filepath.Join(schemasDir, name+".json"), jsonOf(t, s))
	}
	files, err := filepath.Glob(schemasDir + "/*/*")
	require.NoError(t, err)
	require.Len(t, files, len(all), "files that are no schemas")
}

func requireCurrent(t *testing.T, file string, content []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, content, 0o600))
	}
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(content), string(written), "%s is stale: run make generate", file)
}
