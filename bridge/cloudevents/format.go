// Package cloudevents writes an event as the headers and the body of a message, and reads it back: CloudEvents 1.0
// in binary or structured mode, or the data alone. Its functions are pure and safe for concurrent use.
package cloudevents

import "fmt"

// Format is how an event is written into a message. The zero Format is Binary.
type Format int

const (
	// Binary puts each attribute into a header of its own, and the data into the body.
	Binary Format = iota
	// Structured puts the whole event into the body, as one JSON object.
	Structured
	// Plain puts the data into the body and leaves the attributes out.
	Plain
)

// The values of the content-type header.
const (
	contentTypeName       = "content-type"
	jsonContentType       = "application/json"
	structuredContentType = "application/cloudevents+json"
)

// ParseFormat reads a format's name: binary, structured or plain.
func ParseFormat(name string) (Format, error) {
	for _, f := range []Format{Binary, Structured, Plain} {
		if f.String() == name {
			return f, nil
		}
	}
	return Binary, fmt.Errorf("%q is not a format; known are binary, structured and plain", name)
}

// String returns the format's name, as ParseFormat reads it.
func (f Format) String() string {
	switch f {
	case Binary:
		return "binary"
	case Structured:
		return "structured"
	case Plain:
		return "plain"
	default:
		return fmt.Sprintf("Format(%d)", int(f))
	}
}

// The prefixes of attributes in header names, which the protocol bindings of CloudEvents fix.
const (
	// NATSPrefix also says that header values are printable ASCII: see Encode.
	NATSPrefix = "ce-"
	// KafkaPrefix also says that header values are UTF-8.
	KafkaPrefix = "ce_"
)

// Header is one header of a message.
type Header struct{ Name, Value string }
