package cloudevents

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/fnbridge/fnbridge/bridge"
)

// The headers that a dead letter has beside those of its event. They begin alike with every broker.
const (
	// HeaderReason says why the event could not be stored where it belongs.
	HeaderReason = "fnbridge-reason"
	// HeaderAttempts is the number of tries, in decimal digits.
	HeaderAttempts = "fnbridge-attempts"
	// HeaderAddress is the subject or topic where the event belongs.
	HeaderAddress = "fnbridge-address"
	// HeaderData has the value DataOmitted when the event's data was too large to be published, and is absent otherwise.
	HeaderData = "fnbridge-data"
)

// DataOmitted is the value of HeaderData.
const DataOmitted = "omitted"

// maxReason bounds the header with the reason, in bytes.
const maxReason = 1024

// EncodeDeadLetter writes l as Encode writes its event, with headers that say why it is a dead letter. address is where
// the event belongs. Without withData the event's data is left out, and a header says so.
//
// Plain is written as Binary: the body is the same, and a letter without its data still has to say which event it is
// of.
//
// Whatever l and address hold, the values of the further headers are printable ASCII: an address that is not is
// percent-encoded as an attribute is, and a reason, which is for people, is cut to 1 KiB and has escapes as in Go.
func (f Format) EncodeDeadLetter(l bridge.DeadLetter, prefix, address string, withData bool) (
	headers []Header, body []byte, err error,
) {
	if f == Plain {
		f = Binary
	}
	e := l.Event
	if !withData {
		e.Data = nil
	}
	headers, body, err = f.Encode(e, prefix)
	if err != nil {
		return nil, nil, err
	}
	headers = append(headers,
		Header{HeaderReason, headerText(l.Reason, maxReason)},
		Header{HeaderAttempts, strconv.Itoa(l.Attempts)},
		Header{HeaderAddress, headerValue(attrID, bridge.AttributeText(address))},
	)
	if !withData {
		headers = append(headers, Header{HeaderData, DataOmitted})
	}
	return headers, body, nil
}

// headerText makes one line of printable ASCII out of a text for people, of at most limit bytes.
func headerText(text string, limit int) string {
	const more = "..."
	line := make([]byte, 0, min(len(text), limit))
	short := 0 // how much of line leaves room for more
	for _, r := range strings.TrimSpace(text) {
		var piece string
		switch {
		case unicode.IsSpace(r):
			piece = " "
		case ' ' < r && r <= '~':
			piece = string(r)
		default:
			piece = strings.Trim(strconv.QuoteRuneToASCII(r), "'")
		}
		if len(line)+len(piece) > limit {
			return string(line[:short]) + more
		}
		if line = append(line, piece...); len(line)+len(more) <= limit {
			short = len(line)
		}
	}
	return string(line)
}
