package tensorlake_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

func TestAPayloadThatWouldGrowBeyondBoundsIsUnrecognized(t *testing.T) {
	body := func(name string, functions int) string {
		statuses := make([]string, functions)
		for i := range statuses {
			statuses[i] = fmt.Sprintf(`"%d":""`, i)
		}
		return fmt.Sprintf(`{"workflow_name":%q,"invocation_id":"i","fn_status":{%s}}`, name, strings.Join(statuses, ","))
	}
	large := strings.Repeat("n", 500_000)
	p := parse(t, body(large, 30))
	require.Equal(t, tensorlake.ShapeWorkflow, p.Shape())
	require.Equal(t, 30, p.Len(tensorlake.Options{}))
	require.Equal(t, tensorlake.ShapeWorkflow, parse(t, body("a usual name", 100_000)).Shape())
	require.Equal(t, tensorlake.ShapeWorkflow, parse(t, body(strings.Repeat("ж", 250), 10_000)).Shape())

	// It is what the events hold that counts, in which a letter of two bytes is one of six.
	p = parse(t, body(strings.Repeat("ж", 11_000), 3000))
	require.Equal(t, tensorlake.ShapeUnrecognized, p.Shape())
	require.Equal(t,
		"its 3000 events would repeat the names of workflow and invocation in 377 MiB, and 64 MiB are the most", p.Reason())

	grown := body(large, 25_000)
	p = parse(t, grown)
	require.Equal(t, tensorlake.ShapeUnrecognized, p.Shape())
	require.Equal(t,
		"its 25000 events would repeat the names of workflow and "+
			"invocation in 47683 MiB, and 64 MiB are the most", p.Reason())
	require.Equal(t, grown, string(eventOf(t, grown).Data), "it goes out whole")
}
