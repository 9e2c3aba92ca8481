package kafka

import (
	"context"
	"errors"
	"log/slog"

	"github.com/fnbridge/fnbridge/bridge"
)

// DeadLetterAddress returns the topic of the dead letters, and nothing when there is none.
func (s *Sink) DeadLetterAddress() string { return s.opts.DeadLetter }

// PublishDeadLetters stores letters in the partitions of their events' keys. It acknowledges, bounds and classifies as
// Publish does, and takes at most twice as long.
//
// A letter that is refused with its data is published without. It may then be stored behind later ones of its key.
func (s *Sink) PublishDeadLetters(ctx context.Context, letters []bridge.DeadLetter) []error {
	if s.letters == nil {
		return same(len(letters), bridge.Blocked(errors.New("no topic for dead letters is configured")))
	}
	return bridge.PublishLetters(letters, func(letters []bridge.DeadLetter, withData bool) []error {
		return s.letters.publish(ctx, len(letters), s.letters.letterRecord(letters, s.opts.Topic, withData))
	})
}

// CheckDeadLetters is Check for the topic of the dead letters: nil also when there is none. Events are published
// whatever it says.
func (s *Sink) CheckDeadLetters(ctx context.Context) error {
	if s.letters == nil {
		return nil
	}
	return s.letters.Check(ctx)
}

// warnOfDeadLetters tells the log, once, why the topic of the dead letters cannot be published to. What passes by
// itself it does not tell.
func (s *Sink) warnOfDeadLetters(err error) {
	if s.keeper.warnedBlocked || bridge.KindOf(err) != bridge.FailureBlocked {
		return
	}
	s.keeper.warnedBlocked = true
	s.log.Warn("dead letters cannot be published now", slog.Any("error", err))
}
