package tensorlake

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// digest is the SHA-256 of a kind of fact and what tells one fact of that kind from another. Each is preceded by its
// length, so that no two lists of fields digest the same bytes.
func digest(kind string, fields ...string) [sha256.Size]byte {
	const usual = 512 // bytes, of names of usual lengths
	b := appendField(make([]byte, 0, usual), kind)
	for _, f := range fields {
		b = appendField(b, f)
	}
	return sha256.Sum256(b)
}

func appendField(b []byte, f string) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
	return append(b, f...)
}

// idBytes is how much of a digest an event's id shows.
const idBytes = 16

// eventID is a digest as an event's id.
func eventID(sum [sha256.Size]byte) string { return hex.EncodeToString(sum[:idBytes]) }
