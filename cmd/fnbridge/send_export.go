package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/fnbridge/fnbridge/bridge/admin"
)

// How long a webhook is tried again that the bridge has no room for now.
const (
	exportTries   = 10
	exportMinWait = time.Second
	exportMaxWait = 30 * time.Second
)

// sendExport sends the webhooks of an export, one by one in its order.
func sendExport(ctx context.Context, c console, o sendOptions, args []string) error {
	switch {
	case o.export == "":
		return usageError{errors.New("--from-line goes with --from-export")}
	case len(args) > 0:
		return usageError{errors.New("--from-export says what to send: name no payload beside it")}
	case o.fromLine < 1:
		return usageError{errors.New("--from-line must be at least 1")}
	}
	if err := o.checkRate(); err != nil {
		return err
	}
	in, size := c.in, int64(0)
	if o.export != "-" {
		file, err := os.Open(o.export)
		if err != nil {
			return fmt.Errorf("the export cannot be read: %w", err)
		}
		defer file.Close()
		in = file
		if info, err := file.Stat(); err == nil {
			size = info.Size() // 0 of what is no file
		}
	}
	s, err := newSender(c, o)
	if err != nil {
		return err
	}
	defer s.Close()
	e := exportSender{sender: s, lines: bufio.NewReaderSize(in, 64<<10), size: size, progress: newProgress(c)}
	start := time.Now()
	failure := e.sendFrom(ctx, o)
	e.progress.clear()
	if !o.json && len(e.times) > 0 {
		e.print(c.out, time.Since(start))
	}
	switch {
	case failure != nil:
		return failure
	case e.refused > 0:
		return errReported
	case len(e.times) == 0 && !o.json:
		fmt.Fprintln(c.out, "The export has no webhooks to send.")
	}
	return nil
}

// exportSender sends the lines of an export.
type exportSender struct {
	*sender
	tally
	lines *bufio.Reader
	line  int // that was read last, from 1
	// read counts the bytes of lines so far, of size; 0: that is not known.
	read, size int64
	progress   *progress
}

// sendFrom sends what there is from the wanted line on. Its error says which line to go on with.
func (e *exportSender) sendFrom(ctx context.Context, o sendOptions) error {
	pace, stop := o.pace()
	defer stop()
	for {
		text, err := e.lines.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("the export cannot be read after line %d: %w", e.line, err)
		}
		last := err != nil
		if last && len(text) == 0 {
			return nil
		}
		e.line, e.read = e.line+1, e.read+int64(len(text))
		if e.line >= o.fromLine && len(bytes.TrimSpace(text)) > 0 {
			if pace != nil && len(e.times) > 0 {
				select {
				case <-ctx.Done():
				case <-pace:
				}
			}
			if err := e.sendLine(ctx, text); err != nil {
				return fmt.Errorf("%w\n%s sent; --from-line %d goes on", err, plural(len(e.times), "webhook"), e.line)
			}
		}
		if last {
			return nil
		}
	}
}

// sendLine sends one webhook and counts what became of it. An error means that the ones after it would fare no better.
func (e *exportSender) sendLine(ctx context.Context, text []byte) error {
	var w admin.ExportedWebhook
	err := json.Unmarshal(text, &w)
	body, hasBody := w.Bytes()
	if err == nil && !hasBody {
		err = errors.New("it has no body")
	}
	if err != nil {
		return e.count(admin.Answer{WebhookID: w.WebhookID, Detail: fmt.Sprintf("not an exported webhook: %v", err)})
	}
	a, err := e.post(ctx, w.WebhookID, body)
	unsendable, ok := errors.AsType[*admin.UnsendableError](err)
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case ok:
		return e.count(admin.Answer{WebhookID: w.WebhookID, Detail: unsendable.Error()})
	case err != nil:
		return e.noAnswer(err, "")
	}
	switch a.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("%s answers %d %s: %s",
			e.URL, a.Status, http.StatusText(a.Status), printable(e.clip(a.Detail, 400)))
	}
	if notNow(a) {
		return fmt.Errorf("%s still answers %d %s after %d tries: %s",
			e.URL, a.Status, http.StatusText(a.Status), exportTries, printable(e.clip(a.Detail, 400)))
	}
	return e.count(a)
}

// notNow tells whether the bridge may take the webhook later.
func notNow(a admin.Answer) bool {
	return a.Status >= 500 || a.Status == http.StatusTooManyRequests
}

// post sends a webhook until the bridge has judged it, or long enough.
func (e *exportSender) post(ctx context.Context, id string, body []byte) (a admin.Answer, err error) {
	for range exportTries {
		a, err = e.Post(ctx, id, body)
		if err != nil || !notNow(a) {
			return a, err
		}
		wait := min(max(a.RetryAfter, exportMinWait), exportMaxWait)
		e.progress.show(fmt.Sprintf("line %d: the bridge has no room now (%d), waiting %s", e.line, a.Status, wait))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return a, ctx.Err()
		case <-timer.C:
		}
	}
	return a, nil
}

func (e *exportSender) count(a admin.Answer) error {
	e.add(a)
	switch {
	case e.json:
		return encoder(e.out).Encode(a)
	case a.OK():
		e.progress.at(e.read, e.size, "", fmt.Sprintf("line %d: %d accepted, %d known already, %d refused",
			e.line, e.accepted, e.duplicate, e.refused))
		return nil
	}
	e.progress.clear()
	status := "not sent"
	if a.Status != 0 {
		status = fmt.Sprintf("%d %s", a.Status, http.StatusText(a.Status))
	}
	_, err := fmt.Fprintln(e.out, e.wrap(2, fmt.Sprintf("line %d: %s  %s  %s",
		e.line, status, printable(e.clip(a.WebhookID, maxBelow)), printable(e.clip(a.Detail, 400)))))
	return err
}
