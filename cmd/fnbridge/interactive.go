package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// confirm asks a question on the terminal. Whatever is not a yes is a no; ctx's end is an error.
func (c console) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(c.err, question+" [y/N] ")
	answer := make(chan string, 1)
	go func() { // ends with the line, or with the process: a read from a terminal cannot be called off
		line, _ := bufio.NewReader(c.in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		line = strings.ToLower(strings.TrimSpace(line))
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(c.err)
		return false, errors.New("interrupted; nothing was changed")
	}
}

// progressInterval is how often a line says how far something is, where lines are kept.
const progressInterval = 5 * time.Second

// progress says on err how far something is: on a terminal in one line that is written anew, else in a line every few
// seconds.
type progress struct {
	console
	shown bool
	last  time.Time
}

func newProgress(c console) *progress { return &progress{console: c, last: time.Now()} }

// show shows text, unless it comes too soon after the last.
func (p *progress) show(text string) {
	now := time.Now()
	if p.errTerminal {
		if p.shown && now.Sub(p.last) < 100*time.Millisecond {
			return
		}
		fmt.Fprint(p.err, "\r\x1b[K"+text)
		p.shown, p.last = true, now
		return
	}
	if now.Sub(p.last) >= progressInterval {
		fmt.Fprintln(p.err, text)
		p.last = now
	}
}

// clear leaves no half line behind, so that the result stands alone.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.shown = false
	}
}
