package torture

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// maxBody is what the bridge under torture takes at most; some bodies are exactly that large. It leaves room for the
// headers within what brokers take by default.
const maxBody = 256 << 10

// chain makes the webhooks of one key, in the order in which they shall be accepted.
type chain struct {
	make func(n int, r *rand.Rand) []byte
	made int
	left int // webhooks that are still to come
}

// newChain makes a chain of a random shape. name is in its key, and no two chains have the same.
func newChain(name string, r *rand.Rand) *chain {
	c := &chain{left: 1 + r.IntN(40)}
	switch p := r.IntN(100); {
	case p < 65:
		c.make = func(n int, r *rand.Rand) []byte {
			return workflowBody("workflow_"+name, "invocation_"+name, n, functionCount(r), r)
		}
	case p < 75:
		hostile := hostileNames()[r.IntN(len(hostileNames()))]
		c.make = func(n int, r *rand.Rand) []byte { return hostileBody(name, hostile, n, r) }
	case p < 85:
		c.left = 3
		c.make = func(n int, r *rand.Rand) []byte { return documentBody("job_"+name, n, r) }
	case p < 95:
		c.make = func(n int, r *rand.Rand) []byte { return envelopeBody("source_"+name, n, r) }
	default:
		c.left = 1
		c.make = func(_ int, r *rand.Rand) []byte { return unrecognizedBody(name, r) }
	}
	return c
}

func (c *chain) next(r *rand.Rand) []byte {
	body := c.make(c.made, r)
	c.made++
	c.left--
	return body
}

// functionCount is mostly small, sometimes 0, rarely large.
func functionCount(r *rand.Rand) int {
	switch p := r.IntN(10_000); {
	case p < 500:
		return 0
	case p < 9_960:
		return 1 + r.IntN(3)
	case p < 9_998:
		return 20 + r.IntN(100)
	default:
		return 1000 + r.IntN(2000)
	}
}

func status(r *rand.Rand) string {
	return []string{"success", "failure", "Success", "cancelled", "timed out", "läuft"}[r.IntN(6)]
}

func text(s string) string {
	literal, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always become JSON
	}
	return string(literal)
}

// workflowBody has functions that no other webhook of the invocation has.
func workflowBody(workflow, invocation string, n, functions int, r *rand.Rand) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `{"workflow_name": %s, "invocation_id": %s, "fn_status": {`, text(workflow), text(invocation))
	for f := range functions {
		if f > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, `"fn_%d_%d": %s`, n, f, text(status(r)))
	}
	b.WriteString("}}")
	return []byte(b.String())
}

// hostileNames are JSON strings that want to break out of a subject, a header or a log line.
func hostileNames() []string {
	return []string{
		text("a.b..c."), text("* > *"), text(">"), text("line\r\nNats-Msg-Id: 1\r\n\r\n"), text("\x00\x01\x7f"),
		text("$JS.API.STREAM.DELETE.X"),
		text(`"};{"`), text("  blanks  "), text("ünïcödé 🌉 \u2028 \ufeff"), text("%2F%0A%"), text("../../etc/passwd"),
		text(strings.Repeat("long", 500)), text(strings.Repeat("ü", 600)), `"\ud800"`, `"\udc00\ud800x"`, `"\u0000"`,
		text("+OK\r\n-ERR 'x'"),
	}
}

func hostileBody(name, hostile string, n int, r *rand.Rand) []byte {
	key := text("hostile_" + name + "_")
	key = key[:len(key)-1] + hostile[1:]
	return fmt.Appendf(nil, `{"fn_status":{%s:%s,"n%d":%s},"workflow_name":%s,"invocation_id":%s,"n":%d}`,
		strings.TrimSuffix(hostile, `"`)+fmt.Sprintf(`%d"`, n), text(status(r)), n, hostile, hostile, key, n)
}

// documentBody is the nth state of a job; the last one can be large.
func documentBody(job string, n int, r *rand.Rand) []byte {
	states := []string{"pending", "processing", "success"}
	body := fmt.Sprintf(`{"job_id":%s,"status":%q,"dataset":"torture","created_at":"2026-01-02T03:04:05Z",`+
		`"usage":{"pages":%d},"text":"`,
		text(job), states[n], r.IntN(100))
	size := r.IntN(500)
	if n == 2 && r.IntN(4) == 0 {
		size = maxBody - len(body) - 2
		if r.IntN(2) == 0 {
			size = r.IntN(size)
		}
	}
	return []byte(body + strings.Repeat("x", size) + `"}`)
}

func envelopeBody(source string, n int, r *rand.Rand) []byte {
	return fmt.Appendf(nil, `{"event_id":"event_%s_%d","event_type":"tensorlake.torture.event","event_version":"1",`+
		`"occurred_at":"2026-01-02T03:04:05.%03dZ","project_id":"project","source_id":%s,`+
		`"source_revision":"%d","source_ordinal":%d,"data":{"n":%d}}`,
		source, n, r.IntN(1000), text(source), n, n, r.Int64())
}

func unrecognizedBody(name string, r *rand.Rand) []byte {
	switch r.IntN(4) {
	case 0:
		return fmt.Appendf(nil, `{"workflow_name":%s,"invocation_id":7,"fn_status":[]}`, text(name))
	case 1:
		return fmt.Appendf(nil, `{"unknown":%s,"numbers":[1e400,-0.0,12345678901234567890],"unknown":null}`, text(name))
	case 2:
		body := fmt.Sprintf(`{"large":%s,"padding":"`, text(name))
		return []byte(body + strings.Repeat("y", maxBody-len(body)-2) + `"}`)
	default:
		return fmt.Appendf(nil, "\n\t {\"%s\" : {} }\n", name)
	}
}
