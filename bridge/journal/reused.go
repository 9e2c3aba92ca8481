package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

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

// findKnown tells of a webhook's ID, body and reusedID whether it is there.
const findKnown = `SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = ?3 OR (id = ?1 AND body = ?2))`

// append stores w as number seq in the transaction under way, unless it is there already. Bodies are compared only
// where the ID is known. When the first webhook of an ID has gone after its retention, a repeat of a later one is taken
// for new.
func (s *store) append(ctx context.Context, seq int64, w *bridge.Webhook) (bridge.Acceptance, error) {
	if stored, err := s.storeWebhook(ctx, seq, w.ID, w); err != nil {
		return 0, err
	} else if stored {
		return bridge.Stored, nil
	}
	kept := reusedID(w)
	var known bool
	if err := s.findKnown.QueryRowContext(ctx, w.ID, bodyColumn(w), kept).Scan(&known); err != nil {
		return 0, err
	}
	if known {
		return bridge.Duplicate, nil
	}
	_, err := s.storeWebhook(ctx, seq, kept, w)
	return bridge.StoredReusedID, err
}
