package journal

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"

	"github.com/fnbridge/fnbridge/bridge"
)

// A webhook whose ID another body has is in the table under its ID, this mark and the SHA-256 of its body in hex. No ID
// that a bridge accepts has a space in it.
const reusedMark = " sha256:"

// reusedID returns what w is kept under when another body has its ID.
func reusedID(w *bridge.Webhook) string {
	digest := sha256.Sum256(w.Body)
	return w.ID + reusedMark + hex.EncodeToString(digest[:])
}

// originalID returns the ID that a webhook came with, given what it is kept under.
func originalID(kept string) string {
	at := len(kept) - len(reusedMark) - hex.EncodedLen(sha256.Size)
	if at > 0 && kept[at:at+len(reusedMark)] == reusedMark {
		return kept[:at]
	}
	return kept
}

// findKnown tells of a webhook's ID, body, reusedID and bodyDigest whether it is there, or was and is remembered.
func findKnown(version int) string {
	there := `SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = ?3 OR (id = ?1 AND body = ?2))`
	if version < 5 {
		return there + ` OR ?4 = 0`
	}
	return there + ` OR EXISTS (SELECT 1 FROM past_webhooks WHERE id = ?1 AND digest = ?4)`
}

// append stores w as number seq in the transaction under way, unless it is there already, or was while a signature of
// it may be valid. Bodies are compared only where the ID is known.
func (s *store) append(ctx context.Context, seq int64, w *bridge.Webhook) (bridge.Acceptance, error) {
	known, reused, err := s.past(ctx, w)
	switch {
	case err != nil:
		return 0, err
	case known:
		return bridge.Duplicate, nil
	}
	if stored, err := s.storeWebhook(ctx, seq, w.ID, w); err != nil {
		return 0, err
	} else if stored {
		if reused {
			return bridge.StoredReusedID, nil
		}
		return bridge.Stored, nil
	}
	kept := reusedID(w)
	var signed int64
	err = s.findKnown.QueryRowContext(ctx, w.ID, bodyColumn(w), kept).Scan(&signed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		// The first webhook of the ID goes before this one, and then only this memory stands for it.
		if _, err := s.storeWebhook(ctx, seq, kept, w); err != nil {
			return 0, err
		}
		return bridge.StoredReusedID, s.remember(ctx, w)
	case err != nil:
		return 0, err
	case signed < toNanos(w.Timestamp):
		// Its signature is valid for longer than the first one's, which is all that is known when the webhook goes.
		err = s.remember(ctx, w)
	}
	return bridge.Duplicate, err
}
