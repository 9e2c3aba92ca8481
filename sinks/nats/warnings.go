package nats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/reload"
)

const (
	// lookInterval is how often the stream is looked at, for what is warned of and how full it is.
	lookInterval = time.Minute
	// fillingWithin is how soon a stream has to be full to be warned of.
	fillingWithin = 24 * time.Hour
	// leastAge is how old the oldest message has to be to tell how fast the stream grows.
	leastAge = time.Minute
)

// concern is what some warnings are about. A look finds all of one concern, and they replace those found before.
type concern int

const (
	ofSettings concern = iota
	ofStorage
	ofLetters
)

// Warnings implements bridge.Warner.
func (s *Sink) Warnings() []bridge.Warning {
	m := s.stream
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Concat(s.conn.renewal.Warnings(),
		m.warnings[ofSettings], m.warnings[ofStorage], m.warnings[ofLetters])
}

// Storage implements bridge.Storing.
func (s *Sink) Storage() (bridge.Storage, bool) {
	s.stream.mu.Lock()
	defer s.stream.mu.Unlock()
	if s.stream.storage == nil {
		return bridge.Storage{}, false
	}
	return *s.stream.storage, true
}

// warn keeps what has been found of a concern, and tells the log of what it has not heard of yet, in one line.
func (m *stream) warn(about concern, message string, found ...bridge.Warning) {
	m.mu.Lock()
	var news []string
	for _, w := range found {
		if _, told := m.warned[w.Key]; !told {
			m.warned[w.Key] = struct{}{}
			news = append(news, w.Text)
		}
	}
	for i := range found {
		found[i].Text = "stream " + m.o.Stream + ": " + found[i].Text
	}
	m.warnings[about] = found
	m.mu.Unlock()
	if len(news) > 0 {
		m.log.With("stream", m.o.Stream).Warn(message, "found", strings.Join(news, "; ")) //nolint:sloglint // all messages are constants
	}
}

// differences says where a stream differs from the configuration, and where it loses what it has acknowledged.
func (m *stream) differences(c natsjs.StreamConfig) []bridge.Warning {
	var found []bridge.Warning
	differ := func(key, format string, args ...any) {
		found = append(found, bridge.Warning{Key: key, Text: fmt.Sprintf(format, args...)})
	}
	if !slices.ContainsFunc(c.Subjects, func(subject string) bool { return covers(subject, m.filter) }) {
		differ("stream_subjects", "it takes the subjects [%s], which may not be all of %s; add those that are missing",
			strings.Join(c.Subjects, " "), m.filter)
	}
	if m.o.CreateStream {
		if c.MaxAge != m.o.MaxAge {
			differ("stream_max_age", "its maximum age is %s, not %s (%s)",
				c.MaxAge, m.o.MaxAge, m.o.Files.Variable("MAX_AGE"))
		}
		if m.o.MaxBytes > 0 && c.MaxBytes != m.o.MaxBytes {
			differ("stream_max_bytes", "its maximum size is %d bytes, not %d (%s)",
				c.MaxBytes, m.o.MaxBytes, m.o.Files.Variable("MAX_BYTES"))
		}
		if c.Replicas != m.o.Replicas {
			differ("stream_replicas", "it has %d replicas, not %d (%s)",
				c.Replicas, m.o.Replicas, m.o.Files.Variable("REPLICAS"))
		}
	}
	if m.o.DedupeWindow > 0 && c.Duplicates < m.o.DedupeWindow {
		differ("stream_dedupe_window", "its window for duplicates is %s, not %s (%s)",
			c.Duplicates, m.o.DedupeWindow, m.o.Files.Variable("DEDUPE_WINDOW"))
	}
	if m.o.SharesVolume || m.o.CreateStream && c.MaxBytes == m.o.MaxBytes {
		c.MaxBytes = 0 // as it was asked for
	}
	return append(found, losses(c)...)
}

// losses says which settings of a stream lose what it has acknowledged, or refuse what comes.
func losses(c natsjs.StreamConfig) []bridge.Warning {
	var found []bridge.Warning
	lose := func(key, format string, args ...any) {
		found = append(found, bridge.Warning{Key: key, Text: fmt.Sprintf(format, args...)})
	}
	if c.Storage != natsjs.FileStorage {
		lose("stream_memory", "it is kept in memory, so a restart of the servers loses what it acknowledged; "+
			"keep it in files (storage: file)")
	}
	if c.PersistMode == natsjs.AsyncPersistMode {
		lose("stream_persist_mode", "it acknowledges before it has written (persist_mode async), "+
			"so a crash of the server loses what it acknowledged; set persist_mode to default")
	}
	switch c.Retention {
	case natsjs.LimitsPolicy:
	case natsjs.InterestPolicy:
		lose("stream_retention", "its retention is %s: it drops at once what no consumer is interested in, "+
			"and the rest when all have taken it; set it to limits", c.Retention)
	case natsjs.WorkQueuePolicy:
		lose("stream_retention", "its retention is %s, so events go once they are consumed; set it to limits", c.Retention)
	}
	until := "for good"
	if c.MaxAge > 0 {
		until = "for " + c.MaxAge.String()
	}
	limit := func(setting string, n int64, what string, drops bool) {
		switch {
		case n <= 0:
		case drops:
			lose("stream_"+setting, "it drops the oldest when it has more than %d %s, so they may not stay %s; "+
				"raise or remove %s", n, what, until, setting)
		default:
			lose("stream_"+setting, "it refuses what comes when it has %d %s (discard new), which then waits; "+
				"raise or remove %s", n, what, setting)
		}
	}
	old := c.Discard == natsjs.DiscardOld
	limit("max_msgs", c.MaxMsgs, "messages", old)
	limit("max_bytes", c.MaxBytes, "bytes", old)
	limit("max_msgs_per_subject", c.MaxMsgsPerSubject, "messages of a subject", old || !c.DiscardNewPerSubject)
	return found
}

// noteStorage notes how full the stream is, and its account as far as that is known.
func (m *stream) noteStorage(info *natsjs.StreamInfo) {
	now := time.Now()
	m.mu.Lock()
	m.storage = storageOf(&m.growth, now, info, m.tier)
	storage := m.storage
	m.mu.Unlock()
	m.warn(ofStorage, "the stream fills up", filling(storage, m.o.Files, now)...)
}

// storageOf returns how full is what is full first, and nil if there is no limit. growth is the stream's.
func storageOf(growth *bridge.Growth, now time.Time, info *natsjs.StreamInfo, tier natsjs.Tier) *bridge.Storage {
	c := info.Config
	size := int64(info.State.Bytes) //nolint:gosec // no disk has that many
	growth.See(now, size)
	rate, lately := growth.Rate(now, size)
	age := now.Sub(info.State.FirstTime)
	full := c.MaxBytes > 0 && size >= c.MaxBytes/20*19
	if (!lately || full) && info.State.Msgs > 0 && age >= leastAge {
		rate = float64(size) / age.Seconds() // one that is full grows no more
	}
	var limits []bridge.Storage
	if c.MaxBytes > 0 {
		limits = append(limits, bridge.Storage{
			UsedBytes: size, LimitBytes: c.MaxBytes, Of: "stream " + c.Name, DropsOldest: c.Discard == natsjs.DiscardOld,
		})
	}
	if tier.Limits.MaxStore > 0 && c.Storage == natsjs.FileStorage {
		limits = append(limits, bridge.Storage{
			UsedBytes: int64(tier.Store), LimitBytes: tier.Limits.MaxStore, Of: "the account's storage", //nolint:gosec // as above
		})
	}
	var first *bridge.Storage
	for i := range limits {
		l := &limits[i]
		after, fills := bridge.FullAfter(l.UsedBytes, l.LimitBytes, rate)
		// Once as much goes for its age as comes, nothing grows.
		if fills && (c.MaxAge == 0 || after <= c.MaxAge-age || rate*c.MaxAge.Seconds() > float64(l.LimitBytes)) {
			at := now.Add(after)
			l.FullAt = &at
		}
		if first == nil || l.FullAt != nil && (first.FullAt == nil || l.FullAt.Before(*first.FullAt)) {
			first = l
		}
	}
	return first
}

// filling warns of what is full soon.
func filling(s *bridge.Storage, files *reload.Part, now time.Time) []bridge.Warning {
	if s == nil {
		return nil
	}
	in, fills := s.FullIn(now)
	if !fills || in >= fillingWithin {
		return nil
	}
	when := "is full"
	if in > 0 {
		when += " in " + in.Round(time.Minute).String() + " at this rate"
	}
	what := "then new events are refused and wait; give it more room, or a shorter " + files.Variable("MAX_AGE")
	if s.DropsOldest {
		what = "then the oldest events go before their age; raise its max_bytes (" + files.Variable("MAX_BYTES") +
			"), or lower " + files.Variable("MAX_AGE")
	}
	return []bridge.Warning{{Key: "stream_filling", Text: fmt.Sprintf("%s %s (%d of %d bytes): %s",
		s.Of, when, s.UsedBytes, s.LimitBytes, what)}}
}

// askAccount finds out what the account uses, and may use, for streams of so many replicas, as far as that may be
// asked. A cluster without a leader does not answer, and may store all the same: nothing that is published waits for
// this.
func (m *stream) askAccount(ctx context.Context, s *session, replicas int) {
	if s.accountHidden.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ctx, done := s.watch(ctx, m.o.APIPrefix+".INFO")
	defer done()
	account, err := s.js.AccountInfo(ctx)
	if err != nil {
		cause := context.Cause(ctx)
		denied := cause != nil && bridge.KindOf(cause) == bridge.FailureBlocked
		s.accountHidden.Store(denied) // to ask again would fill the server's log
		return
	}
	tier, ok := account.Tiers[fmt.Sprintf("R%d", replicas)]
	if !ok {
		tier = account.Tier
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tier = tier
}

// watchStream looks at a stream that is known, and again now and then, until ctx ends.
func (s *Sink) watchStream(ctx context.Context) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		_ = s.ask(ctx, s.stream.lookAgain)
		if s.stream.knowsOfLetters() {
			_ = s.ask(ctx, s.inspectDeadLetters)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// knowsOfLetters tells that it may be asked which stream takes the dead letters: to ask in vain would fill the server's
// log.
func (m *stream) knowsOfLetters() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.warnings[ofLetters]
	return known
}

// lookAgain has the warnings, and how full it is, follow the stream. Whether it can be published to does not depend on
// what it finds.
func (m *stream) lookAgain(ctx context.Context, s *session) error {
	m.mu.Lock()
	known := m.info != nil && m.err == nil
	m.mu.Unlock()
	if !known {
		return nil
	}
	ctx, done := s.watch(ctx, m.o.APIPrefix+".STREAM.INFO."+m.o.Stream)
	defer done()
	stream, err := s.js.Stream(ctx, m.o.Stream)
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	m.askAccount(ctx, s, info.Config.Replicas)
	m.examine(info)
	return nil
}

// examine notes what is warned of, and how full the stream is.
func (m *stream) examine(info *natsjs.StreamInfo) {
	m.warn(ofSettings, "the stream exists and is used as it is, although it differs from the configuration",
		m.differences(info.Config)...)
	m.noteStorage(info)
}
