package journal

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"github.com/fnbridge/fnbridge/bridge"
)

// pastWebhooks brings the schema to webhooks that are remembered by their ids and bodies while a signature of theirs
// may be valid, whether the webhooks themselves are still there or not. n is the order in which they came, digest the
// beginning of the SHA-256 of the body, until when no signature that was seen is valid any more.
const pastWebhooks = `
CREATE TABLE past_webhooks (
	n INTEGER PRIMARY KEY,
	id TEXT NOT NULL,
	digest BLOB NOT NULL,
	until INTEGER NOT NULL,
	UNIQUE (id, digest)
) STRICT;
`

// pastCost is about what one takes, of a sender that makes ids as Svix does.
const pastCost = 160

// maxForgotten is how many are looked at in one step that forgets some.
const maxForgotten = 5000

// bodyDigest is what of a body is remembered.
func bodyDigest(body []byte) []byte {
	digest := sha256.Sum256(body)
	return digest[:len(bridge.Digest{})]
}

// past tells what is remembered of an ID: whether a webhook with that body was stored, or one with another. If one was,
// it is remembered for as long as w's own signature can be valid.
func (s *store) past(ctx context.Context, w *bridge.Webhook) (known, reused bool, err error) {
	if !s.remembers {
		return false, false, nil
	}
	if err := s.findID.QueryRowContext(ctx, w.ID).Scan(&reused); err != nil || !reused {
		return false, false, err
	}
	var until int64
	err = s.findPast.QueryRowContext(ctx, w.ID, bodyDigest(w.Body)).Scan(&until)
	if errors.Is(err, sql.ErrNoRows) {
		return false, true, nil
	}
	if err == nil && until < s.validUntil(w) {
		err = s.remember(ctx, w)
	}
	return err == nil, true, err
}

// anyOfPast tells whether the ID of any of wideRows webhooks is remembered.
func (s *store) anyOfPast(ctx context.Context, some []*request) (past bool, err error) {
	if !s.remembers {
		return false, nil
	}
	ids := make([]any, len(some))
	for i, r := range some {
		ids[i] = r.webhook.ID
	}
	err = s.findAny.QueryRowContext(ctx, ids...).Scan(&past)
	return past, err
}

// pastBytes is about what all that is remembered takes.
func (s *store) pastBytes(ctx context.Context) (n int64, err error) {
	err = s.pastRows.QueryRowContext(ctx).Scan(&n)
	return n * pastCost, err
}

// validUntil is when w's signature is valid no more.
func (s *store) validUntil(w *bridge.Webhook) int64 { return toNanos(w.Timestamp.Add(s.tolerance)) }

// remember keeps w's ID and digest until its signature is valid no more.
func (s *store) remember(ctx context.Context, w *bridge.Webhook) error {
	if s.tolerance == 0 {
		return nil
	}
	_, err := s.insertPast.ExecContext(ctx, w.ID, bodyDigest(w.Body), s.validUntil(w))
	s.remembers = s.remembers || err == nil
	return err
}

// rememberDeleted remembers the webhooks that are about to be deleted, as far as that is needed.
func (s *store) rememberDeleted(ctx context.Context, goes span, now time.Time) (err error) {
	if s.tolerance == 0 {
		return nil
	}
	from, to := toNanos(now.Add(-s.tolerance)), toNanos(now.Add(s.tolerance))
	for after := goes.after; ; {
		rows, err := s.signedBetween.QueryContext(ctx, after, goes.through, from, to, maxDeletedWebhooks)
		if err != nil {
			return err
		}
		found, err := scanWebhooks(rows, maxDeletedBytes)
		if err != nil || len(found) == 0 {
			return err
		}
		for i := range found {
			if err := s.remember(ctx, &found[i].Webhook); err != nil {
				return err
			}
			after = found[i].Seq
		}
	}
}

// forget takes one step of forgetting what no valid signature can bring again, and tells whether to look again. One
// that is to be valid for longer than a signature can be was remembered while a clock was wrong.
func (s *store) forget(ctx context.Context, now time.Time) (again bool, err error) {
	from, to := toNanos(now), toNanos(now.Add(2*s.tolerance))
	result, err := s.deletePast.ExecContext(ctx, maxForgotten, from, to)
	if err != nil {
		return false, err
	}
	deleted, err := result.RowsAffected()
	if err == nil {
		err = s.anyPast.QueryRowContext(ctx).Scan(&s.remembers)
	}
	// Those behind the first that has to stay wait for it: it stays for two tolerances at most.
	return deleted == maxForgotten, err
}

// forgetPast forgets what needs no memory, and tells whether to look again.
func (w *writer) forgetPast(ctx context.Context) (again bool) {
	if !w.forgetting || w.inDoubt != nil || w.journal.keepSinks || !w.store.remembers {
		w.forgetting = false
		return false
	}
	err := w.store.inTransaction(ctx, func() (err error) {
		again, err = w.store.forget(ctx, w.journal.now())
		return err
	})
	w.countFrames()
	if err != nil {
		if isFull(err) {
			w.outOfSpace(ctx)
		} else if leavesDoubt(err) {
			w.inDoubt = err
		}
		again = false
		w.reportUpkeep(ctx, "forget old webhook ids", err)
	}
	w.forgetting = again
	return again
}
