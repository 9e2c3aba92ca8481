package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fnbridge/fnbridge/bridge/admin"
	"github.com/fnbridge/fnbridge/bridge/app"
	"github.com/fnbridge/fnbridge/config"
)

const (
	// watchInterval is how often status --watch looks.
	watchInterval = time.Second
	// watchRates is over how many looks rates are averaged.
	watchRates = 5
	// watchColumns is how wide a terminal is that does not say.
	watchColumns = 80
	// watchedName is how much of a sink's name is shown.
	watchedName = 18
)

// watch shows how a bridge is, once a second: on a terminal in one place, elsewhere one below the other.
type watch struct {
	console
	cfg  *config.Config
	json bool
	// looks are the last ones, for rates.
	looks []look
	drawn bool
}

// look is what was seen at one moment.
type look struct {
	at time.Time
	// counts are what rates are made of, by name.
	counts map[string]int64
}

func (w *watch) run(ctx context.Context) error {
	again := time.NewTicker(watchInterval)
	defer again.Stop()
	for {
		lines, value, err := w.look(ctx)
		if err != nil && !w.drawn && ctx.Err() == nil {
			return err // it is not where somebody believes it to be
		}
		if err != nil {
			lines = append([]string{w.heading("no status"), ""}, strings.Split(printableLines(err.Error()), "\n")...)
			value = struct {
				Error string `json:"error"`
			}{err.Error()}
		}
		if ctx.Err() == nil {
			if err := w.show(lines, value); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			if w.drawn && w.terminal && !w.json {
				fmt.Fprintln(w.out)
			}
			return nil
		case <-again.C:
		}
	}
}

// look returns what there is to see now, for people and for programs.
func (w *watch) look(ctx context.Context) (lines []string, value any, err error) {
	if w.cfg.AcksFromSinks() {
		s, err := admin.ReadLiveStatus(ctx, app.LocalAddress(w.cfg.OpsListen), w.cfg.PageToken.Reveal())
		if err != nil {
			return nil, nil, err
		}
		return w.liveLines(s), s, nil
	}
	s, err := readStatus(ctx, w.cfg)
	if err != nil {
		return nil, nil, err
	}
	return w.lines(s), s, nil
}

func (w *watch) lines(s shownStatus) []string {
	counts := map[string]int64{"": s.Head}
	for _, k := range s.Sinks {
		counts[k.Sink] = k.Cursor
	}
	now := w.looked(counts)
	running := "not running"
	if s.Live {
		running = readyText(s.NotReady)
	}
	lines := []string{
		w.heading(running),
		fmt.Sprintf("journal   %s of %s: %s wait, %s kept; files %s", bytesText(s.JournalBytes),
			bytesText(s.JournalMaxBytes), bytesText(s.WaitingBytes+s.DeadLetterBytes), bytesText(s.KeptBytes),
			bytesText(s.JournalFilesBytes)),
		fmt.Sprintf("accepted  %s webhooks/s, %d in all, %s", w.rate(""), s.Head, lastText(s.LastAccepted, now)),
		"",
		w.row("SINK", "STATE", "DONE/S", "BACKLOG", "OLDEST", "LETTERS"),
	}
	for i := range s.Sinks {
		k := &s.Sinks[i]
		if !k.Configured && k.BacklogWebhooks == 0 && k.DeadLetters == 0 {
			continue
		}
		lines = append(lines, w.row(k.Sink, storedStateText(k, now), w.rate(k.Sink), figure(k.BacklogWebhooks),
			ageText(k.OldestUndelivered, now), figure(k.DeadLetters)))
		if k.State != "up" {
			lines = append(lines, errorLine(k.LastError, k.LastErrorAt, now)...)
		}
		lines = append(lines, noteLine(k.StandsStill)...)
		if k.Missing != nil {
			lines = append(lines, noteLine("the broker went back: events of "+plural(int(k.Missing.Webhooks), "webhook")+
				" may be missing")...)
		}
	}
	return lines
}

func (w *watch) liveLines(s admin.LiveStatus) []string {
	counts := map[string]int64{"": s.AcceptedWebhooks}
	for _, k := range s.Sinks {
		counts[k.Sink] = k.AcknowledgedEvents
	}
	now := w.looked(counts)
	lines := []string{
		w.heading(readyText(s.NotReady)),
		fmt.Sprintf("queue     %s, %s, not stored here", plural(s.Webhooks, "webhook"), bytesText(s.Bytes)),
		fmt.Sprintf("accepted  %s webhooks/s, %d since the start, %s",
			w.rate(""), s.AcceptedWebhooks, lastText(s.LastAccepted, now)),
		"",
		w.row("SINK", "STATE", "EVENTS/S", "UNDER WAY", "REQUIRED", "MISSED"),
	}
	for _, k := range s.Sinks {
		required := "yes"
		if !k.Required {
			required = "no"
		}
		lines = append(lines, w.row(k.Sink, stateText(k.State, k.Since, now), w.rate(k.Sink), figure(k.Webhooks), required,
			figure(k.MissedEvents)))
		if k.State != "up" {
			lines = append(lines, errorLine(k.LastError, k.LastErrorAt, now)...)
		}
		lines = append(lines, noteLine(k.StandsStill)...)
	}
	return lines
}

// lastText says when a webhook was accepted last.
func lastText(at *time.Time, now time.Time) string {
	if at == nil {
		return "no webhook yet"
	}
	return "the last one " + ageText(at, now) + " ago"
}

func (w *watch) heading(running string) string {
	return fmt.Sprintf("fnbridge  %s, at %s", printable(running), time.Now().Format(time.DateTime))
}

func readyText(notReady string) string {
	if notReady != "" {
		return "running, not ready: " + notReady
	}
	return "running"
}

// row is a row of the table: 79 columns.
func (w *watch) row(name, state, a, b, c, d string) string {
	return strings.TrimRight(fmt.Sprintf("%-*s  %-14s  %8s  %9s  %10s  %8s",
		watchedName, w.clip(printable(name), watchedName), state, a, b, c, d), " ")
}

func errorLine(text string, at *time.Time, now time.Time) []string {
	if text == "" {
		return nil
	}
	return noteLine(errorText(text, at, now))
}

func noteLine(text string) []string {
	if text == "" {
		return nil
	}
	return []string{"  " + printable(text)}
}

// looked remembers a look for rates, and returns its time.
func (w *watch) looked(counts map[string]int64) time.Time {
	now := time.Now()
	w.looks = append(w.looks, look{now, counts})
	if len(w.looks) > watchRates+1 {
		w.looks = w.looks[1:]
	}
	return now
}

// rate is how fast a count has grown lately.
func (w *watch) rate(name string) string {
	first, last := w.looks[0], w.looks[len(w.looks)-1]
	before, known := first.counts[name]
	if took := last.at.Sub(first.at).Seconds(); known && took > 0 {
		return figure(max(0, int64(float64(last.counts[name]-before)/took+0.5)))
	}
	return "-"
}

// show shows one look.
func (w *watch) show(lines []string, value any) error {
	var text strings.Builder
	switch {
	case w.json:
		w.drawn = true
		return encoder(w.out).Encode(value)
	case !w.terminal:
		text.WriteString(strings.Join(lines, "\n") + "\n\n")
	default:
		columns, rows := watchColumns, 0
		if w.size != nil {
			columns, rows = w.size()
		}
		if rows > 1 && len(lines) >= rows {
			lines = append(lines[:rows-2:rows-2], "…")
		}
		// Each line is written over the one before, and what is left of that goes: nothing is ever blank.
		if !w.drawn {
			text.WriteString("\x1b[2J")
		}
		text.WriteString("\x1b[H")
		for i, line := range lines {
			if i > 0 {
				text.WriteString("\n")
			}
			text.WriteString(clip(line, columns-1) + "\x1b[K")
		}
		text.WriteString("\x1b[J")
	}
	w.drawn = true
	_, err := fmt.Fprint(w.out, text.String())
	return err
}
