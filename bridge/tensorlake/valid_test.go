package tensorlake_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

// requireValidEvent holds what is true of every event, whatever it was made of.
func requireValidEvent(tb testing.TB, e bridge.Event) {
	tb.Helper()
	require.NotEmpty(tb, e.ID)
	require.NotEmpty(tb, e.Type)
	require.NotEmpty(tb, e.Source)
	require.NotEmpty(tb, e.PartitionKey)
	for name, value := range map[string]string{
		"id": e.ID, "type": e.Type, "source": e.Source, "subject": e.Subject,
		"partitionkey": e.PartitionKey, "webhookid": e.WebhookID,
		"sequence": e.Sequence, "sourceid": e.SourceID,
	} {
		requireAttribute(tb, name, value)
	}
	// A reader may trim these.
	for _, value := range []string{e.ID, e.Type, e.Source, e.Subject} {
		require.Equal(tb, strings.TrimSpace(value), value)
	}
	require.Regexp(tb, `^(/[A-Za-z0-9._~%-]*)+$`, e.Source)
	require.Regexp(tb, `^[A-Za-z0-9._~%-]*(/[A-Za-z0-9._~%-]*)?$`, e.Subject)
	uri, err := url.Parse(e.Source)
	require.NoError(tb, err)
	require.Equal(tb, e.Source, uri.String())

	require.Equal(tb, "UTC", e.Time.Location().String())
	require.True(tb, 1 <= e.Time.Year() && e.Time.Year() <= 9999)
	require.True(tb, json.Valid(e.Data))
	require.True(tb, utf8.Valid(e.Data))
	require.NotEmpty(tb, e.Route)
	require.Regexp(tb, `^[a-z0-9_-]*$`, e.Status)
	require.Regexp(tb, `^[a-z0-9_-]*$`, e.Outcome)
	require.Regexp(tb, `^([0-9]{20}\.[0-9]{10})?$`, e.Sequence)
	if e.Function != "" || e.Source == "/tensorlake/documents" {
		require.True(tb, strings.HasSuffix(e.Type, "."+e.Status), "%s ends in %s", e.Type, e.Status)
		require.Equal(tb, e.Status, e.Route[len(e.Route)-1])
	}
}

// requireAttribute follows the type String of CloudEvents 1.0.
func requireAttribute(tb testing.TB, name, value string) {
	tb.Helper()
	require.True(tb, utf8.ValidString(value), "%s %q", name, value)
	for _, r := range value {
		control := r <= 0x1f || 0x7f <= r && r <= 0x9f
		noncharacter := 0xfdd0 <= r && r <= 0xfdef || r&0xffff == 0xfffe || r&0xffff == 0xffff
		require.False(tb, control || noncharacter, "%s %q", name, value)
	}
}

// requireAgreesWithEncodingJSON holds what Parse accepts against encoding/json.
func requireAgreesWithEncodingJSON(tb testing.TB, body []byte, err error) {
	tb.Helper()
	var object map[string]json.RawMessage
	isObject := utf8.Valid(body) && json.Unmarshal(body, &object) == nil && object != nil
	require.Equal(tb, isObject, err == nil, "%v", err)
	if err != nil {
		require.True(tb, errors.Is(err, tensorlake.ErrNotJSON) || errors.Is(err, tensorlake.ErrNotObject), "%v", err)
		require.Equal(tb, utf8.Valid(body) && json.Valid(body), errors.Is(err, tensorlake.ErrNotObject), "%v", err)
		requireAttribute(tb, "error", err.Error())
	}
}

// requireSameText holds the names in workflow events against encoding/json.
func requireSameText(tb testing.TB, body []byte, p tensorlake.Payload, events []bridge.Event) {
	tb.Helper()
	if p.Shape() != tensorlake.ShapeWorkflow {
		return
	}
	var exact map[string]json.RawMessage // a struct would match keys without regard to case
	require.NoError(tb, json.Unmarshal(body, &exact))
	var (
		workflow, invocation string
		functions            map[string]string
	)
	require.NoError(tb, json.Unmarshal(exact["workflow_name"], &workflow))
	require.NoError(tb, json.Unmarshal(exact["invocation_id"], &invocation))
	require.NoError(tb, json.Unmarshal(exact["fn_status"], &functions))
	for _, e := range events {
		require.Equal(tb, workflow, e.Application)
		require.Equal(tb, invocation, e.Request)
		if e.Type == "tensorlake.workflow.invocation.finished" {
			continue
		}
		require.Contains(tb, functions, e.Function)
		var data struct {
			Function string `json:"function"`
			Total    int    `json:"functions_total"`
		}
		require.NoError(tb, json.Unmarshal(e.Data, &data))
		require.Equal(tb, e.Function, data.Function)
		require.GreaterOrEqual(tb, data.Total, len(functions))
	}
}
