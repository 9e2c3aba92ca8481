package kafka

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"reflect"
	"strconv"
	"strings"
	"sync"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/describeconfigs"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
)

const (
	// maxAnswerBytes is the largest answer that is read. The metadata of 100,000 partitions take a third of it.
	maxAnswerBytes = 16 << 20
	// maxFetchBytes is the same for records, since a batch comes whole whatever its size. It is the most that they may
	// have when they are decompressed, too.
	maxFetchBytes = maxRequestBytes
	// maxFetchRecords is the most that one batch may have, with their headers.
	maxFetchRecords = 1 << 20
)

// plainConn is a connection without TLS, whose peer may be anybody. The client library makes room for whatever count an
// answer claims, and panics at some, on goroutines of its own. So it gets an answer only once that is here whole, its
// counts fit into its bytes, and it has been decoded without harm. One goroutine at a time uses it, as the library
// does.
type plainConn struct {
	net.Conn
	address string

	key     protocol.ApiKey // of the request that was sent last
	version int16
	unsent  int  // bytes of it that are still to come
	waiting bool // for its answer
	answer  []byte
}

// errOldSASL is for brokers before Kafka 1.0, whose answers to a login are bare bytes.
var errOldSASL = errors.New("the broker has no SASL as Kafka has it since version 1.0")

// Write notes which answer is to come. The library writes the head of a request in one piece.
func (c *plainConn) Write(b []byte) (int, error) {
	if c.unsent == 0 {
		if len(b) < 8 {
			return 0, errors.New("a request without a head")
		}
		c.unsent = 4 + int(binary.BigEndian.Uint32(b))
		c.key = protocol.ApiKey(binary.BigEndian.Uint16(b[4:])) //nolint:gosec // the library has written an int16
		c.version = int16(binary.BigEndian.Uint16(b[6:]))       //nolint:gosec // the same
		c.waiting = true
		if c.key == protocol.SaslHandshake && c.version == 0 {
			return 0, errOldSASL
		}
	}
	n, err := c.Conn.Write(b)
	c.unsent -= n
	return n, err
}

func (c *plainConn) Read(b []byte) (int, error) {
	if len(c.answer) == 0 {
		if err := c.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}

// receive reads the next answer whole. Memory grows with what has come, not with what is claimed.
func (c *plainConn) receive() error {
	var head [4]byte
	if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
		return err
	}
	size, most := int64(binary.BigEndian.Uint32(head[:])), int64(maxAnswerBytes)
	if c.key == protocol.Fetch {
		most = maxFetchBytes
	}
	if size > most { // or negative, to the library
		return c.stranger(head)
	}
	if !c.waiting {
		return fmt.Errorf("%s answers what it was not asked", c.address)
	}
	c.waiting = false
	frame := bytes.NewBuffer(head[:])
	n, err := frame.ReadFrom(io.LimitReader(c.Conn, size))
	if err != nil {
		return err
	}
	if n < size {
		return io.ErrUnexpectedEOF
	}
	if err := tryAnswer(c.key, c.version, frame.Bytes()); err != nil {
		return fmt.Errorf("%s gives a broken answer (%v): %w", c.address, c.key, err)
	}
	c.answer = frame.Bytes()
	return nil
}

// strangerError is about a port that does not speak Kafka.
type strangerError struct{ address, speaks string }

func (e *strangerError) Error() string { return e.address + " answers " + e.speaks + ", not Kafka" }

// stranger says who answers with a size that no answer has.
func (c *plainConn) stranger(head [4]byte) error {
	const alert, handshake = 0x15, 0x16
	switch {
	case string(head[:]) == "HTTP":
		return &strangerError{c.address, "HTTP"}
	case (head[0] == alert || head[0] == handshake) && head[1] == 3:
		return fmt.Errorf("%w: %s answers TLS", io.ErrUnexpectedEOF, c.address)
	case strings.IndexFunc(string(head[:]), func(r rune) bool { return r < ' ' || r > '~' }) < 0:
		return &strangerError{c.address, strconv.Quote(string(head[:]) + "…")}
	}
	return fmt.Errorf("%s claims an answer of %d bytes; is it a broker of Kafka?",
		c.address, binary.BigEndian.Uint32(head[:]))
}

// tryAnswer decodes an answer, with the four bytes of its size, as the library will. A panic of the library ends here.
func tryAnswer(key protocol.ApiKey, version int16, frame []byte) (err error) {
	defer recovered(&err)
	answer, ok := answers[key]
	if !ok {
		return errors.New("nothing of the kind is asked")
	}
	const sizeAndID = 8
	if len(frame) < sizeAndID {
		return errShort
	}
	s := shapeOf(reflect.TypeOf(answer).Elem(), version)
	left := frame[sizeAndID:]
	if s.flexible {
		if left, err = skipTags(left); err != nil {
			return err
		}
	}
	if _, err := s.skip(left); err != nil {
		return err
	}
	_, _, err = protocol.ReadResponse(bufio.NewReader(bytes.NewReader(frame)), key, version)
	return err
}

// recovered makes an error of a panic of the client library.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the Kafka library cannot read the answer: %v", p)
	}
}

// answers are of all that this package asks.
var answers = map[protocol.ApiKey]protocol.Message{ //nolint:gochecknoglobals // it is a table
	protocol.ApiVersions:      &apiversions.Response{},
	protocol.CreateTopics:     &createtopics.Response{},
	protocol.DescribeConfigs:  &describeconfigs.Response{},
	protocol.Fetch:            &fetch.Response{},
	protocol.ListOffsets:      &listoffsets.Response{},
	protocol.Metadata:         &metadata.Response{},
	protocol.Produce:          &produce.Response{},
	protocol.SaslAuthenticate: &saslauthenticate.Response{},
	protocol.SaslHandshake:    &saslhandshake.Response{},
}

var errShort = errors.New("it ends too early")

// shape is what a type of the library looks like on the wire, in one version of its request.
type shape struct {
	least    int // bytes at least
	flexible bool
	skip     func(b []byte) (rest []byte, err error)
}

type shapeKey struct {
	t       reflect.Type
	version int16
}

var shapes sync.Map //nolint:gochecknoglobals // shapeKey to shape, made once

// shapeOf returns the shape of an answer, from the tags that the library decodes by.
func shapeOf(t reflect.Type, version int16) shape {
	key := shapeKey{t, version}
	if s, ok := shapes.Load(key); ok {
		return s.(shape)
	}
	flexible := false
	for f := range t.Fields() {
		// The library marks a flexible version with a field for tags.
		if minimum, maximum, tagged := versionsOf(f); tagged && minimum <= version && version <= maximum {
			flexible = true
		}
	}
	s := shapeIn(t, version, flexible)
	shapes.Store(key, s)
	return s
}

// versionsOf reads the tag of a field, such as `kafka:"min=v0,max=v8,nullable"`.
func versionsOf(f reflect.StructField) (minimum, maximum int16, tagged bool) {
	for option := range strings.SplitSeq(f.Tag.Get("kafka"), ",") {
		name, value, _ := strings.Cut(option, "=v")
		n, _ := strconv.ParseInt(value, 10, 16)
		switch name {
		case "min":
			minimum = int16(n)
		case "max":
			maximum = int16(n)
		case "tag":
			tagged = true
		}
	}
	return minimum, maximum, tagged
}

func shapeIn(t reflect.Type, version int16, flexible bool) shape {
	if t == reflect.TypeFor[protocol.RecordSet]() {
		return shape{least: 4, skip: skipRecordSet}
	}
	switch t.Kind() {
	case reflect.Struct:
		return structShape(t, version, flexible)
	case reflect.String:
		if flexible {
			return shape{least: 1, skip: skipSpan(compactLength)}
		}
		return shape{least: 2, skip: skipSpan(shortLength)}
	case reflect.Slice:
		length, least := longLength, 4
		if flexible {
			length, least = compactLength, 1
		}
		if t.Elem().Kind() == reflect.Uint8 {
			return shape{least: least, skip: skipSpan(length)}
		}
		return shape{least: least, skip: skipList(length, shapeIn(t.Elem(), version, flexible))}
	default:
		size := int(t.Size())
		return shape{least: size, skip: func(b []byte) ([]byte, error) { return cut(b, size) }}
	}
}

func structShape(t reflect.Type, version int16, flexible bool) shape {
	var fields []shape
	whole := shape{flexible: flexible}
	for f := range t.Fields() {
		minimum, maximum, tagged := versionsOf(f)
		if tagged || version < minimum || version > maximum {
			continue
		}
		field := shapeIn(f.Type, version, flexible)
		fields, whole.least = append(fields, field), whole.least+field.least
	}
	if flexible {
		fields, whole.least = append(fields, shape{skip: skipTags}), whole.least+1
	}
	whole.skip = func(b []byte) ([]byte, error) {
		for _, field := range fields {
			var err error
			if b, err = field.skip(b); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return whole
}

// cut takes n bytes off b.
func cut(b []byte, n int) ([]byte, error) {
	if n < 0 || n > len(b) {
		return nil, errShort
	}
	return b[n:], nil
}

// A length is read off the bytes before what it is of. Null has none.
type length func(b []byte) (n int, rest []byte, err error)

func shortLength(b []byte) (n int, rest []byte, err error) {
	if rest, err = cut(b, 2); err != nil {
		return 0, nil, err
	}
	return orNull(int(binary.BigEndian.Uint16(b)), math.MaxInt16), rest, nil
}

func longLength(b []byte) (n int, rest []byte, err error) {
	if rest, err = cut(b, 4); err != nil {
		return 0, nil, err
	}
	return orNull(int(binary.BigEndian.Uint32(b)), math.MaxInt32), rest, nil
}

// orNull returns n, and 0 for the negative numbers that it stands for above most.
func orNull(n, most int) int {
	if n > most {
		return 0
	}
	return n
}

func compactLength(b []byte) (n int, rest []byte, err error) {
	n, rest, err = unsigned(b)
	return max(0, n-1), rest, err
}

// unsigned reads a varint that fits into 31 bits, as all lengths do.
func unsigned(b []byte) (n int, rest []byte, err error) {
	v, size := binary.Uvarint(b)
	if size <= 0 || v > math.MaxInt32 {
		return 0, nil, errShort
	}
	return int(v), b[size:], nil
}

func skipSpan(length length) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		n, b, err := length(b)
		if err != nil {
			return nil, err
		}
		return cut(b, n)
	}
}

func skipList(length length, element shape) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		n, b, err := length(b)
		if err != nil {
			return nil, err
		}
		if n > len(b)/max(1, element.least) {
			return nil, fmt.Errorf("it claims %d elements and has %d bytes for them", n, len(b))
		}
		for range n {
			if b, err = element.skip(b); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
}

// skipTags passes over the tagged fields of a flexible version. The library knows none of them.
func skipTags(b []byte) ([]byte, error) {
	n, b, err := unsigned(b)
	if err != nil {
		return nil, err
	}
	for range n {
		var size int
		if _, b, err = unsigned(b); err != nil {
			return nil, err
		}
		if size, b, err = unsigned(b); err != nil {
			return nil, err
		}
		if b, err = cut(b, size); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// skipRecordSet passes over the batches of one partition.
func skipRecordSet(b []byte) ([]byte, error) {
	size, b, err := longLength(b)
	if err != nil {
		return nil, err
	}
	rest, err := cut(b, size)
	if err != nil {
		return nil, err
	}
	for set := b[:size]; ; {
		const (
			lengthAt = 8
			begin    = 12 // of what the length counts
			magicAt  = 16
		)
		if len(set) <= magicAt {
			return rest, nil
		}
		n, _, err := longLength(set[lengthAt:])
		if err != nil || n > len(set)-begin {
			return rest, err // a broker may cut off the last batch
		}
		if n <= magicAt-begin {
			return nil, errShort
		}
		batch := set[:begin+n]
		if batch[magicAt] < 2 {
			err = checkOldMessage(batch)
		} else {
			err = checkBatch(batch)
		}
		if err != nil {
			return nil, err
		}
		set = set[len(batch):]
	}
}

// checkOldMessage is for the format before Kafka 0.11, without headers.
func checkOldMessage(message []byte) error {
	const attributesAt = 17
	if len(message) <= attributesAt {
		return errShort
	}
	if protocol.Attributes(message[attributesAt]).Compression() != 0 {
		return errors.New("it has compressed records in the format before Kafka 0.11, which are not read")
	}
	return nil
}

// checkBatch holds the counts of a batch against its records.
func checkBatch(batch []byte) error {
	const attributesAt, countAt, begin = 21, 57, 61
	if len(batch) < begin {
		return errShort
	}
	count := binary.BigEndian.Uint32(batch[countAt:])
	if count > maxFetchRecords { // or negative, to the library
		return fmt.Errorf("a batch claims %d records", count)
	}
	var records io.Reader = bytes.NewReader(batch[begin:])
	compression := kafkago.Compression(binary.BigEndian.Uint16(batch[attributesAt:]) & 7)
	if compression != 0 {
		codec := compression.Codec()
		if codec == nil {
			return fmt.Errorf("a batch has the unknown compression %d", compression)
		}
		decompressor := codec.NewReader(records)
		defer func() { _ = decompressor.Close() }()
		records = decompressor
	}
	r := recordChecker{
		in: bufio.NewReader(io.LimitReader(records, maxFetchBytes+1)), left: maxFetchBytes, parts: maxFetchRecords,
	}
	for ; count > 0 && r.err == nil; count-- {
		r.record()
	}
	if r.err == nil && compression != 0 {
		// The library decompresses what stands behind the records as well.
		if _, err := r.in.Discard(r.left + 1); err == nil {
			r.err = errors.New("a batch is too large when it is decompressed")
		}
	}
	return r.err
}

// recordChecker reads records and keeps the first error. Nothing of a record is held in memory.
type recordChecker struct {
	in    *bufio.Reader
	left  int   // bytes that may still be read
	parts int64 // records and headers that may still come
	err   error
}

func (r *recordChecker) record() {
	r.varint() // its length, which the library passes over
	r.discard(1)
	r.varint() // time
	r.varint() // offset
	r.discard(r.varint())
	r.discard(r.varint())
	headers := max(0, r.varint())
	if r.parts--; r.err == nil && headers > r.parts {
		r.err = fmt.Errorf("a record claims %d headers", headers)
	}
	r.parts -= headers
	for i := int64(0); i < headers && r.err == nil; i++ {
		r.discard(r.varint())
		r.discard(r.varint())
	}
}

// ReadByte implements io.ByteReader.
func (r *recordChecker) ReadByte() (byte, error) {
	b, err := r.in.ReadByte()
	if err == nil {
		r.left--
	}
	return b, err
}

func (r *recordChecker) varint() int64 {
	if r.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(r)
	r.err = err
	return n
}

// discard passes over n bytes. Null has -1.
func (r *recordChecker) discard(n int64) {
	if r.err != nil || n <= 0 {
		return
	}
	if n > int64(r.left) {
		r.err = errShort
		return
	}
	_, r.err = r.in.Discard(int(n))
	r.left -= int(n)
}
