package cloudevents

import (
	"errors"
	"fmt"

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
	if err := f.check(&e); err != nil {
		return nil, nil, err
	}
	switch f {
	case Structured:
		return []Header{{contentTypeName, structuredContentType}}, structured(&e), nil
	case Plain:
		return []Header{{contentTypeName, jsonContentType}}, e.Data, nil
	default:
		return binaryHeaders(&e, prefix), e.Data, nil
	}
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

func binaryHeaders(e *bridge.Event, prefix string) []Header {
	names, known := headerNames[prefix]
	if !known {
		names = namesWith(prefix)
	}
	headers := make([]Header, 0, attrCount+1)
	for i, value := range attributes(e) {
		if value == "" {
			continue
		}
		a := attribute(i)
		if prefix == NATSPrefix {
			value = headerValue(a, value)
		}
		headers = append(headers, Header{names[a], value})
	}
	return append(headers, Header{contentTypeName, jsonContentType})
}

// structured returns e in the JSON event format of CloudEvents 1.0.
func structured(e *bridge.Event) []byte {
	const (
		before      = `{"specversion":"`
		contentType = `,"datacontenttype":"` + jsonContentType + `"`
		data        = `,"data":`
		room        = 1024 // for all but the data, most often
	)
	dst := make([]byte, 0, room+len(e.Data))
	dst = append(dst, before...)
	dst = append(dst, specVersion...)
	dst = append(dst, '"')
	for i, value := range attributes(e) {
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
