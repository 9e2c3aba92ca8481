package kafka

import (
	"io"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// eventRecord makes the records of events.
func (s *Sink) eventRecord(events []bridge.Event) func(i int) (record, error) {
	return func(i int) (record, error) {
		headers, value, err := s.opts.Format.Encode(events[i], cloudevents.KafkaPrefix)
		return s.newRecord(&events[i], headers, value), err
	}
}

// letterRecord makes the records of dead letters, whose events belong in topic.
func (s *Sink) letterRecord(letters []bridge.DeadLetter, topic string, withData bool) func(i int) (record, error) {
	return func(i int) (record, error) {
		headers, value, err := s.opts.Format.EncodeDeadLetter(letters[i], cloudevents.KafkaPrefix, topic, withData)
		return s.newRecord(&letters[i].Event, headers, value), err
	}
}

func (s *Sink) newRecord(e *bridge.Event, headers []cloudevents.Header, value []byte) record {
	r := record{event: e, key: []byte(s.key(e)), value: value, headers: make([]kafkago.Header, len(headers))}
	if r.value == nil {
		r.value = []byte{} // a record without a value means that its key is deleted
	}
	r.size = recordOverhead + len(r.key) + len(r.value)
	for i, h := range headers {
		r.size += headerOverhead + len(h.Name) + len(h.Value)
		r.headers[i] = kafkago.Header{Key: h.Name, Value: []byte(h.Value)}
	}
	return r
}

// recordReader reads the records of a batch as the library takes them, one after the other.
type recordReader struct {
	batch []record
	next  int
}

// rewind has the reader begin again.
func (r *recordReader) rewind() { r.next = 0 }

// ReadRecord implements kafkago.RecordReader.
func (r *recordReader) ReadRecord() (*kafkago.Record, error) {
	if r.next == len(r.batch) {
		return nil, io.EOF
	}
	next := r.batch[r.next]
	r.next++
	// Without a time, a record gets that of its sending. The event's own may lie far off, and brokers
	// delete and refuse by the record's time.
	return &kafkago.Record{
		Key: kafkago.NewBytes(next.key), Value: kafkago.NewBytes(next.value), Headers: next.headers,
	}, nil
}
