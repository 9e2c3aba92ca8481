package tensorlake_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

func TestEverySampleIsWhatItsNameSays(t *testing.T) {
	now := time.Date(2026, 8, 4, 14, 0, 0, 125_999_999, time.FixedZone("", 2*60*60))
	names, shapes := map[string]bool{}, map[tensorlake.Shape]bool{}
	for _, s := range tensorlake.Samples() {
		require.False(t, names[s.Name], s.Name)
		require.NotEmpty(t, s.About, s.Name)
		names[s.Name] = true
		t.Run(s.Name, func(t *testing.T) {
			made := 0
			newID := func() string { made++; return strconv.Itoa(made) }
			body := s.Payload(now, newID)
			payload, err := tensorlake.Parse(body)
			require.NoError(t, err)
			shapes[payload.Shape()] = true
			var types []string
			for e := range payload.Events(bridge.Webhook{ID: "msg_1", Body: body}, tensorlake.Options{}) {
				types = append(types, e.Type)
			}
			require.Equal(t, s.Types, types, "%s", body)
			require.NotContains(t, string(body), "{id}")

			kind, word, _ := strings.Cut(s.Name, "-")
			var fields map[string]any
			require.NoError(t, json.Unmarshal(body, &fields))
			var other map[string]any
			require.NoError(t, json.Unmarshal(s.Payload(now, newID), &other))
			switch kind {
			case "workflow":
				require.Equal(t, tensorlake.ShapeWorkflow, payload.Shape())
				require.NotEqual(t, fields["invocation_id"], other["invocation_id"])
			case "job":
				require.Equal(t, tensorlake.ShapeDocument, payload.Shape())
				require.Equal(t, []string{"tensorlake.document_ingestion.job." + word}, types)
				require.NotEqual(t, fields["job_id"], other["job_id"])
				require.Equal(t, word == "completed" || word == "failed", fields["finished_at"] != nil)
			default:
				require.Equal(t, tensorlake.ShapeEnvelope, payload.Shape())
				require.NotEqual(t, fields["event_id"], other["event_id"])
				requireEnvelope(t, kind, word, fields)
			}
		})
	}
	for name := range strings.FieldsSeq(`workflow request-created
		request-completed request-failed sandbox-created sandbox-running
		sandbox-suspended sandbox-resumed sandbox-terminated sandbox-failed
		application-created application-updated application-deleted
		job-created job-processing job-completed job-failed`) {
		require.True(t, names[name], name)
	}
	require.Equal(t, "workflow", tensorlake.Samples()[0].Name)
	for s := tensorlake.ShapeUnrecognized + 1; s.String() != tensorlake.ShapeUnrecognized.String(); s++ {
		require.True(t, shapes[s], "no sample of the shape %s", s)
	}
}

// requireEnvelope holds a sample against what Tensorlake documents of the lifecycle envelope.
func requireEnvelope(t *testing.T, kind, word string, envelope map[string]any) {
	t.Helper()
	requireFields(t, envelope,
		"event_id event_type event_version occurred_at project_id source_id source_revision source_ordinal data")
	family := map[string]string{"request": "application.request", "sandbox": "sandbox", "application": "application"}[kind]
	require.Equal(t, "tensorlake."+family+"."+word, envelope["event_type"])
	require.EqualValues(t, 1, envelope["event_version"])
	require.Equal(t, "2026-08-04T12:00:00.125Z", envelope["occurred_at"])
	require.Regexp(t, `^[0-9]+$`, envelope["source_revision"])

	data, _ := envelope["data"].(map[string]any)
	object, _ := data[kind].(map[string]any)
	switch kind {
	case "request":
		requireFields(t, data, "application request")
		requireFields(t, data["application"], "name version")
		requireFields(t, object, "id status failure_reason created_at finished_at")
		require.Equal(t, word, object["status"])
		require.Equal(t, word != "created", object["finished_at"] != nil)
		require.Equal(t, word == "failed", object["failure_reason"] != nil)
	case "application":
		requireFields(t, data, "previous_version previous_state application")
		requireFields(t, object, "name version state disabled_reason created_at")
		require.Equal(t, word != "created", data["previous_version"] != nil)
		require.Equal(t, word != "created", data["previous_state"] != nil)
		require.Equal(t, word == "updated", word != "created" && data["previous_version"] != object["version"])
	case "sandbox":
		requireFields(t, data, "previous_status sandbox")
		requireFields(t, object,
			"id name type image generation_id status outcome outcome_reason snapshot_id created_at resources")
		requireFields(t, object["resources"], "cpus memory_mb disk_mb gpu_count gpu_model")
		status := map[string]string{"created": "pending", "resumed": "pending", "failed": "terminated"}[word]
		if status == "" {
			status = word
		}
		require.Equal(t, status, object["status"])
		require.Equal(t, word != "created", data["previous_status"] != nil)
		outcome := map[string]any{"terminated": "success", "failed": "failure"}[word]
		require.Equal(t, outcome, object["outcome"])
		require.Equal(t, outcome != nil, object["outcome_reason"] != nil)
		require.Equal(t, word == "resumed", object["generation_id"] == 2.0)
	}
}

func requireFields(t *testing.T, object any, names string) {
	t.Helper()
	fields, _ := object.(map[string]any)
	require.ElementsMatch(t, strings.Fields(names), slices.Collect(maps.Keys(fields)))
}
