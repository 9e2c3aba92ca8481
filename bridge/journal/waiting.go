package journal

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A journal mostly holds what every sink has: it is kept for deduping and replay, and goes when room is needed. What
// tells how full a journal is, is the rest: what waits.

const (
	// weighedWebhooks is how many webhooks are looked at to tell what all that wait take.
	weighedWebhooks = 1024
	// weighTimeout bounds that for a scrape, which then tells what the last one did.
	weighTimeout = 2 * time.Second
)

// Parts are what of the journal's bytes goes for what. Beside them is what the log may keep.
type Parts struct {
	// WaitingWebhooks cannot be deleted yet, since a sink, configured or not, waits for them or for one before them.
	// WaitingBytes is about what they take: of many it is estimated from a sample.
	WaitingWebhooks, WaitingBytes int64
	// KeptWebhooks are those that every sink has, KeptBytes is about what they take.
	KeptWebhooks, KeptBytes int64
	// DeadLetterBytes is what dead letters take.
	DeadLetterBytes int64
}

// merged returns spans, which may overlap, in order and without overlaps.
func merged(spans []span) (all []span) {
	spans = slices.SortedFunc(slices.Values(spans), func(a, b span) int { return cmp.Compare(a.after, b.after) })
	for _, s := range spans {
		if n := len(all); n > 0 && s.after <= all[n-1].through {
			all[n-1].through = max(all[n-1].through, s.through)
		} else {
			all = append(all, s)
		}
	}
	return all
}

// waiting returns what of the stored webhooks is waited for. With no sink at all nothing counts as delivered.
func (p *position) waiting(sinks []SinkStatus) (all []span) {
	if len(sinks) == 0 {
		all = []span{{0, endless}}
	}
	for i := range sinks {
		all = append(all, waits(sinks[i].Cursor, sinks[i].absences)...)
	}
	all = slices.DeleteFunc(merged(all), func(s span) bool { return s.through < p.oldest || s.after >= p.head })
	for i := range all {
		all[i] = span{max(all[i].after, p.oldest-1), min(all[i].through, p.head)}
	}
	return all
}

// weigh returns about what the webhooks of spans take, as webhookCost counts.
func weigh(ctx context.Context, q rowQuerier, spans []span) (bytes int64, err error) {
	webhooks, stride := overlap(spans, 0, endless), int64(1)
	for webhooks/stride > weighedWebhooks {
		stride *= 2 // so that the sample stays the same while they become more
	}
	var weighed int64
	for _, s := range spans {
		first := (s.after/stride + 1) * stride
		if first > s.through {
			continue
		}
		var n, size int64
		if err := q.QueryRowContext(ctx, `WITH RECURSIVE numbers (n) AS (
				SELECT ?1 UNION ALL SELECT n + ?2 FROM numbers WHERE n + ?2 <= ?3),
			sizes (size) AS (SELECT length(body) + 2 * length(id) + 64 FROM numbers JOIN webhooks ON seq = n)
			SELECT count(*), coalesce(sum(iif(size < ?4 / 2, size * 5 / 4, (size + ?4) / ?4 * ?4)), 0) FROM sizes`,
			first, stride, s.through, pageSize).Scan(&n, &size); err != nil {
			return 0, err
		}
		weighed, bytes = weighed+n, bytes+size
	}
	if weighed == 0 {
		return 0, nil
	}
	return int64(float64(bytes) / float64(weighed) * float64(webhooks)), nil
}

// parts tells what the pages of the database that are in use hold.
func (p *position) parts(
	ctx context.Context, q rowQuerier, sinks []SinkStatus, usedBytes, letterBytes int64,
) (s Parts, err error) {
	spans := p.waiting(sinks)
	s.WaitingWebhooks = overlap(spans, 0, endless)
	s.KeptWebhooks = p.stored() - s.WaitingWebhooks
	s.DeadLetterBytes = letterBytes
	webhookBytes := max(usedBytes-letterBytes, 0)
	if s.KeptWebhooks == 0 && s.WaitingWebhooks > weighedWebhooks {
		s.WaitingBytes = webhookBytes
		return s, nil
	}
	weight, err := weigh(ctx, q, spans)
	s.WaitingBytes = min(weight, webhookBytes)
	if s.KeptWebhooks > 0 {
		s.KeptBytes = webhookBytes - s.WaitingBytes
	}
	return s, err
}

// waitingMetrics tells of a scrape what waits.
type waitingMetrics struct {
	journal                  *Journal
	last                     atomic.Pointer[Parts]
	webhooks, bytes, letters *prometheus.Desc
}

func newWaitingMetrics(j *Journal) *waitingMetrics {
	return &waitingMetrics{
		journal: j,
		webhooks: prometheus.NewDesc("fnbridge_journal_waiting_webhooks",
			"Webhooks that the journal cannot delete yet, since a sink waits for them or for one before them.", nil, nil),
		bytes: prometheus.NewDesc("fnbridge_journal_waiting_bytes",
			"About what those webhooks take of fnbridge_journal_bytes.", nil, nil),
		letters: prometheus.NewDesc("fnbridge_journal_dead_letter_bytes",
			"What dead letters take of fnbridge_journal_bytes.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *waitingMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.webhooks
	to <- m.bytes
	to <- m.letters
}

// Collect implements prometheus.Collector.
func (m *waitingMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), weighTimeout)
	defer cancel()
	if s, err := m.journal.views.status(ctx); err == nil {
		m.last.Store(&s.Parts)
	}
	p := m.last.Load()
	if p == nil {
		return
	}
	for desc, value := range map[*prometheus.Desc]int64{
		m.webhooks: p.WaitingWebhooks, m.bytes: p.WaitingBytes, m.letters: p.DeadLetterBytes,
	} {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(value))
	}
}

// LastAccepted is when the newest webhook was received, also if it has been deleted since; zero when there never was
// one.
func (j *Journal) LastAccepted() time.Time { return fromNanos(j.accepted.Load()) }

// lastAccepted reads that, in Unix nanoseconds.
func lastAccepted(ctx context.Context, q rowQuerier) (nanos int64, err error) {
	// The newest may have been deleted, while older ones wait for a sink.
	err = q.QueryRowContext(ctx, `SELECT max(coalesce((SELECT received_at FROM webhooks ORDER BY seq DESC LIMIT 1), 0),
		coalesce((SELECT value FROM settings WHERE name = 'accepted_at'), 0))`).Scan(&nanos)
	return nanos, err
}

// noteAccepted keeps when the newest webhook was received, in the transaction that deletes it.
func (s *store) noteAccepted(ctx context.Context, seq int64) error {
	_, err := s.conn.ExecContext(ctx, `INSERT INTO settings (name, value)
		SELECT 'accepted_at', received_at FROM webhooks WHERE seq = ?1
		ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)`, seq)
	return err
}
