package tensorlake_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

var update = flag.Bool("update", false, "write the golden files and docs/events.md anew")

const goldenDir = "testdata/golden"

// goldenCase is one payload in testdata/golden, <name>.json, beside what it becomes, <name>.events.json. Title and
// note stand on the page docs/events.md.
type goldenCase struct {
	name    string
	title   string
	note    string
	options tensorlake.Options
}

// goldenSection is a heading of the page with the cases under it.
type goldenSection struct {
	title string
	text  string
	cases []goldenCase
}

func goldenSections() []goldenSection {
	summary := tensorlake.Options{SummaryEvents: true}
	return []goldenSection{
		{
			title: "Workflows",
			text: "A payload with the keys `workflow_name`, `invocation_id` and `fn_status` becomes one event for each entry of " +
				"`fn_status`, in the payload's order. Other keys are ignored. A payload whose events would repeat the two names in more than 64 MiB is unrecognized.",
			cases: []goldenCase{
				{name: "workflow", title: "Two functions", note: "One succeeded and one failed."},
				{
					name: "workflow-statuses", title: "Any status",
					note: "A status that fnbridge has never heard of passes through. In the `type` it is lower case, and whatever is not " +
						"a letter a–z, a digit, `_` or `-` is `_`. The data keeps the word as it was sent.",
				},
				{name: "workflow-empty", title: "No functions", note: "There is nothing to tell, so there is no event. The webhook is accepted all the same."},
				{
					name: "workflow-unknown-fields", title: "More fields than known",
					note: "New fields do not change what the known ones say.",
				},
				{
					name: "workflow-duplicate-functions", title: "One function twice",
					note: "JSON does not forbid it. Every entry is an event, and the last two, which say the same, have the same `id`: " +
						"consumers that dedupe see the fact once.",
				},
			},
		},
		{
			title: "Workflow summaries",
			text: "With `FNBRIDGE_SUMMARY_EVENTS=true` each workflow payload becomes one more event, after those of its functions. " +
				"`succeeded` counts the statuses success, successful, succeeded and completed, `failed` counts failure and failed, in capitals " +
				"or not. The summary's own `status` is `failure` if any function failed, `success` if all succeeded (also if there are none), " +
				"and `partial` if none failed, but some ended in a way that is neither. Its `id` changes with the functions, their order " +
				"and their statuses.",
			cases: []goldenCase{
				{name: "workflow-summary-failure", title: "A summary with a failure", options: summary},
				{name: "workflow-summary", title: "A summary with a function that neither succeeded nor failed", options: summary},
				{name: "workflow-empty-summary", title: "A summary without functions", options: summary},
			},
		},
		{
			title: "Document ingestion jobs",
			text: "A payload with the keys `job_id` and `status` becomes one event. In its `type`, the status `pending` is `created`; `success`, " +
				"`successful` and `completed` are `completed`; `failure` and `failed` are `failed`. Any other word stands for itself. Its `time` is " +
				"`finished_at`, else `created_at`, else when the webhook was signed; a time that RFC 3339 does not know is passed over.",
			cases: []goldenCase{
				{name: "document-pending", title: "Pending"},
				{name: "document-processing", title: "Processing"},
				{name: "document-completed", title: "Completed, with usage"},
				{name: "document-failed", title: "Failed, with an error"},
				{name: "document-success", title: "Success, in short"},
				{name: "document-failure", title: "Failure, in short"},
				{name: "document-dataset", title: "With a dataset"},
				{name: "document-no-dataset", title: "With a dataset that is null", note: "Null is as good as absent."},
				{name: "document-unknown-status", title: "A status and a time that are new", note: "The time is the webhook's."},
				{
					name: "big-numbers", title: "Numbers beyond what a computer counts with",
					note: "The data is the payload's very bytes, so every digit and the order of the keys survive.",
				},
			},
		},
		{
			title: "Envelopes",
			text: "A payload with the keys `event_id`, `event_type` and `data` is Tensorlake's general form, and becomes one event. " +
				"`project_id`, `source_id` and `occurred_at` must be there too; `event_version`, `source_revision` and `source_ordinal` may be " +
				"absent. The types documented so far are `tensorlake.sandbox.` with `created`, `running`, `suspended`, `resumed`, `terminated` " +
				"and `failed`, `tensorlake.application.` with `created`, `updated` and `deleted`, and `tensorlake.application.request.` with " +
				"`created`, `completed` and `failed`; any other passes through. Events of one source can overtake each other at the sender: " +
				"compare `source_revision` as a number, which may be longer than 64 bits.",
			cases: []goldenCase{
				{name: "envelope-sandbox", title: "A sandbox"},
				{name: "envelope-application", title: "An application"},
				{name: "envelope-request", title: "A request to an application"},
				{
					name: "envelope-other-producer", title: "A type and a time that are new",
					note: "The `type` is the sender's, unchanged. A time that RFC 3339 does not know is replaced with the webhook's.",
				},
			},
		},
		{
			title: "Unrecognized",
			text: "Every other signed JSON object is delivered too, whole, as `tensorlake.unrecognized`: a shape that Tensorlake adds tomorrow " +
				"is not lost today. So is a known shape with a field that is missing, has the wrong type or appears twice, for readers " +
				"could disagree on what it says. fnbridge logs a warning with the reason, which is shown with each payload here, and counts it.",
			cases: []goldenCase{
				{name: "unrecognized", title: "Something else"},
				{name: "unrecognized-nearly", title: "A key that is not the documented one"},
				{name: "workflow-wrong-type", title: "A workflow with a status that is a number"},
				{name: "workflow-duplicate-keys", title: "A workflow with two names"},
				{name: "document-wrong-type", title: "A job that finished at a number"},
				{name: "envelope-wrong-type", title: "An envelope with a revision that is a number"},
			},
		},
		{
			title: "Names that mean harm, or nothing",
			text: "A name can hold anything. In `source` and `subject` each name is percent-encoded but for letters, digits, `-`, `.`, `_` " +
				"and `~`, so a `/` always separates. `partitionkey` is the name itself, but for characters that no CloudEvents attribute can " +
				"hold, which are percent-encoded. The data has every name as it was sent.",
			cases: []goldenCase{
				{name: "workflow-hostile-names", title: "Hostile names"},
				{
					name: "workflow-empty-names", title: "Empty names",
					note: "An empty part stays an empty part, and an empty status is `_`. Where there is no key to order by, `partitionkey` is the webhook's id.",
				},
			},
		},
	}
}

// goldenWebhook is the webhook that every golden payload came with.
func goldenWebhook(body []byte) bridge.Webhook {
	return bridge.Webhook{ID: messageID, Timestamp: signedAt(), ReceivedAt: signedAt().Add(120 * time.Millisecond), Body: body}
}

// golden is the content of <name>.events.json.
type golden struct {
	Shape  string        `json:"shape"`
	Reason string        `json:"reason,omitempty"`
	Events []goldenEvent `json:"events"`
}

type goldenEvent struct {
	goldenAttributes

	Data          json.RawMessage `json:"data,omitempty"`
	DataIsPayload bool            `json:"data_is_payload,omitempty"`
	Template      goldenTemplate  `json:"template"`
}

type goldenAttributes struct {
	Type         string    `json:"type"`
	Source       string    `json:"source"`
	Subject      string    `json:"subject,omitempty"`
	ID           string    `json:"id"`
	Time         time.Time `json:"time"`
	PartitionKey string    `json:"partitionkey"`
}

type goldenTemplate struct {
	Route      []string `json:"route"`
	Workflow   string   `json:"workflow,omitempty"`
	Function   string   `json:"function,omitempty"`
	Status     string   `json:"status,omitempty"`
	Invocation string   `json:"invocation,omitempty"`
	Project    string   `json:"project,omitempty"`
}

func goldenOf(tb testing.TB, c goldenCase, body []byte) golden {
	tb.Helper()
	p, err := tensorlake.Parse(body)
	require.NoError(tb, err)
	g := golden{Shape: p.Shape().String(), Reason: p.Reason(), Events: []goldenEvent{}}
	for e := range p.Events(goldenWebhook(body), c.options) {
		requireValidEvent(tb, e)
		require.Equal(tb, messageID, e.WebhookID)
		ge := goldenEvent{
			goldenAttributes: goldenAttributes{
				Type: e.Type, Source: e.Source, Subject: e.Subject, ID: e.ID, Time: e.Time, PartitionKey: e.PartitionKey,
			},
			Template: goldenTemplate{
				Route: e.Route, Workflow: e.Workflow, Function: e.Function, Status: e.Status, Invocation: e.Invocation,
				Project: e.Project,
			},
		}
		if &e.Data[0] == &body[0] {
			require.Len(tb, e.Data, len(body))
			ge.DataIsPayload = true
		} else {
			ge.Data = e.Data
		}
		g.Events = append(g.Events, ge)
	}
	require.Len(tb, g.Events, p.Len(c.options))
	return g
}

func TestGolden(t *testing.T) {
	var names []string
	for _, section := range goldenSections() {
		for _, c := range section.cases {
			names = append(names, c.name)
			t.Run(c.name, func(t *testing.T) {
				got := marshal(t, goldenOf(t, c, readGolden(t, c.name+".json")))
				file := filepath.Join(goldenDir, c.name+".events.json")
				if *update {
					require.NoError(t, os.WriteFile(file, got, 0o600))
				}
				require.Equal(t, string(readGolden(t, c.name+".events.json")), string(got), "run go generate ./bridge/tensorlake if this is meant")
			})
		}
	}

	files, err := filepath.Glob(filepath.Join(goldenDir, "*.json"))
	require.NoError(t, err)
	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		require.True(t, slices.Contains(names, name), "%s is in no section of the page", file)
	}
}

func readGolden(tb testing.TB, file string) []byte {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(goldenDir, file))
	require.NoError(tb, err)
	return content
}

func marshal(tb testing.TB, v any) []byte {
	tb.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	require.NoError(tb, enc.Encode(v))
	return b.Bytes()
}
