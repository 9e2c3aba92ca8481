package journal

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

// with returns the webhook of an id with a body of its own.
func with(id, content string) bridge.Webhook {
	w := webhook(id)
	w.Body = fmt.Appendf(nil, `{"content":%q}`, content)
	return w
}

func requireAccepted(t *testing.T, j *Journal, want bridge.Acceptance, w bridge.Webhook) {
	t.Helper()
	accepted, err := j.Append(t.Context(), w)
	require.NoError(t, err)
	require.Equal(t, want, accepted, "%s %s", w.ID, w.Body)
}

func TestOneIDWithTwoBodiesIsTwoWebhooks(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	sent := []bridge.Webhook{with("msg_1", "a"), with("msg_1", "b"), with("msg_2", "a"), with("msg_1", "")}
	for i := range sent {
		want := bridge.Stored
		if i == 1 || i == 3 {
			want = bridge.StoredReusedID
		}
		requireAccepted(t, j, want, sent[i])
	}
	requireKnown := func() {
		t.Helper()
		for _, w := range sent {
			requireAccepted(t, j, bridge.Duplicate, w)
		}
		require.Equal(t, numbered(sent), readAll(t, j))
		require.EqualValues(t, len(sent), j.Head())
		require.NoError(t, sound(t.Context(), j))
	}
	requireKnown() // from memory

	require.NoError(t, j.Close(t.Context()))
	j = open(t, Options{Dir: dir})
	requireKnown() // from the disk
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	defer r.Close()
	selected, err := r.Select(t.Context(), WebhookFilter{}, 100, 1<<20)
	require.NoError(t, err)
	require.Equal(t, numbered(sent), selected)

	_, err = j.Append(t.Context(), with("msg_1 sha256:"+strings.Repeat("0", 64), "c"))
	require.ErrorContains(t, err, "the journal itself makes such IDs")
}

func TestManyBodiesAtOnceUnderOneIDAreAllStored(t *testing.T) {
	j := open(t, Options{})
	const bodies, repeats = 8, 4
	came := make(chan bridge.Acceptance, bodies*repeats)
	var all sync.WaitGroup
	for i := range bodies * repeats {
		all.Go(func() {
			accepted, err := j.Append(context.Background(), with("msg_1", fmt.Sprint(i%bodies)))
			if err != nil {
				t.Errorf("append: %v", err)
			}
			came <- accepted
		})
	}
	all.Wait()
	close(came)
	counts := map[bridge.Acceptance]int{}
	for accepted := range came {
		counts[accepted]++
	}
	require.Equal(t,
		map[bridge.Acceptance]int{
			bridge.Stored: 1, bridge.StoredReusedID: bodies - 1,
			bridge.Duplicate: bodies * (repeats - 1),
		}, counts)
	require.Len(t, readAll(t, j), bodies)
}

func TestAFullJournalKnowsWebhooksByIDAndBody(t *testing.T) {
	j := open(t, Options{MaxBytes: 256 << 10})
	requireAccepted(t, j, bridge.Stored, with("msg_1", "a"))
	requireAccepted(t, j, bridge.StoredReusedID, with("msg_1", "b"))
	fill(t, j, "more", 300)
	requireAccepted(t, j, bridge.Duplicate, with("msg_1", "a"))
	requireAccepted(t, j, bridge.Duplicate, with("msg_1", "b"))
	_, err := j.Append(t.Context(), heavy("msg_1", 300))
	require.ErrorIs(t, err, ErrFull, "what is not stored is no duplicate")
}
