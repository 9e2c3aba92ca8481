package ingest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
)

// firstBuffer is how much memory a request gets before any of its body has come, in bytes. A length that is only
// declared costs the sender nothing.
const firstBuffer = 4 << 10

// readBody reads the body of r, which has at most limit bytes. Before the body takes n bytes of memory more, grow is
// asked for them. If it returns false, the body is refused as overload.
func readBody(r *http.Request, limit int64, grow func(n int64) bool) ([]byte, *refusal) {
	declared := r.ContentLength // -1 when it comes in chunks
	if declared > limit {
		return nil, tooLarge(fmt.Sprintf("The body has %d bytes", declared), limit)
	}
	if declared == 0 {
		return nil, nil
	}
	// At most this many bytes are read: one over the limit tells that there are too many.
	most := limit + 1
	if declared > 0 {
		most = declared
	}
	var body []byte
	for {
		if len(body) == cap(body) {
			size := min(most, max(firstBuffer, 2*int64(cap(body))))
			if !grow(size - int64(cap(body))) {
				return nil, noMemory()
			}
			grown := make([]byte, len(body), size)
			copy(grown, body)
			body = grown
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case int64(len(body)) > limit:
			return nil, tooLarge("The body is too large", limit)
		case int64(len(body)) == declared:
			return body, nil
		case err == nil:
		case errors.Is(err, io.EOF) && declared < 0:
			return body, nil
		default:
			return nil, brokenOff(err, len(body), declared)
		}
	}
}

func tooLarge(what string, limit int64) *refusal {
	return &refusal{
		kind:   kindTooLarge,
		detail: fmt.Sprintf("%s; at most %d bytes are taken. Send less, or raise FNBRIDGE_MAX_BODY.", what, limit),
	}
}

func noMemory() *refusal {
	return &refusal{
		kind:   kindOverloaded,
		detail: "The webhooks that are being taken right now fill the memory there is for them; send this one again.",
		reason: "memory",
	}
}

func brokenOff(err error, got int, declared int64) *refusal {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &refusal{
			kind:   kindTooSlow,
			detail: fmt.Sprintf("The body did not come in time: %d bytes were read. Send it faster.", got),
			reason: "timeout", cause: err,
		}
	}
	detail := fmt.Sprintf("The body broke off after %d of %d bytes; send as many as Content-Length says.", got, declared)
	if declared < 0 {
		detail = fmt.Sprintf("The body broke off after %d bytes; send whole chunks, and the empty one at the end.", got)
	}
	return &refusal{kind: kindBrokenOff, detail: detail, reason: "broken_off", cause: err}
}
