package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAWebhookIsRememberedWhileItsSignatureIsValid(t *testing.T) {
	begin := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	after := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	names := func(all []identity) string {
		var text []string
		for _, w := range all {
			text = append(text, w.id)
		}
		return strings.Join(text, " ")
	}
	r := recentWebhooks{least: 2, bytes: 1 << 20, until: make(map[identity]time.Time)}
	for i := range 4 {
		require.Empty(t, r.add(identity{id: fmt.Sprint(i)}, after(5+i), begin), "more than are remembered in any case")
	}
	require.True(t, r.knows(identity{id: "0"}, after(20)), "it came again, signed anew")
	require.Equal(t, "1", names(r.add(identity{id: "4"}, after(12), after(6))))
	require.Equal(t, "2 3", names(r.add(identity{id: "5"}, after(13), after(8))))
	require.True(t, r.knows(identity{id: "0"}, after(20)))
	require.Equal(t, "4 0 5", names(r.add(identity{id: "6"}, after(30), after(25)))+" "+
		names(r.add(identity{id: "7"}, after(31), after(25))), "but for the last two")
	require.Len(t, r.order[r.first:], 2)

	// What it takes is bounded.
	r = recentWebhooks{least: 2, bytes: 100 * 1024, until: make(map[identity]time.Time)}
	for i := range 100_000 {
		r.add(identity{id: fmt.Sprintf("%05d", i)}, after(60), begin)
	}
	require.Len(t, r.until, 100*1024/(rememberedBytes+5))
	require.Less(t, cap(r.order), 1500)
	require.True(t, r.knows(identity{id: "99700"}, begin))
	require.False(t, r.knows(identity{id: "99500"}, begin))
}
