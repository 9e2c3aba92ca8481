package bridge

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Origin says where an event comes from: which event of which webhook it is, and whether a replay publishes it. Two
// events that may not be taken for one another have two origins, whatever their ids are. The zero Origin is that of an
// event that no webhook brought.
type Origin struct {
	// Webhook is the WebhookDigest of the webhook.
	Webhook Digest
	// Index is the event's place among those of its webhook, from 0.
	Index int
	// Replay is the number of the replay that publishes the event again, and 0 for what is published as it came in.
	Replay int64
}

// Digest is the first half of a SHA-256.
type Digest [sha256.Size / 2]byte

// WebhookDigest returns a digest of what makes an accepted webhook the one that it is: its id and its body.
func WebhookDigest(id string, body []byte) Digest {
	h := sha256.New()
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(id)))
	h.Write(length[:])
	h.Write([]byte(id))
	h.Write(body)
	var sum [sha256.Size]byte
	return Digest(h.Sum(sum[:0])[:len(Digest{})])
}

// DedupeID returns what a broker may tell repeats of the event by that are published to one address: it differs for
// another event, webhook, replay or address. It has 32 hexadecimal digits, and is empty for the zero Origin.
func (o Origin) DedupeID(address string) string {
	if o.Webhook == (Digest{}) {
		return ""
	}
	const usual = 256 // bytes, with a subject of usual length
	b := append(make([]byte, 0, usual), o.Webhook[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Index))  //nolint:gosec // an index is not negative
	b = binary.BigEndian.AppendUint64(b, uint64(o.Replay)) //nolint:gosec // the bits are the number
	b = append(b, address...)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:len(Digest{})])
}
