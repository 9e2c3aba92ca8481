package journal

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestWebhooksAreSelected(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	// The clock goes back once.
	for i, minutes := range []int{0, 1, 2, -60, 4, 5} {
		mustAppend(t, j, bridge.Webhook{
			ID: fmt.Sprint(i + 1), ReceivedAt: at().Add(time.Duration(minutes) * time.Minute), Body: []byte(`{"n":12345}`),
		})
	}
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	for name, c := range map[string]struct {
		filter   WebhookFilter
		expected []string
	}{
		"all":                    {WebhookFilter{}, []string{"1", "2", "3", "4", "5", "6"}},
		"after":                  {WebhookFilter{After: 4}, []string{"5", "6"}},
		"through":                {WebhookFilter{Through: 2}, []string{"1", "2"}},
		"through what is coming": {WebhookFilter{After: 5, Through: 100}, []string{"6"}},
		"since":                  {WebhookFilter{Since: at().Add(2 * time.Minute)}, []string{"3", "5", "6"}},
		"until":                  {WebhookFilter{Until: at().Add(time.Minute)}, []string{"1", "4"}},
		"all of it": {
			WebhookFilter{After: 1, Through: 5, Since: at(), Until: at().Add(4 * time.Minute)}, []string{"2", "3"},
		},
		"nothing":               {WebhookFilter{Since: at().Add(time.Hour)}, []string{}},
		"until before all time": {WebhookFilter{Until: time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{}},
		"until after all time": {
			WebhookFilter{Until: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"1", "2", "3", "4", "5", "6"},
		},
		"behind the newest": {WebhookFilter{After: 6}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := j.Select(t.Context(), c.filter, 100, 1<<20)
			require.NoError(t, err)
			require.Equal(t, c.expected, ids(found))
			again, err := r.Select(t.Context(), c.filter, 100, 1<<20)
			require.NoError(t, err)
			require.Equal(t, found, again)
			count, bytes, err := j.Count(t.Context(), c.filter)
			require.NoError(t, err)
			require.Len(t, c.expected, int(count))
			require.Equal(t, 11*count, bytes)
			count, bytes, err = r.Count(t.Context(), c.filter)
			require.NoError(t, err)
			require.Len(t, c.expected, int(count))
			require.Equal(t, 11*count, bytes)
		})
	}
	require.Empty(t, selectInPages(t, open(t, Options{}), WebhookFilter{}, 10, 1<<20), "an empty journal")
}

// selectInPages reads everything as a caller does.
func selectInPages(t *testing.T, j *Journal, f WebhookFilter, maxCount int, maxBytes int64) (all []Webhook) {
	t.Helper()
	for {
		page, err := j.Select(t.Context(), f, maxCount, maxBytes)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), maxCount)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		f.After = page[len(page)-1].Seq
	}
}

func TestASearchGoesOnPastWhatItDoesNotSelect(t *testing.T) {
	dir := closedJournal(t)
	edit(fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 21 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO webhooks (seq, id, signed_at, received_at, body)
		SELECT i, 'msg_' || i, %d, %d, CAST('{}' AS BLOB) FROM n`,
		3*scannedAtOnce, toNanos(at()), toNanos(at())))(t, dir+"/journal.db")
	j := open(t, Options{Dir: dir})
	for i := range 3 {
		w := webhook(fmt.Sprint("late-", i))
		w.ReceivedAt = at().Add(time.Hour)
		mustAppend(t, j, w)
	}
	late := WebhookFilter{Since: at().Add(time.Minute)}
	require.Equal(t, []string{"late-0", "late-1", "late-2"}, ids(selectInPages(t, j, late, 2, 1<<20)))
	require.Equal(t, []string{"late-0", "late-1", "late-2"}, ids(selectInPages(t, j, late, 10, 1)),
		"one a page, however few bytes")
	count, _, err := j.Count(t.Context(), late)
	require.NoError(t, err)
	require.Equal(t, int64(3), count)
	require.Len(t, selectInPages(t, j, WebhookFilter{After: 100}, 7000, 1<<20), 3*scannedAtOnce+3-100)
	require.NoError(t, sound(t.Context(), j))
}
