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
			text: "A payload with the keys `workflow_name`, `invocation_id` and `fn_status` becomes one event for each entry " +
				"of `fn_status`, in the payload's order. Other keys are ignored. A payload whose events would repeat the two " +
				"names, in their attributes and data, in more than 64 MiB is unrecognized.",
			cases: []goldenCase{
				{name: "workflow", title: "Two functions", note: "One succeeded and one failed."},
				{
					name: "workflow-statuses", title: "Any status",
					note: "A status that fnbridge has never heard of passes through. In the `type` it is lower case, and whatever " +
						"is not a letter a–z, a digit, `_` or `-` is `_`. The data keeps the word as it was sent.",
				},
				{
					name: "workflow-empty", title: "No functions",
					note: "There is nothing to tell, so there is no event. The webhook is accepted all the same.",
				},
				{
					name: "workflow-unknown-fields", title: "More fields than known",
					note: "New fields do not change what the known ones say.",
				},
				{
					name: "workflow-duplicate-functions", title: "One function twice",
					note: "JSON does not forbid it. Every entry is an event, and the last two, which say the same, have the same " +
						"`id`: consumers that dedupe see the fact once.",
				},
			},
		},
		{
			title: "Workflow summaries",
			text: "With `FNBRIDGE_SUMMARY_EVENTS=true` each workflow payload becomes one more event, after those of its " +
				"functions. `succeeded` counts the statuses success, successful, succeeded and completed, `failed` counts " +
				"failure and failed, in capitals or not. The summary's own `status` is `failure` if any function failed, " +
				"`success` if all succeeded (also if there are none), and `partial` if none failed, but some ended in a way that " +
				"is neither. Its `id` changes with the functions, their order and their statuses.",
			cases: []goldenCase{
				{name: "workflow-summary-failure", title: "A summary with a failure", options: summary},
				{name: "workflow-summary", title: "A summary with a function that neither succeeded nor failed", options: summary},
				{name: "workflow-empty-summary", title: "A summary without functions", options: summary},
			},
		},
		{
			title: "Document ingestion jobs",
			text: "A payload with the keys `job_id` and `status` becomes one event. In its `type`, the status `pending` is " +
				"`created`; `success`, `successful` and `completed` are `completed`; `failure` and `failed` are `failed`. Any " +
				"other word stands for itself. Its `time` is `finished_at`, else `created_at`, else when the webhook was signed; " +
				"a time that RFC 3339 does not know is passed over.",
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
			title: "Requests to applications",
			text: "An envelope (a payload with the keys `event_id`, `event_type` and `data`) whose type begins with " +
				"`tensorlake.application.request.` becomes one event that is addressed by `data.application.name` and " +
				"`data.request.id`. A new word behind the prefix takes the same way.",
			cases: []goldenCase{
				{name: "request-failed", title: "A request has failed"},
				{name: "request-created", title: "A request is created"},
				{name: "request-completed", title: "A request has completed"},
			},
		},
		{
			title: "Applications",
			text:  "So does any other type that begins with `tensorlake.application.`, by `data.application.name`.",
			cases: []goldenCase{
				{name: "application-created", title: "An application is created"},
				{name: "application-updated", title: "An application is updated", note: "Here a new version, which is disabled."},
				{name: "application-deleted", title: "An application is deleted"},
			},
		},
		{
			title: "Sandboxes",
			text: "A type that begins with `tensorlake.sandbox.` is addressed by `data.sandbox.id`, and in the route by " +
				"`data.sandbox.name`, or `_` where there is no name: sandboxes without one are too many for a subject each. " +
				"`{sandbox}` puts the id into an address.",
			cases: []goldenCase{
				{name: "sandbox-created", title: "A sandbox is created"},
				{name: "sandbox-running", title: "A sandbox runs"},
				{name: "sandbox-suspended", title: "A sandbox is suspended"},
				{name: "sandbox-resumed", title: "A sandbox is resumed", note: "It is a new generation of it."},
				{name: "sandbox-terminated", title: "A sandbox has ended well"},
				{name: "sandbox-failed", title: "A sandbox without a name has failed"},
				{
					name: "sandbox-new-word", title: "A word that is new",
					note: "What Tensorlake adds behind a known prefix takes the prefix's way. `status` in addresses is a word, as " +
						"in a workflow's type.",
				},
			},
		},
		{
			title: "Other envelopes",
			text: "A family of types that fnbridge does not know (any other word behind `tensorlake.`) is addressed by its " +
				"type, and ordered by its `source_id`. So is what cannot be what it calls itself, under `other.`: a kind above " +
				"without its names, a type that belongs to another shape (`workflow`), or one that does not begin with " +
				"`tensorlake.`. fnbridge logs a warning with the reason, which is shown here, and counts it as " +
				"unrecognized.\n\n" +
				"`project_id`, `source_id` and `occurred_at` must be there; `event_version`, `source_revision` and " +
				"`source_ordinal` may be absent.",
			cases: []goldenCase{
				{
					name: "envelope-family", title: "A family that is new",
					note: "Its revision has more than 20 digits, so there is no `sequence`.",
				},
				{name: "envelope-nameless", title: "A sandbox without its id"},
				{name: "envelope-impostor", title: "An envelope that calls itself a workflow"},
				{
					name: "envelope-other-producer", title: "A type and a time that are new",
					note: "The `type` is the sender's, unchanged. A time that RFC 3339 does not know is replaced with the webhook's.",
				},
			},
		},
		{
			title: "Unrecognized",
			text: "Every other signed JSON object is delivered too, whole, as `tensorlake.unrecognized`: a shape that " +
				"Tensorlake adds tomorrow is not lost today. So is a known shape with a field that is missing, has the wrong " +
				"type or appears twice, for readers could disagree on what it says. fnbridge logs a warning with the reason, " +
				"which is shown with each payload here, and counts it.",
			cases: []goldenCase{
				{name: "unrecognized", title: "Something else"},
				{name: "unrecognized-nearly", title: "A key that is not the documented one"},
				{name: "workflow-wrong-type", title: "A workflow with a status that is a number"},
				{name: "workflow-duplicate-keys", title: "A workflow with two names"},
				{name: "document-wrong-type", title: "A job that finished at a number"},
				{name: "envelope-wrong-type", title: "An envelope with a revision that is a number"},
				{name: "envelope-name-twice", title: "A request with two names of its application"},
			},
		},
		{
			title: "Names that mean harm, or nothing",
			text: "A name can hold anything. In `source` and `subject` each name is percent-encoded but for letters, digits, " +
				"`-`, `.`, `_` and `~`, so a `/` always separates. `partitionkey` is the name itself, but for characters that no " +
				"CloudEvents attribute can hold, which are percent-encoded. The data has every name as it was sent.",
			cases: []goldenCase{
				{name: "workflow-hostile-names", title: "Hostile names"},
				{name: "envelope-hostile-names", title: "Hostile names in an envelope"},
				{
					name: "workflow-empty-names", title: "Empty names",
					note: "An empty part stays an empty part, and an empty status is `_`. Where there is no key to order by, " +
						"`partitionkey` is the webhook's id.",
				},
			},
		},
	}
}

// goldenWebhook is the webhook that every golden payload came with.
func goldenWebhook(body []byte) bridge.Webhook {
	return bridge.Webhook{
		ID: messageID, Timestamp: signedAt(),
		ReceivedAt: signedAt().Add(120 * time.Millisecond), Body: body,
	}
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
	Sequence     string    `json:"sequence,omitempty"`
	SourceID     string    `json:"sourceid,omitempty"`
}

type goldenTemplate struct {
	Route       []string `json:"route"`
	Project     string   `json:"project,omitempty"`
	Application string   `json:"application,omitempty"`
	Version     string   `json:"version,omitempty"`
	Request     string   `json:"request,omitempty"`
	Function    string   `json:"function,omitempty"`
	Sandbox     string   `json:"sandbox,omitempty"`
	SandboxName string   `json:"sandbox_name,omitempty"`
	Status      string   `json:"status,omitempty"`
	Outcome     string   `json:"outcome,omitempty"`
	Reason      string   `json:"reason,omitempty"`
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
				Sequence: e.Sequence, SourceID: e.SourceID,
			},
			Template: goldenTemplate{
				Route: e.Route, Project: e.Project, Application: e.Application, Version: e.Version, Request: e.Request,
				Function: e.Function, Sandbox: e.Sandbox, SandboxName: e.SandboxName,
				Status: e.Status, Outcome: e.Outcome, Reason: e.Reason,
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
				require.Equal(t, string(readGolden(t, c.name+".events.json")), string(got),
					"run go generate ./bridge/tensorlake if this is meant")
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
