package tensorlake

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fnbridge/fnbridge/bridge/excerpt"
)

const (
	secretPrefix    = "whsec_"
	publicKeyPrefix = "whpk_"
	// What Svix lets a secret hold, made or given by a customer. Anything shorter was cut off on its way.
	minSecretBytes = 24
	maxSecretBytes = 75
	minHexBytes    = 16 // the least that anybody would take for a key in hex
	// placeholder stands where the documents want a secret. Everybody knows it.
	placeholder = "whsec_UmVwbGFjZSBtZSBieSB0aGUgcmVhbCBzZWNyZXQu"

	// What begins a signature by a secret, and one that a public key verifies.
	secretVersion    = "v1,"
	publicKeyVersion = "v1a,"
	// signatureLength is the length of a SHA-256 HMAC in base64.
	signatureLength = (sha256.Size + 2) / 3 * 4
	// These bound how many signatures of one header are looked at. A sender adds one for each secret that is valid while
	// it rotates them, which is two. One for a public key costs as much as a thousand others, and strangers send them too.
	maxSignatures          = 64
	maxPublicKeySignatures = 4

	// maxTimestampDigits keeps a timestamp inside int64, and in years that a time.Time can hold.
	maxTimestampDigits = 12
)

// Why a signature was refused: the values of SignatureError.Reason, which are few enough for a metric's label.
const (
	ReasonMissingHeader    = "missing_header"
	ReasonBadTimestamp     = "bad_timestamp"
	ReasonOutOfTolerance   = "timestamp_out_of_tolerance"
	ReasonBadSignature     = "bad_signature"
	ReasonNoMatchingSecret = "no_match"
)

// SignatureError says why a request's signature was refused.
type SignatureError struct {
	// Reason is one of the Reason constants.
	Reason string
	// Detail tells the sender what to change. It holds no secret, and nothing that could forge a log line.
	Detail string
}

func (e *SignatureError) Error() string { return "webhook signature refused: " + e.Detail }

// Signature is what a verified signature vouches for.
type Signature struct {
	// ID is the delivery's identifier, which the sender repeats when it tries again.
	ID string
	// Timestamp is when the sender signed this try, in whole seconds, UTC.
	Timestamp time.Time
	// Secret is the index of the secret that matched, in the order given to NewVerifier; the first if several did.
	Secret int
}

// Secret is the key that a webhook is signed with, or the public key that verifies its signature. It never prints its
// value.
type Secret struct {
	key    []byte
	public ed25519.PublicKey // instead of key
}

// ParseSecret reads a secret as Svix and Tensorlake show it: whsec_ and the key in base64, or whpk_ and an Ed25519
// public key in base64. The error says what is wrong without repeating any of the value.
func ParseSecret(s string) (Secret, error) {
	s = strings.TrimSpace(s)
	encoded, ok := strings.CutPrefix(s, secretPrefix)
	switch {
	case s == "":
		return Secret{}, errors.New("is empty")
	case strings.HasPrefix(s, "\ufeff"):
		return Secret{}, errors.New("begins with a byte order mark; save it as UTF-8 without one")
	case strings.ContainsAny(s[:1], "\"'`"):
		return Secret{}, errors.New("begins with a quotation mark, which is no part of it; leave the quotation marks out")
	case strings.HasPrefix(s, publicKeyPrefix):
		return parsePublicKey(strings.TrimPrefix(s, publicKeyPrefix))
	case !ok:
		return Secret{}, errors.New("does not begin with " + secretPrefix + " or " + publicKeyPrefix +
			"; copy the whole signing secret of the endpoint")
	case s == placeholder:
		return Secret{}, errors.New("is the placeholder of fnbridge's documents, which everybody knows; " +
			"copy the signing secret of the endpoint")
	case isHex(encoded):
		// It would pass for base64 of another key, with which no signature matches.
		return Secret{}, errors.New("is hex after " + secretPrefix + ", and a signing secret is base64; " +
			"copy it as Tensorlake shows it")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Secret{}, errors.New("is not valid base64 after " + secretPrefix +
			"; copy the whole signing secret of the endpoint")
	}
	if len(key) < minSecretBytes || len(key) > maxSecretBytes {
		return Secret{}, fmt.Errorf("holds %d bytes after decoding, and a signing secret has %d to %d; "+
			"copy the whole of it, and no more",
			len(key), minSecretBytes, maxSecretBytes)
	}
	return Secret{key: key}, nil
}

func parsePublicKey(encoded string) (Secret, error) {
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Secret{}, errors.New("is not valid base64 after " + publicKeyPrefix +
			"; copy the whole public key of the endpoint")
	}
	if len(key) != ed25519.PublicKeySize {
		return Secret{}, fmt.Errorf("holds %d bytes after decoding, and a public key has %d; "+
			"copy the whole of it, and no more",
			len(key), ed25519.PublicKeySize)
	}
	return Secret{public: key}, nil
}

// CanSign tells whether a webhook can be signed with the secret: with a public key it cannot.
func (s Secret) CanSign() bool { return s.key != nil }

// isHex tells whether s is a key in hex, with letters of one case. Of 24 random bytes in base64, one in 10¹⁹ looks so.
func isHex(s string) bool {
	const digits = "0123456789"
	return len(s) >= 2*minHexBytes && (strings.Trim(s, digits+"abcdef") == "" || strings.Trim(s, digits+"ABCDEF") == "")
}

// String hides the key.
func (Secret) String() string { return secretPrefix + "…" }

// Format hides the key from every verb of fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GenerateSecret makes a new secret: whsec_ and 24 random bytes in base64, as Svix makes them.
func GenerateSecret() string {
	key := make([]byte, minSecretBytes)
	_, _ = rand.Read(key) // never fails: the runtime ends the program when the system has no randomness
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// Verifier checks signatures as Svix and the Standard Webhooks specification make them. It is safe for concurrent use.
type Verifier struct {
	secrets   []Secret
	tolerance time.Duration
	// macs keeps the HMACs of each secret for use again: setting one up costs as much as a small body.
	macs []sync.Pool
}

// NewVerifier makes a Verifier that accepts each of the secrets, so that they can be rotated, and timestamps at most
// tolerance away from now in either direction. An error about a secret names its place in the list, never its value.
func NewVerifier(secrets []string, tolerance time.Duration) (*Verifier, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no webhook secret was given")
	}
	if tolerance <= 0 {
		return nil, fmt.Errorf("the webhook tolerance is %s; it must be more than 0", tolerance)
	}
	v := &Verifier{secrets: make([]Secret, len(secrets)), tolerance: tolerance, macs: make([]sync.Pool, len(secrets))}
	for i, s := range secrets {
		secret, err := ParseSecret(s)
		if err != nil {
			return nil, fmt.Errorf("webhook secret %d of %d %w", i+1, len(secrets), err)
		}
		v.secrets[i] = secret
		v.macs[i].New = func() any { return newMAC(secret.key) }
	}
	return v, nil
}

// Verify checks that h holds a signature over body that one of the secrets made, or a public key among them verifies,
// at a time that is within the tolerance of now. The headers are svix-id, svix-timestamp and svix-signature or, unless
// these three are all there, the same with webhook-. The error is a *SignatureError.
//
// Comparing takes the same time whatever the signatures hold. Of one header at most 64 signatures are compared, and of
// those for public keys at most 4.
func (v *Verifier) Verify(h http.Header, body []byte, now time.Time) (Signature, error) {
	signed, err := readHeaders(h)
	if err != nil {
		return Signature{}, err
	}
	at, err := v.checkTimestamp(signed.timestamp, now)
	if err != nil {
		return Signature{}, err
	}
	candidates := signaturesIn(signed.signature)
	if len(candidates.bySecret)+len(candidates.forPublicKey) == 0 {
		return Signature{}, &SignatureError{
			Reason: ReasonBadSignature,
			Detail: fmt.Sprintf("the header %s-signature holds no v1 signature; it must hold v1, a comma, and the base64 of "+
				"HMAC-SHA256 over id.timestamp.body (or v1a and that of an Ed25519 signature)", signed.family),
		}
	}

	prefix := signedPrefix(signed.id, signed.timestamp)
	match := -1
	for i := range slices.Backward(v.secrets) { // so that the first of several is kept
		match = subtle.ConstantTimeSelect(v.signedWith(i, candidates, prefix, body), i, match)
	}
	if match < 0 {
		return Signature{}, &SignatureError{
			Reason: ReasonNoMatchingSecret,
			Detail: "no signature matches the body and a configured secret; check that the secret is this endpoint's, and " +
				"that nothing on the way changes the body",
		}
	}
	return Signature{ID: signed.id, Timestamp: at, Secret: match}, nil
}

// signedWith returns 1 if one of the candidates is that of the i-th secret, else 0.
func (v *Verifier) signedWith(i int, candidates signatures, prefix, body []byte) (equal int) {
	if public := v.secrets[i].public; public != nil {
		for _, c := range candidates.forPublicKey {
			if ed25519.Verify(public, slices.Concat(prefix, body), c) {
				return 1
			}
		}
		return 0
	}
	m := v.macs[i].Get().(*mac) //nolint:forcetypeassert // New makes nothing else
	defer v.macs[i].Put(m)
	expected := m.sign(prefix, body)
	for _, c := range candidates.bySecret {
		equal |= subtle.ConstantTimeCompare([]byte(c), expected)
	}
	return equal
}

// signatureHeaders are the three headers of one family, whose names are as net/http writes them.
type signatureHeaders struct {
	family, id, timestamp, signature string
}

func readHeaders(h http.Header) (signatureHeaders, error) {
	var missing []string
	for _, s := range [...]signatureHeaders{
		{
			family: "svix", id: h.Get("Svix-Id"),
			timestamp: h.Get("Svix-Timestamp"), signature: h.Get("Svix-Signature"),
		},
		{
			family: "webhook", id: h.Get("Webhook-Id"),
			timestamp: h.Get("Webhook-Timestamp"), signature: h.Get("Webhook-Signature"),
		},
	} {
		if s.id != "" && s.timestamp != "" && s.signature != "" {
			return s, nil
		}
		if s.id != "" || s.timestamp != "" || s.signature != "" {
			for _, part := range []struct{ name, value string }{
				{"-id", s.id},
				{"-timestamp", s.timestamp},
				{"-signature", s.signature},
			} {
				if part.value == "" {
					missing = append(missing, s.family+part.name)
				}
			}
		}
	}
	detail := "the request is not signed: svix-id, svix-timestamp and svix-signature " +
		"(or the same with webhook-) are missing"
	if len(missing) > 0 {
		detail = "the request is not signed completely: missing are the headers " + strings.Join(missing, ", ")
	}
	return signatureHeaders{}, &SignatureError{Reason: ReasonMissingHeader, Detail: detail}
}

// Secrets returns how many secrets the verifier has; Signature.Secret is below it.
func (v *Verifier) Secrets() int { return len(v.secrets) }

func (v *Verifier) checkTimestamp(text string, now time.Time) (time.Time, error) {
	seconds, err := strconv.ParseUint(text, 10, 64)
	// Digits only: no sign, no space, nothing that a second reader could take for another number.
	if err != nil || len(text) > maxTimestampDigits {
		return time.Time{}, &SignatureError{
			Reason: ReasonBadTimestamp,
			Detail: fmt.Sprintf("the timestamp %s is not a whole number of seconds since 1970", excerpt.Quote(text)),
		}
	}
	at := time.Unix(int64(seconds), 0).UTC() //nolint:gosec // at most twelve digits
	if off := now.Sub(at); off > v.tolerance || off < -v.tolerance {
		word := "before"
		if off < 0 {
			word = "after"
		}
		return time.Time{}, &SignatureError{
			Reason: ReasonOutOfTolerance,
			Detail: fmt.Sprintf("the timestamp %s is more than %s %s this server's clock, which says %s; check both clocks, "+
				"and sign each try anew", at.Format(time.RFC3339), v.tolerance, word, now.UTC().Format(time.RFC3339)),
		}
	}
	return at, nil
}

// signatures are those of a header that are as long as one has to be: in base64, and for public keys decoded.
type signatures struct {
	bySecret     []string
	forPublicKey [][]byte
}

// signaturesIn reads a header. Other versions are passed over: a sender may add them beside these.
func signaturesIn(header string) (found signatures) {
	for entry := range strings.SplitSeq(header, " ") {
		if signature, ok := strings.CutPrefix(entry, secretVersion); ok && len(signature) == signatureLength {
			if len(found.bySecret) < maxSignatures {
				found.bySecret = append(found.bySecret, signature)
			}
		} else if signature, ok := strings.CutPrefix(entry, publicKeyVersion); ok {
			decoded, err := base64.StdEncoding.DecodeString(signature)
			if err == nil && len(decoded) == ed25519.SignatureSize && len(found.forPublicKey) < maxPublicKeySignatures {
				found.forPublicKey = append(found.forPublicKey, decoded)
			}
		}
	}
	return found
}

func signedPrefix(id, timestamp string) []byte {
	prefix := make([]byte, 0, len(id)+len(timestamp)+2)
	prefix = append(prefix, id...)
	prefix = append(prefix, '.')
	prefix = append(prefix, timestamp...)
	return append(prefix, '.')
}

// mac makes the signatures of one secret, one at a time.
type mac struct {
	hash.Hash
	sum       [sha256.Size]byte
	signature [signatureLength]byte
}

func newMAC(key []byte) *mac { return &mac{Hash: hmac.New(sha256.New, key)} }

// sign returns the signature in base64, which is m's own until the next one.
func (m *mac) sign(prefix, body []byte) []byte {
	m.Reset()
	m.Write(prefix)
	m.Write(body)
	return base64.StdEncoding.AppendEncode(m.signature[:0], m.Sum(m.sum[:0]))
}

// Sign returns the headers svix-id, svix-timestamp and svix-signature that Svix would send with body at that time.
func Sign(secret, id string, at time.Time, body []byte) (http.Header, error) {
	parsed, err := ParseSecret(secret)
	if err != nil {
		return nil, fmt.Errorf("the webhook secret %w", err)
	}
	if !parsed.CanSign() {
		return nil, errors.New("the webhook secret is a public key, with which nothing can be signed; " +
			"give a secret that begins with " + secretPrefix)
	}
	if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return nil, fmt.Errorf("the webhook id %s must be printable ASCII without spaces, and not empty", excerpt.Quote(id))
	}
	seconds := at.Unix()
	timestamp := strconv.FormatInt(seconds, 10)
	if seconds < 0 || len(timestamp) > maxTimestampDigits {
		return nil, fmt.Errorf("the time %s cannot be a webhook's timestamp", at)
	}
	h := make(http.Header, 3)
	h.Set("svix-id", id)
	h.Set("svix-timestamp", timestamp)
	h.Set("svix-signature", secretVersion+string(newMAC(parsed.key).sign(signedPrefix(id, timestamp), body)))
	return h, nil
}
