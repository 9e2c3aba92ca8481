package journal

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"time"
)

// scannedAtOnce is how many numbers one read of a search looks at. Short reads let the log begin anew meanwhile.
const scannedAtOnce = 10_000

// WebhookFilter selects webhooks: those to which every field that is set applies. The zero filter selects all.
type WebhookFilter struct {
	// After and Through bound the number: greater than After, and not greater than Through unless that is 0.
	After, Through int64
	// Since and Until bound ReceivedAt: at or after Since, before Until.
	Since, Until time.Time
}

// times returns the bounds of received_at, both inclusive.
func (f *WebhookFilter) times() (from, to int64) {
	from, to = math.MinInt64, math.MaxInt64
	if !f.Since.IsZero() {
		from = toNanos(f.Since)
	}
	if !f.Until.IsZero() {
		until := toNanos(f.Until)
		if until == math.MinInt64 {
			return math.MaxInt64, math.MinInt64
		}
		to = until - 1
	}
	return from, to
}

// selectWebhooks returns the first of what f selects. Webhooks are ordered by number alone, and the clock that gave
// them their times may have jumped, so it looks at each number.
func (v *views) selectWebhooks(ctx context.Context, f WebhookFilter, maxCount int, maxBytes int64) (
	found []Webhook, err error,
) {
	after, through, err := v.bounds(ctx, f)
	if err != nil {
		return nil, err
	}
	from, to := f.times()
	for ; after < through && len(found) == 0; after += scannedAtOnce {
		rows, err := v.db.QueryContext(ctx, `SELECT seq, id, signed_at, received_at, body FROM webhooks
			WHERE seq > ? AND seq <= ? AND received_at BETWEEN ? AND ? ORDER BY seq LIMIT ?`,
			after, min(after+scannedAtOnce, through), from, to, max(maxCount, 1))
		if err != nil {
			return nil, err
		}
		if found, err = scanWebhooks(rows, maxBytes); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// countWebhooks counts what f selects, and the bytes of its bodies. It does not read the bodies.
func (v *views) countWebhooks(ctx context.Context, f WebhookFilter) (count, bytes int64, err error) {
	after, through, err := v.bounds(ctx, f)
	if err != nil {
		return 0, 0, err
	}
	from, to := f.times()
	for ; after < through; after += scannedAtOnce {
		var n, size int64
		if err := v.db.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(length(body)), 0) FROM webhooks
			WHERE seq > ? AND seq <= ? AND received_at BETWEEN ? AND ?`,
			after, min(after+scannedAtOnce, through), from, to).Scan(&n, &size); err != nil {
			return 0, 0, err
		}
		count, bytes = count+n, bytes+size
	}
	return count, bytes, nil
}

// bounds returns the numbers after and through which f can select something of what is stored now.
func (v *views) bounds(ctx context.Context, f WebhookFilter) (after, through int64, err error) {
	if err := v.db.QueryRowContext(ctx, `SELECT coalesce((SELECT min(seq) FROM webhooks), 1),
		coalesce((SELECT max(seq) FROM webhooks), 0)`).
		Scan(&after, &through); err != nil {
		return 0, 0, err
	}
	after = max(after-1, f.After)
	if f.Through > 0 {
		through = min(through, f.Through)
	}
	return after, through, nil
}

// scanWebhooks reads rows to their end, or until the next would pass maxBytes of bodies. The first comes whatever its
// size.
func scanWebhooks(rows *sql.Rows, maxBytes int64) (found []Webhook, err error) {
	found, _, err = scanSome(rows, math.MaxInt, maxBytes)
	return found, err
}

// scanSome is scanWebhooks of at most maxCount rows, and tells whether it came to their end.
func scanSome(rows *sql.Rows, maxCount int, maxBytes int64) (found []Webhook, ended bool, err error) {
	// An early end gives the read lock back before the caller works with what was found.
	defer func() { err = errors.Join(err, rows.Close()) }()
	var bytes int64
	for len(found) < maxCount {
		if !rows.Next() {
			return found, true, rows.Err()
		}
		var (
			w                Webhook
			signed, received int64
			body             sql.RawBytes
		)
		if err := rows.Scan(&w.Seq, &w.ID, &signed, &received, &body); err != nil {
			return nil, false, err
		}
		w.ID = originalID(w.ID)
		bytes += int64(len(body))
		if len(found) > 0 && bytes > maxBytes {
			break
		}
		w.Timestamp, w.ReceivedAt = fromNanos(signed), fromNanos(received)
		w.Body = append(make([]byte, 0, len(body)), body...)
		found = append(found, w)
	}
	return found, false, nil
}
