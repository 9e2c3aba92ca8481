package kafka

import (
	"bytes"
	"fmt"
	"io"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// content is what a call stores. None of it changes while anything may read it, which after a Produce that was given up
// is the library, for as long as it likes. Errors are classified.
type content interface {
	len() int
	// event returns the event that the i-th record is of.
	event(i int) *bridge.Event
	// bound returns how many headers the i-th record has at most, and how many bytes these and its value have.
	bound(i int) (headers, bytes int, err error)
	// encode appends the headers of the i-th record to dst, and returns them and its value. It succeeds if bound does.
	encode(i int, dst []cloudevents.Header) (headers []cloudevents.Header, value []byte, err error)
}

// eventRecords are events.
type eventRecords struct {
	format cloudevents.Format
	events []bridge.Event
}

func (r eventRecords) len() int                  { return len(r.events) }
func (r eventRecords) event(i int) *bridge.Event { return &r.events[i] }

func (r eventRecords) bound(i int) (headers, bytes int, err error) {
	if headers, bytes, err = r.format.Bound(&r.events[i], cloudevents.KafkaPrefix); err != nil {
		err = bridge.Reject(fmt.Errorf("encoding the event: %w", err))
	}
	return headers, bytes, err
}

func (r eventRecords) encode(i int, dst []cloudevents.Header) (headers []cloudevents.Header, value []byte, err error) {
	return r.format.AppendEncode(dst, &r.events[i], cloudevents.KafkaPrefix)
}

// letterRecords are dead letters.
type letterRecords struct {
	format   cloudevents.Format
	letters  []bridge.DeadLetter
	topic    string // that their events belong in
	withData bool
}

func (r letterRecords) len() int                  { return len(r.letters) }
func (r letterRecords) event(i int) *bridge.Event { return &r.letters[i].Event }

func (r letterRecords) bound(i int) (headers, bytes int, err error) {
	all, value, err := r.encode(i, nil) // they are few
	bytes = len(value)
	for _, h := range all {
		bytes += len(h.Name) + len(h.Value)
	}
	return len(all), bytes, err
}

func (r letterRecords) encode(i int, _ []cloudevents.Header) (headers []cloudevents.Header, value []byte, err error) {
	headers, value, err = r.format.EncodeDeadLetter(r.letters[i], cloudevents.KafkaPrefix, r.topic, r.withData)
	if err != nil {
		err = bridge.Reject(fmt.Errorf("encoding the dead letter: %w", err))
	}
	return headers, value, err
}

// recordReader makes the records of a batch one after the other, when the library writes them, and all of them in the same
// memory: a batch of thousands costs no more than one record. The library is done with one when it asks for the next.
type recordReader struct {
	call    *call
	records []record // that are left

	record     kafkago.Record
	key, value readBytes
	encoded    []cloudevents.Header
	headers    []kafkago.Header
	memory     []byte // of the key and the headers' values
}

// reader returns a reader of a batch.
func (c *call) reader(batch []record) kafkago.RecordReader {
	return &recordReader{call: c, records: batch}
}

// ReadRecord implements kafkago.RecordReader.
func (r *recordReader) ReadRecord() (*kafkago.Record, error) {
	if len(r.records) == 0 {
		return nil, io.EOF
	}
	i := r.records[0].index
	r.records = r.records[1:]
	headers, value, err := r.call.encode(i, r.encoded[:0])
	if err != nil {
		return nil, err
	}
	r.encoded = headers
	r.memory = append(r.memory[:0], r.call.key(r.call.event(i))...)
	key := len(r.memory)
	for _, h := range headers {
		r.memory = append(r.memory, h.Value...)
	}
	// It has grown as far as it will: what follows stays where it is.
	rest := r.memory[key:]
	r.headers = r.headers[:0]
	for _, h := range headers {
		r.headers = append(r.headers, kafkago.Header{Key: h.Name, Value: rest[:len(h.Value):len(h.Value)]})
		rest = rest[len(h.Value):]
	}
	r.key.Reset(r.memory[:key])
	r.value.Reset(value)
	// Without a time, a record gets that of its sending. The event's own may lie far off, and brokers
	// delete and refuse by the record's time.
	r.record = kafkago.Record{Key: &r.key, Value: &r.value, Headers: r.headers}
	return &r.record, nil
}

// readBytes are the bytes of a key or a value. They are never null: a record without a value means that its key is deleted.
type readBytes struct{ bytes.Reader }

// Close implements kafkago.Bytes.
func (*readBytes) Close() error { return nil }
