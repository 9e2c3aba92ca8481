package main

import (
	"fmt"
	"strings"
	"time"
)

const (
	// progressInterval is how often a line says how far something is, where lines are kept.
	progressInterval = 10 * time.Second
	// progressRedraw is how often the line on a terminal is written anew, at most.
	progressRedraw = 100 * time.Millisecond
	// progressQuiet is how long something takes before its bar is shown.
	progressQuiet = time.Second
	// progressColumns is what a line on a terminal has room for: one that wraps cannot be written anew.
	progressColumns = 79
	progressBar     = 20
)

// progress says on err how far long work is: on a terminal with a bar in one line that is written anew, else in a line
// every ten seconds.
type progress struct {
	console
	begun, last time.Time
	shown       bool
	now         func() time.Time
}

func newProgress(c console) *progress {
	now := time.Now()
	return &progress{console: c, begun: now, last: now, now: time.Now}
}

// show says what goes on, where that cannot be counted.
func (p *progress) show(text string) { p.line(0, func() string { return text }) }

// at says that so much is done of a total, with the rate and the time that is left. The unit is what is counted; empty:
// how much that is says nothing to people. A total of 0 is not known. note, which may be empty, is what else there is
// to say.
func (p *progress) at(done, total int64, unit, note string) {
	if total > 0 {
		done = max(0, min(done, total))
	}
	p.line(progressQuiet, func() string {
		text := progressText(done, total, unit, note, p.last.Sub(p.begun))
		if p.errTerminal && total > 0 {
			filled := int(done * progressBar / total)
			text = "[" + strings.Repeat("#", filled) + strings.Repeat(".", progressBar-filled) + "] " + text
		}
		return text
	})
}

// line writes a text, unless it comes too soon after the last, or within the quiet of the beginning.
func (p *progress) line(quiet time.Duration, text func() string) {
	now := p.now()
	switch {
	case p.errTerminal && (p.shown && now.Sub(p.last) < progressRedraw || now.Sub(p.begun) < quiet):
	case p.errTerminal:
		p.last, p.shown = now, true
		fmt.Fprint(p.err, "\r\x1b[K"+clip(text(), progressColumns))
	case now.Sub(p.last) >= progressInterval:
		p.last = now
		fmt.Fprintln(p.err, text())
	}
}

// clear leaves no half line behind, so that what follows stands alone.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.shown = false
	}
}

// progressText says in figures how far something is that began so long ago.
func progressText(done, total int64, unit, note string, elapsed time.Duration) string {
	var parts []string
	if total > 0 {
		parts = append(parts, fmt.Sprintf("%d %%", done*100/total))
	}
	rate := float64(done) / max(elapsed, time.Millisecond).Seconds()
	if unit != "" {
		figures := figure(done) + " " + unit
		if total > 0 {
			figures = figure(done) + " of " + figure(total) + " " + unit
		}
		parts = append(parts, figures, figure(int64(rate))+"/s")
	}
	if total > 0 && done > 0 && done < total {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		parts = append(parts, left.Round(time.Second).String()+" left")
	}
	if note != "" {
		parts = append(parts, note)
	}
	return strings.Join(parts, ", ")
}

// figure is a count as people read it at a glance.
func figure(n int64) string {
	const thousand, million, billion = 1e3, 1e6, 1e9
	switch {
	case n < 100*thousand:
		return fmt.Sprint(n)
	case n < million:
		return fmt.Sprintf("%.0fk", float64(n)/thousand)
	case n < billion:
		return fmt.Sprintf("%.1fM", float64(n)/million)
	default:
		return fmt.Sprintf("%.1fG", float64(n)/billion)
	}
}
