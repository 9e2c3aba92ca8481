package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fnbridge/fnbridge/bridge"
)

// The events of one webhook repeat its names, in their source, subject, route and data: a payload of 75 kB can become
// 400 MB of events. So what its dead letters have in common is stored once, as the first of their events, the base,
// and of each event only what it has another way. It needs neither the webhook, which may be gone, nor the program
// that made the event, which may make another one today.
//
// A packed event is a byte for the format and then its values in a fixed order. A value is 0 where it is the base's;
// else the length of its middle plus one, how much of the base's beginning and of its end it has, and the middle.
// Numbers are varints. Every value of the zero Event, which is a base's own base, is empty.
const packedFormat = 1

var errPacked = errors.New("the event of a dead letter is damaged")

// packedTexts are the texts of an event, in the order in which they are packed.
func packedTexts(e *bridge.Event) []*string {
	return []*string{
		&e.ID, &e.Type, &e.Source, &e.Subject, &e.PartitionKey, &e.Sequence, &e.SourceID, &e.WebhookID,
		&e.Project, &e.Application, &e.Version, &e.Request, &e.Function, &e.Sandbox, &e.SandboxName,
		&e.Status, &e.Outcome, &e.Reason,
	}
}

// packEvent returns what e has another way than base. The index in e's Origin, and its replay, are not part of it.
func packEvent(e, base *bridge.Event) []byte {
	packed := make([]byte, 1, 256)
	packed[0] = packedFormat
	texts := packedTexts(base)
	for i, text := range packedTexts(e) {
		packed = appendPacked(packed, *text, *texts[i])
	}
	packed = appendPacked(packed, toText(e.Time), toText(base.Time))
	packed = appendPacked(packed, e.Origin.Webhook[:], base.Origin.Webhook[:])
	packed = binary.AppendUvarint(packed, uint64(len(e.Route)))
	for i, part := range e.Route {
		packed = appendPacked(packed, part, partOf(base.Route, i))
	}
	return appendPacked(packed, e.Data, base.Data)
}

// unpackEvent undoes packEvent; no data is nil. What the event has as the base has it, they share.
func unpackEvent(packed []byte, base *bridge.Event) (e bridge.Event, err error) {
	if len(packed) == 0 || packed[0] != packedFormat {
		return bridge.Event{}, fmt.Errorf("%w: it has an unknown format", errPacked)
	}
	u := unpacking{left: packed[1:]}
	texts := packedTexts(base)
	for i, text := range packedTexts(&e) {
		*text = unpack(&u, *texts[i])
	}
	e.Time = fromText(unpack(&u, toText(base.Time)))
	copy(e.Origin.Webhook[:], unpack(&u, base.Origin.Webhook[:]))
	parts := u.number()
	if parts > uint64(len(u.left)) { // each takes a byte at least
		return bridge.Event{}, errPacked
	}
	e.Route = make([]string, parts)
	for i := range e.Route {
		e.Route[i] = unpack(&u, partOf(base.Route, i))
	}
	e.Data = unpack(&u, base.Data)
	if u.short || len(u.left) > 0 {
		return bridge.Event{}, errPacked
	}
	return e, nil
}

func partOf(route []string, i int) string {
	if i < len(route) {
		return route[i]
	}
	return ""
}

func appendPacked[T string | []byte](packed []byte, value, base T) []byte {
	shorter := min(len(value), len(base))
	prefix := 0
	for prefix < shorter && value[prefix] == base[prefix] {
		prefix++
	}
	if prefix == len(value) && prefix == len(base) {
		return append(packed, 0)
	}
	suffix := 0
	for suffix < shorter-prefix && value[len(value)-1-suffix] == base[len(base)-1-suffix] {
		suffix++
	}
	middle := value[prefix : len(value)-suffix]
	for _, n := range []int{len(middle) + 1, prefix, suffix} {
		packed = binary.AppendUvarint(packed, uint64(n)) //nolint:gosec // a length is not negative
	}
	return append(packed, middle...)
}

// unpacking reads a packed event.
type unpacking struct {
	left []byte
	// short is set once the event does not hold what it must.
	short bool
}

func (u *unpacking) number() uint64 {
	n, size := binary.Uvarint(u.left)
	if size <= 0 {
		u.short, u.left = true, nil
		return 0
	}
	u.left = u.left[size:]
	return n
}

func unpack[T string | []byte](u *unpacking, base T) (value T) {
	length := u.number()
	if u.short {
		return value
	}
	if length == 0 {
		return base
	}
	length--
	prefix, suffix := u.number(), u.number()
	whole := uint64(len(base))
	if length > uint64(len(u.left)) || prefix > whole || suffix > whole-prefix {
		u.short = true
		return value
	}
	if prefix+length+suffix == 0 {
		return value
	}
	text := make([]byte, 0, prefix+length+suffix)
	text = append(text, base[:prefix]...)
	text = append(text, u.left[:length]...)
	text = append(text, base[whole-suffix:]...)
	u.left = u.left[length:]
	return T(text)
}
