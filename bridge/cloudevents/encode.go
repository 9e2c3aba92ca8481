package cloudevents

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fnbridge/fnbridge/bridge"
)

// Encode writes e as the headers and the body of a message. prefix is what attributes' names begin with in headers,
// NATSPrefix or KafkaPrefix. A header content-type is always among the headers, as the last one.
//
// Binary and Plain return e.Data itself as the body. Structured holds e.Data byte for byte.
//
// With NATSPrefix every header value is printable ASCII without a space at either end: a value that is not is
// percent-encoded. With any other prefix the values are UTF-8. In each case they are legal CloudEvents strings, so no
// value holds a line break or another control character. Empty attributes are left out, and so is a time that
// RFC 3339 cannot write.
//
// The error says that e lacks an attribute that CloudEvents requires, or that f is none of the formats.
func (f Format) Encode(e bridge.Event, prefix string) (headers []Header, body []byte, err error) {
	return f.AppendEncode(nil, &e, prefix)
}

// AppendEncode is Encode, with the headers appended to dst. It does not keep e.
func (f Format) AppendEncode(dst []Header, e *bridge.Event, prefix string) (headers []Header, body []byte, err error) {
	if err := f.check(e); err != nil {
		return nil, nil, err
	}
	switch f {
	case Structured:
		return append(dst, Header{contentTypeName, structuredContentType}), appendStructured(nil, e), nil
	case Plain:
		return append(dst, Header{contentTypeName, jsonContentType}), e.Data, nil
	default:
		return appendBinaryHeaders(dst, e, prefix), e.Data, nil
	}
}

// Bound returns how many headers Encode makes of e at most, and how many bytes their names, their values and the body have
// together at most. It costs much less than Encode, and ends in the same errors.
func (f Format) Bound(e *bridge.Event, prefix string) (headers, bytes int, err error) {
	if err := f.check(e); err != nil {
		return 0, 0, err
	}
	const growth = len("%00") // of a byte that is percent-encoded; JSON's escapes are shorter
	bytes = len(contentTypeName) + len(structuredContentType) + len(e.Data)
	if f == Plain {
		return 1, bytes, nil
	}
	const time = len("2006-01-02T15:04:05.999999999Z")
	values := len(specVersion) + len(e.ID) + len(e.Source) + len(e.Type) + len(e.Subject) + time + len(e.PartitionKey) +
		len(e.Sequence) + len(e.SourceID) + len(e.WebhookID)
	const perName = len(`"partitionkey":"",`)
	bytes += int(attrCount)*(perName+len(prefix)) + growth*values
	if f == Structured {
		const frame = len(`{"datacontenttype":"application/json","data":}`)
		return 1, bytes + frame, nil
	}
	return int(attrCount) + 1, bytes, nil
}

// check tells whether e can be written in f.
func (f Format) check(e *bridge.Event) error {
	switch f {
	case Binary, Structured:
		return complete(e)
	case Plain:
		return nil
	default:
		return fmt.Errorf("cannot encode an event as %s: no such format", f)
	}
}

func complete(e *bridge.Event) error {
	switch "" {
	case e.ID:
		return errors.New("the event has no id, which CloudEvents requires")
	case e.Source:
		return errors.New("the event has no source, which CloudEvents requires")
	case e.Type:
		return errors.New("the event has no type, which CloudEvents requires")
	default:
		return nil
	}
}

func appendBinaryHeaders(dst []Header, e *bridge.Event, prefix string) []Header {
	headers := slices.Grow(dst, int(attrCount)+1)
	for i, value := range attributes(e) {
		if value == "" {
			continue
		}
		a := attribute(i)
		if prefix == NATSPrefix {
			value = headerValue(a, value)
		}
		headers = append(headers, Header{a.headerName(prefix), value})
	}
	return append(headers, Header{contentTypeName, jsonContentType})
}

// appendStructured appends e in the JSON event format of CloudEvents 1.0.
func appendStructured(dst []byte, e *bridge.Event) []byte {
	const (
		before      = `{"specversion":"`
		contentType = `,"datacontenttype":"` + jsonContentType + `"`
		data        = `,"data":`
		perValue    = len(`,"partitionkey":""`)
	)
	values := attributes(e)
	if dst == nil {
		size := len(before) + len(contentType) + len(data) + len(e.Data) + 1
		for _, value := range values {
			size += perValue + len(value) + len(value)/8
		}
		dst = make([]byte, 0, size)
	}
	dst = append(dst, before...)
	dst = append(dst, specVersion...)
	dst = append(dst, '"')
	for i, value := range values {
		a := attribute(i)
		if value == "" || a == attrSpecVersion {
			continue
		}
		dst = append(dst, ',', '"')
		dst = append(dst, a.String()...)
		dst = append(dst, '"', ':')
		dst = appendJSONString(dst, value)
	}
	if len(e.Data) > 0 {
		dst = append(dst, contentType...)
		dst = append(dst, data...)
		dst = append(dst, e.Data...)
	}
	return append(dst, '}')
}

// appendJSONString appends a legal CloudEvents string, which holds no control character, as JSON.
func appendJSONString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			dst = append(dst, s[start:i]...)
			dst = append(dst, '\\')
			start = i
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}
