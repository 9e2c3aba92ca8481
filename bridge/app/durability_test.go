package app_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// call is one system call of a trace. Its times are places in the trace: whatever must have happened before something
// else stands before it there, since the kernel lets nobody go on before the tracer has seen what was.
type call struct {
	name       string
	path       string // of the file, or what the kernel calls a socket
	data       string // what is written
	begin, end int
	failed     bool
}

var (
	callLine    = regexp.MustCompile(`^(\d+) +[\d.:]+ (\w+)\((.*)$`)
	resumedLine = regexp.MustCompile(`^(\d+) +[\d.:]+ <\.\.\. (\w+) resumed>(.*)$`)
	descriptor  = regexp.MustCompile(`^\d+<([^>]*)>`)
	quoted      = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?`)
	returned    = regexp.MustCompile(`\) += (-?\d+|\?)`)
)

const unfinished = " <unfinished ...>"

// parseTrace reads what strace writes with -f -y -xx. A call without an end, as when the process was killed, has
// failed.
func parseTrace(r io.Reader) ([]*call, error) {
	var calls []*call
	open := map[string]*call{} // by thread
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	n := 0
	for lines.Scan() {
		n++
		if m := resumedLine.FindStringSubmatch(lines.Text()); m != nil {
			c := open[m[1]]
			if c == nil || c.name != m[2] {
				return nil, fmt.Errorf("line %d: the call that goes on did not begin: %.120s", n, lines.Text())
			}
			delete(open, m[1])
			c.end, c.failed = n, failed(m[3])
			continue
		}
		m := callLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue // a signal, or an end
		}
		c := &call{name: m[2], begin: n, end: n}
		if at := descriptor.FindStringSubmatch(m[3]); at != nil {
			c.path = unhex(at[1])
		}
		for _, s := range quoted.FindAllStringSubmatch(m[3], -1) {
			if s[2] != "" {
				return nil, fmt.Errorf("line %d: the trace does not hold all that was written; let strace take longer strings", n)
			}
			c.data += unhex(s[1])
		}
		if strings.HasSuffix(m[3], unfinished) {
			c.end, c.failed = -1, true
			open[m[1]] = c
		} else {
			c.failed = failed(m[3])
		}
		calls = append(calls, c)
	}
	return calls, lines.Err()
}

func failed(rest string) bool {
	m := returned.FindAllStringSubmatch(rest, -1)
	return len(m) == 0 || strings.HasPrefix(m[len(m)-1][1], "-") || m[len(m)-1][1] == "?"
}

// unhex undoes strace's -xx. Text without escapes is as it is.
func unhex(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		if len(s) >= 4 && s[:2] == `\x` {
			if b, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
				out.WriteByte(byte(b))
				s = s[4:]
				continue
			}
		}
		out.WriteByte(s[0])
		s = s[1:]
	}
	return out.String()
}

// promises says what a trace is held against: whoever is told that something is stored must not be told before a sync
// of the file has returned that began after all of it was written.
type promises struct {
	// stored returns what the call completes on its way into the file, and whether the call is a write to that file at
	// all.
	stored func(c *call) (keys []string, ofFile bool)
	// told returns what the call tells somebody to be stored.
	told func(c *call) []string
	// synced tells whether the call syncs the file.
	synced func(c *call) bool
}

// write is something that was written and is not known to be on the disk yet.
type write struct {
	key string
	end int
}

// judge returns how many keys were promised, one for each time, and each promise that came too early.
func judge(calls []*call, p promises) (told int, broken []string) {
	// A call takes effect when it ends, a promise when it begins.
	byTime := map[int][]*call{}
	last := 0
	for _, c := range calls {
		if len(p.told(c)) > 0 || c.end < 0 {
			byTime[c.begin] = append(byTime[c.begin], c)
		} else {
			byTime[c.end] = append(byTime[c.end], c)
		}
		last = max(last, c.begin, c.end)
	}
	durable := map[string]bool{}
	var pending []write
	for at := range last + 1 {
		for _, c := range byTime[at] {
			if keys := p.told(c); len(keys) > 0 {
				for _, key := range keys {
					told++
					if !durable[key] {
						broken = append(broken, fmt.Sprintf("line %d: %s was promised and not synced", at, key))
					}
				}
				continue
			}
			if p.synced(c) {
				var rest []write
				for _, w := range pending {
					switch {
					case c.failed: // what it was to write may never be written by a later one
					case w.end < c.begin:
						durable[w.key] = true
					default:
						rest = append(rest, w) // the sync may not have seen it
					}
				}
				pending = rest
				continue
			}
			if c.failed {
				continue
			}
			keys, _ := p.stored(c)
			for _, key := range keys {
				pending = append(pending, write{key: key, end: at})
			}
		}
	}
	return told, broken
}

// webhookID is what the webhooks of this test are called.
var webhookID = regexp.MustCompile(`msg_durable_[0-9]{6}`)

// SQLite writes a frame of its log as a header and a page. The header of a transaction's last frame holds the size of
// the database, the others 0.
const (
	frameHeader = 24
	logPage     = 4096
)

// journalPromises holds the journal's log against the answers of the public listener. A webhook is stored with the last
// frame of the transaction that holds it.
func journalPromises() promises {
	var inTransaction []string
	lastFrame := false
	isLog := func(c *call) bool { return strings.HasSuffix(c.path, "/journal.db-wal") }
	return promises{
		stored: func(c *call) ([]string, bool) {
			if !isLog(c) || !strings.HasPrefix(c.name, "pwrite") {
				return nil, false
			}
			switch len(c.data) {
			case frameHeader:
				lastFrame = binary.BigEndian.Uint32([]byte(c.data[4:])) != 0
			case logPage:
				inTransaction = append(inTransaction, webhookID.FindAllString(c.data, -1)...)
				if lastFrame {
					keys := inTransaction
					inTransaction, lastFrame = nil, false
					return keys, true
				}
			}
			return nil, true
		},
		told: func(c *call) []string {
			ok := strings.HasPrefix(c.data, "HTTP/1.1 202 ") || strings.HasPrefix(c.data, "HTTP/1.1 200 ")
			if !ok || !strings.HasPrefix(c.path, "socket:") {
				return nil
			}
			if id := webhookID.FindString(c.data); id != "" {
				return []string{id}
			}
			if strings.Contains(c.data, "webhook_id") {
				return []string{"a webhook of another name"}
			}
			return nil // the operations listener
		},
		synced: func(c *call) bool { return isLog(c) && (c.name == "fsync" || c.name == "fdatasync") },
	}
}

// streamPosition is how the journal keeps how far the embedded server's stream has acknowledged.
var streamPosition = regexp.MustCompile(`"stream TENSORLAKE":\{"last":(\d+)`)

// streamEvent is the header by which the events of this test's webhooks are known in a message.
var streamEvent = regexp.MustCompile(`ce-subject: *(msg_durable_[0-9]{6}/fn_[AB])\r`)

// streamPromises holds the embedded server's message blocks against what is said to be in the stream: the position that
// the journal keeps, and the answers if they are the sinks' word.
func streamPromises(answers bool) promises {
	isBlock := func(c *call) bool { return strings.HasSuffix(c.path, ".blk") }
	return promises{
		stored: func(c *call) ([]string, bool) {
			if !isBlock(c) || !strings.Contains(c.name, "write") {
				return nil, false
			}
			// A record begins with its length, whose highest bit says that the message has headers, and its sequence.
			var keys []string
			for rest := []byte(c.data); len(rest) >= 12; {
				length := int(binary.LittleEndian.Uint32(rest) &^ (1 << 31))
				if length < 12 || length > len(rest) {
					break
				}
				keys = append(keys, fmt.Sprintf("message %d", binary.LittleEndian.Uint64(rest[4:])))
				for _, m := range streamEvent.FindAllSubmatch(rest[:length], -1) {
					keys = append(keys, string(m[1]))
				}
				rest = rest[length:]
			}
			return keys, true
		},
		told: func(c *call) (keys []string) {
			switch {
			case answers:
				for _, id := range journalPromises().told(c) {
					keys = append(keys, id+"/fn_A", id+"/fn_B")
				}
			case strings.HasSuffix(c.path, "/journal.db-wal"):
				for _, m := range streamPosition.FindAllStringSubmatch(c.data, -1) {
					keys = append(keys, "message "+m[1]) // the stream is written in order
				}
			}
			return keys
		},
		synced: func(c *call) bool { return c.name == "syncfs" && strings.HasSuffix(c.path, "/nats") },
	}
}

// hex writes s as strace does with -xx.
func hex(s string) string {
	var out strings.Builder
	for _, b := range []byte(s) {
		fmt.Fprintf(&out, `\x%02x`, b)
	}
	return `"` + out.String() + `"`
}

// traced makes lines of a trace of what happens to webhooks in the journal.
type traced struct{}

// writer is the thread that writes the journal.
const writer = 1

func (traced) line(thread int, text string) string {
	return fmt.Sprintf("%d 1795478644.500252 %s\n", thread, text)
}

func (w traced) frame(thread int, content string, last bool) string {
	header := make([]byte, frameHeader)
	if last {
		header[7] = 9
	}
	page := content + strings.Repeat("\x00", logPage-len(content))
	return w.line(thread, fmt.Sprintf("pwrite64(9<%s>, %s, 24, 8272) = 24", w.log(), hex(string(header)))) +
		w.line(thread, fmt.Sprintf("pwrite64(9<%s>, %s, 4096, 8296) = 4096", w.log(), hex(page)))
}

func (traced) log() string { return strings.Trim(hex("/data/journal.db-wal"), `"`) }

func (w traced) sync(result string) string {
	return w.line(writer, fmt.Sprintf("fsync(9<%s>) = %s", w.log(), result))
}

func (w traced) syncBegins() string {
	return w.line(writer, fmt.Sprintf("fsync(9<%s>%s", w.log(), unfinished))
}

func (w traced) syncEnds(result string) string {
	return w.line(writer, "<... fsync resumed>) = "+result)
}

func (w traced) answer(thread int, status, id string) string {
	text := fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\n\r\n{\"webhook_id\":%q}", status, id)
	return w.line(thread, fmt.Sprintf("write(20<%s>, %s, %d) = %d",
		strings.Trim(hex("socket:[38225]"), `"`), hex(text), len(text), len(text)))
}

func TestAnAnswerBeforeItsSyncIsFound(t *testing.T) {
	const a, b = "msg_durable_000001", "msg_durable_000002"
	var w traced
	const eio = "-1 EIO (Input/output error)"
	for name, c := range map[string]struct {
		trace  []string
		told   int
		broken []string // part of each complaint
	}{
		"in order": {[]string{w.frame(writer, a, true), w.sync("0"), w.answer(2, "202 Accepted", a)}, 1, nil},
		"a sync that another thread's call interrupts": {[]string{
			w.frame(writer, a, true), w.syncBegins(), w.line(3, "write(7<x>, \"\", 0) = 0"), w.syncEnds("0 (DELAYED)"),
			w.answer(2, "202 Accepted", a),
		}, 1, nil},
		"a duplicate": {[]string{
			w.frame(writer, a, true), w.sync("0"), w.answer(2, "202 Accepted", a), w.answer(2, "200 OK", a),
		}, 2, nil},
		"two in one transaction": {[]string{
			w.frame(writer, a, false), w.frame(writer, b, true), w.sync("0"),
			w.answer(2, "202 Accepted", b), w.answer(3, "202 Accepted", a),
		}, 2, nil},
		"other answers promise nothing": {
			[]string{w.answer(2, "503 Service Unavailable", a), w.answer(2, "401 Unauthorized", b)}, 0, nil,
		},

		"nothing was written": {[]string{w.sync("0"), w.answer(2, "202 Accepted", a)}, 1, []string{a}},
		"no sync":             {[]string{w.frame(writer, a, true), w.answer(2, "202 Accepted", a)}, 1, []string{a}},
		"the answer before the sync": {
			[]string{w.frame(writer, a, true), w.answer(2, "202 Accepted", a), w.sync("0")}, 1, []string{a},
		},
		"the answer during the sync": {
			[]string{w.frame(writer, a, true), w.syncBegins(), w.answer(2, "202 Accepted", a), w.syncEnds("0")}, 1, []string{a},
		},
		"a duplicate during the sync": {
			[]string{w.frame(writer, a, true), w.syncBegins(), w.answer(2, "200 OK", a), w.syncEnds("0")}, 1, []string{a},
		},
		"the sync before the write": {
			[]string{w.sync("0"), w.frame(writer, a, true), w.answer(2, "202 Accepted", a)}, 1, []string{a},
		},
		"a sync begun before the write": {[]string{
			w.syncBegins(), w.frame(3, a, true), w.syncEnds("0"), w.answer(2, "202 Accepted", a),
		}, 1, []string{a}},
		"a failed sync": {[]string{w.frame(writer, a, true), w.sync(eio), w.answer(2, "202 Accepted", a)}, 1, []string{a}},
		"a failed sync that is only repeated": {[]string{
			w.frame(writer, a, true), w.sync(eio), w.sync("0"), w.answer(2, "202 Accepted", a),
		}, 1, []string{a}},
		"a failed sync whose write is repeated": {[]string{
			w.frame(writer, a, true), w.sync(eio), w.frame(writer, a, true), w.sync("0"), w.answer(2, "202 Accepted", a),
		}, 1, nil},
		"a sync that never returned": {
			[]string{w.frame(writer, a, true), w.syncBegins(), w.answer(2, "202 Accepted", a)}, 1, []string{a},
		},
		"a sync of another file": {[]string{
			w.frame(writer, a, true), strings.ReplaceAll(w.sync("0"), w.log(), "/data/journal.db"),
			w.answer(2, "202 Accepted", a),
		}, 1, []string{a}},
		"a write that failed": {[]string{
			strings.ReplaceAll(w.frame(writer, a, true), "= 4096\n", "= -1 ENOSPC (No space left on device)\n"),
			w.sync("0"), w.answer(2, "202 Accepted", a),
		}, 1, []string{a}},
		"a transaction without its end": {[]string{
			w.frame(writer, a, false), w.sync("0"), w.frame(writer, b, true), w.answer(2, "202 Accepted", a),
		}, 1, []string{a}},
		"one of two": {[]string{
			w.frame(writer, a, true), w.sync("0"), w.frame(writer, b, true),
			w.answer(2, "202 Accepted", a), w.answer(2, "202 Accepted", b), w.sync("0"),
		}, 2, []string{b}},
		"an answer that names no webhook of ours": {
			[]string{w.answer(2, "202 Accepted", "msg_x")}, 1, []string{"another name"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls, err := parseTrace(strings.NewReader(strings.Join(c.trace, "")))
			require.NoError(t, err)
			told, broken := judge(calls, journalPromises())
			require.Equal(t, c.told, told)
			require.Len(t, broken, len(c.broken), "%v", broken)
			for i := range broken {
				require.Contains(t, broken[i], c.broken[i])
			}
		})
	}
	t.Run("a trace that lacks a part", func(t *testing.T) {
		_, err := parseTrace(strings.NewReader(w.line(1, `write(9<x>, "\x41"..., 5000) = 5000`)))
		require.ErrorContains(t, err, "longer strings")
		_, err = parseTrace(strings.NewReader(w.syncEnds("0")))
		require.ErrorContains(t, err, "did not begin")
	})
}
