package journal

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func TestVerifyReports(t *testing.T) {
	for name, c := range map[string]struct {
		statements string
		findings   []string
	}{
		"all is well": {"", nil},
		"webhooks gone that a sink lacks": {
			"DELETE FROM webhooks WHERE seq BETWEEN 8 AND 9",
			[]string{`webhooks 8 to 9 are missing, and "kafka" has not been sent them all`},
		},
		"webhooks gone that all sinks have": {
			"DELETE FROM webhooks WHERE seq = 4", []string{"webhooks 4 to 4 are missing; all sinks have been sent them"},
		},
		"what all have goes from the oldest on": {"DELETE FROM webhooks WHERE seq <= 5", nil},
		"the oldest gone, and a sink lacks them": {
			"DELETE FROM webhooks WHERE seq <= 6",
			[]string{`webhooks 6 to 6 are missing, and sink "kafka" has not been sent them`},
		},
		"the newest gone": {
			"DELETE FROM webhooks WHERE seq >= 15",
			[]string{`webhooks 15 to 20 are missing, and "kafka", "nats" has not been sent them all`},
		},
		"a sink may lack what was accepted in its absence": {
			`UPDATE sinks SET configured = 0 WHERE sink = 'kafka'; DELETE FROM webhooks WHERE seq BETWEEN 8 AND 9;
			INSERT INTO absences VALUES ('kafka', 7, 9223372036854775807, 0); INSERT INTO holes VALUES (7, 9)`, nil,
		},
		"what waits for a sink that is not configured is gone": {
			`UPDATE sinks SET configured = 0 WHERE sink = 'kafka'; DELETE FROM webhooks WHERE seq <= 10;
			INSERT INTO absences VALUES ('kafka', 8, 9223372036854775807, 0)`,
			[]string{`webhooks 6 to 8 are missing, and sink "kafka" has not been sent them`},
		},
		"a hole where something waits": {
			"DELETE FROM webhooks WHERE seq BETWEEN 8 AND 9; INSERT INTO holes VALUES (7, 9)",
			[]string{`webhooks 8 to 9 are missing, and sink "kafka" has not been sent them`},
		},
		"a cursor ahead of everything": {
			"UPDATE sinks SET cursor = 21 WHERE sink = 'nats'", []string{
				`the cursor of sink "nats" is 21, and the newest webhook ever was 20`,
				"webhooks 21 to 21 are missing, and \"kafka\" has not been sent them all",
			},
		},
		"a cursor before everything": {
			"UPDATE sinks SET cursor = -1 WHERE sink = 'kafka'",
			[]string{`the cursor of sink "kafka" is -1, and the newest webhook ever was 20`},
		},
		"a body that is no object": {
			"UPDATE webhooks SET body = CAST('[1]' AS BLOB) WHERE seq = 3",
			[]string{`webhook 3 ("2"): its body is not a JSON object`},
		},
		"a body that is no JSON": {
			"UPDATE webhooks SET body = CAST('{\"a\":' AS BLOB) WHERE seq = 3",
			[]string{`webhook 3 ("2"): its body is not a JSON object`},
		},
		"a time that cannot be": {
			"UPDATE webhooks SET received_at = 0 WHERE seq = 3",
			[]string{`webhook 3 ("2"): received at 0001-01-01T00:00:00Z, which is too long ago: the clock was wrong`},
		},
		"a time to come": {
			fmt.Sprintf("UPDATE webhooks SET received_at = %d WHERE seq = 3",
				toNanos(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC))),
			[]string{`webhook 3 ("2"): received at 2200-01-01T00:00:00Z, which is in the future: ` +
				`the clock was wrong, or is now`},
		},
		"no id": {
			"UPDATE webhooks SET id = '' WHERE seq = 3", []string{"webhook 3: it has no id"},
		},
		"a letter of nobody": {
			"UPDATE dead_letters SET sink = 'x' WHERE id = 1", []string{`dead letter 1: the journal does not know its sink "x"`},
		},
		"a letter of no webhook": {
			"UPDATE dead_letters SET webhook_seq = 21 WHERE id = 1; UPDATE letter_events SET webhook_seq = 21",
			[]string{"dead letter 1: there never was a webhook 21"},
		},
		"a letter whose route cannot be read": {
			"UPDATE dead_letters SET event = x'', route = '[' WHERE id = 1",
			[]string{"dead letter 1: its route cannot be read: unexpected end of JSON input"},
		},
		"a letter whose time cannot be read": {
			"UPDATE dead_letters SET event = x'', event_time = 'noon' WHERE id = 1",
			[]string{`dead letter 1: the time of its event ("noon") cannot be read`},
		},
		"a letter whose event cannot be read": {
			"UPDATE dead_letters SET event = x'0100' WHERE id = 1",
			[]string{"dead letter 1: its event cannot be read: the event of a dead letter is damaged"},
		},
		"a letter without what it has in common": {
			"DELETE FROM letter_events",
			[]string{"dead letter 1: its event cannot be read: the event of a dead letter is damaged: it has an unknown format"},
		},
		"a letter that was tried in another time": {
			"UPDATE dead_letters SET last_at = 1 WHERE id = 1",
			[]string{"dead letter 1: tried at 1970-01-01T00:00:00Z, which is too long ago: the clock was wrong"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, Options{Dir: dir, Sinks: []string{"kafka", "nats"}})
			for i := range 20 {
				mustAppend(t, j, heavy(fmt.Sprint(i), 50))
			}
			require.NoError(t, advance(t.Context(), j, "kafka", 5))
			require.NoError(t, advance(t.Context(), j, "nats", 12))
			require.NoError(t, j.AddDeadLetters(t.Context(), []DeadLetter{deadLetter(1, 0)}))
			require.NoError(t, j.Close(t.Context()))
			edit(c.statements)(t, dir+"/journal.db")
			r, err := OpenReader(t.Context(), dir)
			require.NoError(t, err)
			defer func() { require.NoError(t, r.Close()) }()
			var steps [][2]int64
			report, err := r.Verify(t.Context(), func(done, total int64) { steps = append(steps, [2]int64{done, total}) })
			require.NoError(t, err)
			require.Equal(t, append([]string{}, c.findings...), report.Findings)
			require.Zero(t, steps[0][0])
			if c.findings == nil {
				last := steps[len(steps)-1]
				require.Equal(t, last[1], last[0], "to the end")
				require.Equal(t, report.Webhooks+report.DeadLetters, last[1])
				require.Equal(t, 50*report.Webhooks+7*report.DeadLetters, report.Bytes)
			}
		})
	}
}

func TestVerifyBoundsItsFindings(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Options{Dir: dir})
	for i := range maxFindings + 3 {
		mustAppend(t, j, bridge.Webhook{ID: fmt.Sprint(i), ReceivedAt: at(), Body: []byte("x")})
	}
	r, err := OpenReader(t.Context(), dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	report, err := r.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.Len(t, report.Findings, maxFindings+1)
	require.Equal(t, "and 3 more", report.Findings[maxFindings])
}

func TestVerifyFindsWhatAnIndexLacks(t *testing.T) {
	// While the schema hides the index, the table changes without it.
	const (
		hide = `PRAGMA writable_schema = ON;
			CREATE TABLE hidden AS SELECT * FROM sqlite_schema WHERE name = 'sqlite_autoindex_webhooks_1';
			DELETE FROM sqlite_schema WHERE name = 'sqlite_autoindex_webhooks_1';
			UPDATE sqlite_schema SET sql = replace(sql, 'id TEXT NOT NULL UNIQUE', 'id TEXT NOT NULL') WHERE name = 'webhooks'`
		show = `PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM hidden;
			UPDATE sqlite_schema SET sql = replace(sql, 'id TEXT NOT NULL', 'id TEXT NOT NULL UNIQUE') WHERE name = 'webhooks'`
	)
	for name, c := range map[string]struct{ statements, says string }{
		"a webhook that is not in it": {
			"UPDATE webhooks SET id = 'other' WHERE seq = 7",
			"the index sqlite_autoindex_webhooks_1 is wrong: webhook 7 is not in it",
		},
		"a webhook too few": {
			"DELETE FROM webhooks WHERE seq = 20", "wrong # of entries in index sqlite_autoindex_webhooks_1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := closedJournal(t)
			for _, statements := range []string{hide, c.statements, show} {
				edit(statements)(t, dir+"/journal.db")
			}
			r, err := OpenReader(t.Context(), dir)
			require.NoError(t, err)
			defer func() { require.NoError(t, r.Close()) }()
			_, err = r.Verify(t.Context(), nil)
			var damage *DamagedError
			require.ErrorAs(t, err, &damage)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// A serve beside it deletes from the oldest on and appends: neither is a finding.
func TestVerifyBesideAServe(t *testing.T) { synctest.Test(t, verifyBesideAServe) }

func verifyBesideAServe(t *testing.T) {
	now := &clock{now: at()}
	j := open(t, Options{Now: now.Now, Retention: time.Hour})
	const total = 3 * maxVerifiedRows
	var wg sync.WaitGroup
	for part := range 50 {
		wg.Go(func() {
			for i := part; i < total; i += 50 {
				if _, err := j.Append(context.Background(), webhook(fmt.Sprint(i))); err != nil {
					t.Errorf("append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	calls := 0
	report, err := j.views.verify(t.Context(), now.Now().Add(time.Hour), func(int64, int64) {
		if calls++; calls != 2 {
			return
		}
		mustAppend(t, j, webhook("while it reads"))
		require.NoError(t, advance(t.Context(), j, "nats", total-500))
		now.set(now.Now().Add(2 * time.Hour))
		sweep(t)
		require.Len(t, readAll(t, j), 501)
	})
	require.NoError(t, err)
	require.Empty(t, report.Findings)
	require.Equal(t, int64(maxVerifiedRows+500), report.Webhooks)
}
