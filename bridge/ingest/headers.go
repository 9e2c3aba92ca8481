package ingest

import (
	"crypto/rand"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

const (
	mediaType = "application/json"
	// maxWebhookID bounds a webhook's id, in bytes. It is kept for every webhook, and goes out with every event.
	maxWebhookID = 256
)

// checkContentType returns a refusal unless the body is said to be JSON in UTF-8, as it is.
func checkContentType(h http.Header) *refusal {
	switch values := h["Content-Type"]; {
	case len(values) == 0:
		return unsupported("The request has no Content-Type; set it to application/json.")
	case len(values) > 1:
		return unsupported("The request has more than one Content-Type; send application/json alone.")
	default:
		if f := checkMediaType(values[0]); f != nil {
			return f
		}
	}
	for _, encoding := range h["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(strings.TrimSpace(encoding), "identity") {
			return unsupported(fmt.Sprintf("The Content-Encoding %s is not taken; send the body as it is, not compressed.",
				excerpt.Quote(encoding)))
		}
	}
	return nil
}

func checkMediaType(value string) *refusal {
	if value == mediaType {
		return nil // the usual case, without parsing
	}
	// A parameter that does not parse says nothing of the body, and JSON defines none: it is not worth a refusal.
	kind, parameters, _ := mime.ParseMediaType(value)
	if kind == "" {
		kind, _, _ = strings.Cut(value, ";")
		kind = strings.ToLower(strings.TrimSpace(kind))
	}
	if kind != mediaType {
		return unsupported(fmt.Sprintf("The Content-Type %s is not taken; send application/json.", excerpt.Quote(value)))
	}
	switch charset := strings.ToLower(parameters["charset"]); charset {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return nil
	default:
		return unsupported(fmt.Sprintf("The charset %s is not taken: JSON is exchanged in UTF-8 (RFC 8259, section 8.1).",
			excerpt.Quote(charset)))
	}
}

func unsupported(detail string) *refusal {
	return &refusal{kind: kindUnsupportedMediaType, detail: detail}
}

// repeatedHeader returns the name of a header that is there more than once, or "". It looks at those that the signature
// depends on: two readers could take a different one of the values.
func repeatedHeader(h http.Header) string {
	for _, name := range [...]string{
		"Svix-Id", "Svix-Timestamp", "Svix-Signature",
		"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature",
	} {
		if len(h[name]) > 1 {
			return strings.ToLower(name)
		}
	}
	return ""
}

// claimedID returns the webhook id that the headers name, signed or not, or "".
func claimedID(h http.Header) string {
	for _, name := range [...]string{"Svix-Id", "Webhook-Id"} {
		if values := h[name]; len(values) > 0 && values[0] != "" {
			return values[0]
		}
	}
	return ""
}

// checkWebhookID returns a refusal unless id is 1 to 256 visible ASCII characters.
func checkWebhookID(id string) *refusal {
	invalid := func(what string) *refusal {
		return &refusal{
			kind: kindInvalid,
			detail: fmt.Sprintf("The webhook id in svix-id (or webhook-id) %s; send 1 to %d visible ASCII characters.",
				what, maxWebhookID),
			reason: "webhook_id",
		}
	}
	switch {
	case id == "":
		return invalid("is empty")
	case len(id) > maxWebhookID:
		return invalid(fmt.Sprintf("has %d bytes", len(id)))
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return invalid(fmt.Sprintf("is %s", excerpt.Quote(id)))
		}
	}
	return nil
}

// newWebhookID makes an id for an unsigned webhook that brings none.
func newWebhookID() string { return "msg_" + rand.Text() }
