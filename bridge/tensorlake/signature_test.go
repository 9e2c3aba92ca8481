package tensorlake_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

const (
	tolerance = 5 * time.Minute
	messageID = "msg_2pQ5wL9aXkTzB7cVdEfGhJ"
)

var body = []byte(`{"workflow_name":"workflow_XXXX","invocation_id":"i","fn_status":{}}`) //nolint:gochecknoglobals // a constant

func signedAt() time.Time { return time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC) }

// secretOf makes a secret that differs for each name.
func secretOf(name string) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(name+strings.Repeat("-", 24)))
}

// svixHeaders signs with the official library.
func svixHeaders(tb testing.TB, family, secret string, at time.Time, body []byte) http.Header {
	tb.Helper()
	wh, err := svix.NewWebhook(secret)
	require.NoError(tb, err)
	signature, err := wh.Sign(messageID, at, body)
	require.NoError(tb, err)
	h := http.Header{}
	h.Set(family+"-id", messageID)
	h.Set(family+"-timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set(family+"-signature", signature)
	return h
}

func newVerifier(tb testing.TB, secrets ...string) *tensorlake.Verifier {
	tb.Helper()
	v, err := tensorlake.NewVerifier(secrets, tolerance)
	require.NoError(tb, err)
	return v
}

func TestVerifyAcceptsWhatSvixSigns(t *testing.T) {
	bodies := map[string][]byte{
		"payload":       body,
		"empty":         {},
		"not UTF-8":     {0xff, 0x00, 0xfe},
		"long":          []byte(strings.Repeat("x", 1<<20)),
		"with a dot":    []byte("1.2.3"),
		"line breaks":   []byte("{\r\n}\n"),
		"looks encoded": []byte("%7B%7D"),
	}
	for name, body := range bodies {
		for _, family := range []string{"svix", "webhook"} {
			t.Run(name+"/"+family, func(t *testing.T) {
				v := newVerifier(t, secretOf("a"))
				got, err := v.Verify(svixHeaders(t, family, secretOf("a"), signedAt(), body), body, signedAt())
				require.NoError(t, err)
				require.Equal(t, tensorlake.Signature{ID: messageID, Timestamp: signedAt(), Secret: 0}, got)
			})
		}
	}
}

func TestVerifyTellsWhichSecretMatched(t *testing.T) {
	v := newVerifier(t, secretOf("a"), secretOf("b"), secretOf("c"), secretOf("b"))
	for i, name := range []string{"a", "b", "c"} {
		got, err := v.Verify(svixHeaders(t, "svix", secretOf(name), signedAt(), body), body, signedAt())
		require.NoError(t, err)
		require.Equal(t, i, got.Secret, "the first that matches")
	}
}

// While a secret is rotated the sender signs with the old one and the new one.
func TestVerifyFindsTheSignatureAmongOthers(t *testing.T) {
	good := svixHeaders(t, "svix", secretOf("a"), signedAt(), body).Get("svix-signature")
	other := svixHeaders(t, "svix", secretOf("other"), signedAt(), body).Get("svix-signature")
	tests := map[string]struct {
		header string
		reason string // empty: accepted
	}{
		"alone":                      {header: good},
		"after another":              {header: other + " " + good},
		"before another":             {header: good + " " + other},
		"among unknown versions":     {header: "v1a,AAAA v2," + good[3:] + " v0,x , v1 v1, " + good + " zzz,"},
		"after thousands of unknown": {header: strings.Repeat("v9,x ", 10_000) + good},
		"after as many as compared":  {header: strings.Repeat(other+" ", 63) + good},
		"several spaces":             {header: "  " + good + "  "},
		"only another":               {header: other, reason: tensorlake.ReasonNoMatchingSecret},
		"beyond what is compared": {
			header: strings.Repeat(other+" ", 64) + good, reason: tensorlake.ReasonNoMatchingSecret,
		},
		"another version's":   {header: "v2," + good[3:], reason: tensorlake.ReasonBadSignature},
		"version in capitals": {header: "V1," + good[3:], reason: tensorlake.ReasonBadSignature},
		"no version":          {header: good[3:], reason: tensorlake.ReasonBadSignature},
		"cut short":           {header: good[:len(good)-1], reason: tensorlake.ReasonBadSignature},
		"too long":            {header: good + "A", reason: tensorlake.ReasonBadSignature},
		"separated by commas": {header: good + "," + other, reason: tensorlake.ReasonBadSignature},
		"separated by tabs":   {header: other + "\t" + good, reason: tensorlake.ReasonBadSignature},
		"only spaces":         {header: "   ", reason: tensorlake.ReasonBadSignature},
	}
	v := newVerifier(t, secretOf("a"))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := svixHeaders(t, "svix", secretOf("a"), signedAt(), body)
			h.Set("svix-signature", tt.header)
			_, err := v.Verify(h, body, signedAt())
			requireReason(t, err, tt.reason)
		})
	}
}

// A public key verifies what its private key signs, as Standard Webhooks has it: the same string, another version.
func TestVerifyTakesWhatAPublicKeyVerifies(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	other, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	key := func(k ed25519.PublicKey) string { return "whpk_" + base64.StdEncoding.EncodeToString(k) }
	sign := func(content string) string {
		return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(content)))
	}
	h := svixHeaders(t, "svix", secretOf("a"), signedAt(), body)
	hmac, good := h.Get("svix-signature"), sign(messageID+"."+h.Get("svix-timestamp")+"."+string(body))
	bad := sign("something else")
	many := strings.Repeat(bad+" ", 4)
	otherVersion := strings.Replace(good, "v1a,", "v1,", 1)
	for name, tt := range map[string]struct {
		signature string
		secrets   []string
		reason    string
		matched   int
	}{
		"alone":                      {good, []string{key(public)}, "", 0},
		"beside a secret":            {good, []string{secretOf("a"), key(public)}, "", 1},
		"among other signatures":     {bad + " " + hmac + " v2,x " + good, []string{key(other), key(public)}, "", 1},
		"another key":                {good, []string{key(other)}, tensorlake.ReasonNoMatchingSecret, 0},
		"another content":            {bad, []string{key(public)}, tensorlake.ReasonNoMatchingSecret, 0},
		"as a secret's":              {otherVersion, []string{key(public)}, tensorlake.ReasonBadSignature, 0},
		"a secret's for a key":       {hmac, []string{key(public)}, tensorlake.ReasonNoMatchingSecret, 0},
		"cut off":                    {good[:40], []string{key(public)}, tensorlake.ReasonBadSignature, 0},
		"behind more than are tried": {many + good, []string{key(public)}, tensorlake.ReasonNoMatchingSecret, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h.Set("svix-signature", tt.signature)
			got, err := newVerifier(t, tt.secrets...).Verify(h, body, signedAt())
			requireReason(t, err, tt.reason)
			require.Equal(t, tt.matched, got.Secret)
		})
	}
	_, err = tensorlake.Sign(key(public), messageID, signedAt(), body)
	require.ErrorContains(t, err, "public key")
}

func TestVerifyRefusesWhatWasChanged(t *testing.T) {
	tests := map[string]func(h http.Header, body []byte) []byte{
		"body": func(_ http.Header, body []byte) []byte { return append(body, ' ') },
		"id": func(h http.Header, body []byte) []byte {
			h.Set("svix-id", messageID+"x")
			return body
		},
		"timestamp": func(h http.Header, body []byte) []byte {
			h.Set("svix-timestamp", strconv.FormatInt(signedAt().Unix()+1, 10))
			return body
		},
		"zero before the timestamp": func(h http.Header, body []byte) []byte {
			h.Set("svix-timestamp", "0"+h.Get("svix-timestamp"))
			return body
		},
		"last letter of the signature": func(h http.Header, body []byte) []byte {
			signature := []byte(h.Get("svix-signature"))
			signature[len(signature)-2] ^= 1 // changes bits that base64 may ignore, too
			h.Set("svix-signature", string(signature))
			return body
		},
	}
	v := newVerifier(t, secretOf("a"), secretOf("b"))
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			h := svixHeaders(t, "svix", secretOf("a"), signedAt(), body)
			_, err := v.Verify(h, body, signedAt())
			require.NoError(t, err, "before the change")
			_, err = v.Verify(h, change(h, append([]byte(nil), body...)), signedAt())
			requireReason(t, err, tensorlake.ReasonNoMatchingSecret)
		})
	}
}

func TestVerifyTolerance(t *testing.T) {
	v := newVerifier(t, secretOf("a"))
	tests := map[string]struct {
		off    time.Duration
		reason string
	}{
		"same second":      {off: 0},
		"at the limit":     {off: tolerance},
		"at the limit too": {off: -tolerance},
		"too old":          {off: tolerance + time.Nanosecond, reason: tensorlake.ReasonOutOfTolerance},
		"too new":          {off: -tolerance - time.Nanosecond, reason: tensorlake.ReasonOutOfTolerance},
		"a year old":       {off: 365 * 24 * time.Hour, reason: tensorlake.ReasonOutOfTolerance},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := svixHeaders(t, "svix", secretOf("a"), signedAt(), body)
			_, err := v.Verify(h, body, signedAt().Add(tt.off))
			requireReason(t, err, tt.reason)
		})
	}
}

func TestVerifyTimestampSyntax(t *testing.T) {
	v := newVerifier(t, secretOf("a"))
	for timestamp, reason := range map[string]string{
		"1773480413.5":           tensorlake.ReasonBadTimestamp,
		"+1773480413":            tensorlake.ReasonBadTimestamp,
		"-1773480413":            tensorlake.ReasonBadTimestamp,
		"\u00a01773480413":       tensorlake.ReasonBadTimestamp,
		"0x69b52b1d":             tensorlake.ReasonBadTimestamp,
		"1_773_480_413":          tensorlake.ReasonBadTimestamp,
		"1e9":                    tensorlake.ReasonBadTimestamp,
		"2026-03-14T09:26:53Z":   tensorlake.ReasonBadTimestamp,
		"١٢٣":                    tensorlake.ReasonBadTimestamp,
		"9223372036854775807":    tensorlake.ReasonBadTimestamp,
		"99999999999999999999":   tensorlake.ReasonBadTimestamp,
		strings.Repeat("1", 1e4): tensorlake.ReasonBadTimestamp,
		"\r\nlevel=ERROR":        tensorlake.ReasonBadTimestamp,
		"999999999999":           tensorlake.ReasonOutOfTolerance,
		"0":                      tensorlake.ReasonOutOfTolerance,
		"1773480413000":          tensorlake.ReasonBadTimestamp,
	} {
		t.Run(timestamp[:min(len(timestamp), 24)], func(t *testing.T) {
			h := svixHeaders(t, "svix", secretOf("a"), signedAt(), body)
			h["Svix-Timestamp"] = []string{timestamp}
			_, err := v.Verify(h, body, signedAt())
			requireReason(t, err, reason)
			require.Less(t, len(err.Error()), 400)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestVerifyMissingHeaders(t *testing.T) {
	v := newVerifier(t, secretOf("a"))
	whole := func(t *testing.T, family string) http.Header {
		t.Helper()
		return svixHeaders(t, family, secretOf("a"), signedAt(), body)
	}
	t.Run("none", func(t *testing.T) {
		_, err := v.Verify(http.Header{}, body, signedAt())
		requireReason(t, err, tensorlake.ReasonMissingHeader)
		require.ErrorContains(t, err, "svix-id, svix-timestamp and svix-signature")
	})
	for _, family := range []string{"svix", "webhook"} {
		for _, part := range []string{"-id", "-timestamp", "-signature"} {
			t.Run(family+part, func(t *testing.T) {
				h := whole(t, family)
				h.Del(family + part)
				_, err := v.Verify(h, body, signedAt())
				requireReason(t, err, tensorlake.ReasonMissingHeader)
				require.ErrorContains(t, err, family+part)
			})
		}
	}
	t.Run("one family is incomplete, the other is not", func(t *testing.T) {
		h := whole(t, "webhook")
		h.Set("svix-id", "msg_other")
		got, err := v.Verify(h, body, signedAt())
		require.NoError(t, err)
		require.Equal(t, messageID, got.ID)
	})
	t.Run("halves of two families are no whole", func(t *testing.T) {
		h := whole(t, "webhook")
		h.Set("svix-id", h.Get("webhook-id"))
		h.Del("webhook-id")
		_, err := v.Verify(h, body, signedAt())
		requireReason(t, err, tensorlake.ReasonMissingHeader)
	})
	t.Run("both families, as Svix sends them", func(t *testing.T) {
		h := whole(t, "webhook")
		maps.Copy(h, whole(t, "svix"))
		_, err := v.Verify(h, body, signedAt())
		require.NoError(t, err)
	})
}

func TestSignIsWhatSvixVerifies(t *testing.T) {
	for range 50 {
		secret := tensorlake.GenerateSecret()
		at := time.Now()
		h, err := tensorlake.Sign(secret, messageID, at, body)
		require.NoError(t, err)

		wh, err := svix.NewWebhook(secret)
		require.NoError(t, err)
		require.NoError(t, wh.Verify(body, h))

		got, err := newVerifier(t, secret).Verify(h, body, at)
		require.NoError(t, err)
		require.Equal(t, messageID, got.ID)
		require.Equal(t, at.Unix(), got.Timestamp.Unix())
	}
}

func TestSignRefusesWhatNobodyCouldVerify(t *testing.T) {
	tests := map[string]struct {
		secret, id string
		at         time.Time
		want       string
	}{
		"secret":          {"nonsense", messageID, signedAt(), "the webhook secret does not begin with whsec_ or whpk_"},
		"no id":           {secretOf("a"), "", signedAt(), `the webhook id "" must be`},
		"id with a break": {secretOf("a"), "a\r\nb", signedAt(), `the webhook id "a\r\nb" must be`},
		"before 1970":     {secretOf("a"), messageID, time.Unix(-1, 0), "cannot be a webhook's timestamp"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tensorlake.Sign(tt.secret, tt.id, tt.at, body)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// TestSecretsOfEveryLengthThatSvixTakes: its server takes 24 to 75 bytes, which its library signs with.
func TestSecretsOfEveryLengthThatSvixTakes(t *testing.T) {
	for length := 24; length <= 75; length++ {
		secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", length)))
		_, err := newVerifier(t, secret).Verify(svixHeaders(t, "svix", secret, signedAt(), body), body, signedAt())
		require.NoError(t, err, length)
	}
}

// TestThePlaceholderIsThatOfTheDocuments finds every whole secret that they show.
func TestThePlaceholderIsThatOfTheDocuments(t *testing.T) {
	found := 0
	for _, page := range []string{
		"../../README.md", "../../docs/deploy.md",
		"../../docs/examples/systemd/fnbridge.env", "../../docs/examples/compose/compose.yaml",
	} {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, secret := range regexp.MustCompile(`whsec_[A-Za-z0-9+/=]{20,}`).FindAllString(string(text), -1) {
			found++
			_, err := tensorlake.ParseSecret(secret)
			require.ErrorContains(t, err, "placeholder", page)
		}
	}
	require.Positive(t, found)
}

func TestNewVerifierNamesTheBadSecretButNotItsValue(t *testing.T) {
	short := "whsec_" + base64.StdEncoding.EncodeToString([]byte("hunter2hunter2"))
	tests := map[string]struct{ secret, want string }{
		"empty":         {"", "webhook secret 2 of 3 is empty"},
		"spaces":        {"  \n", "webhook secret 2 of 3 is empty"},
		"no prefix":     {"hunter2hunter2hunter2hunter2hunter2", "webhook secret 2 of 3 does not begin with whsec_ or whpk_"},
		"not base64":    {"whsec_hunter2!hunter2", "webhook secret 2 of 3 is not valid base64"},
		"no padding":    {"whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg", "webhook secret 2 of 3 is not valid base64"},
		"cut off":       {short, "webhook secret 2 of 3 holds 14 bytes"},
		"only a prefix": {"whsec_", "webhook secret 2 of 3 holds 0 bytes"},
		"too long": {
			"whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("hunter2", 11)[:76])),
			"webhook secret 2 of 3 holds 76 bytes",
		},
		"hex": {
			"whsec_" + hex.EncodeToString([]byte(strings.Repeat("hunter2", 4)[:24])), "webhook secret 2 of 3 is hex",
		},
		"HEX": {
			"whsec_" + strings.ToUpper(hex.EncodeToString([]byte(strings.Repeat("hunter2", 4)[:24]))),
			"webhook secret 2 of 3 is hex",
		},
		"public key cut off": {"whpk_aHVudGVyMg==", "webhook secret 2 of 3 holds 7 bytes"},
		"not a public key":   {"whpk_hunter2!", "webhook secret 2 of 3 is not valid base64"},
		"quotation marks":    {`"` + secretOf("b") + `"`, "webhook secret 2 of 3 begins with a quotation mark"},
		"byte order mark":    {"\ufeff" + secretOf("b"), "webhook secret 2 of 3 begins with a byte order mark"},
		"placeholder": {
			" whsec_UmVwbGFjZSBtZSBieSB0aGUgcmVhbCBzZWNyZXQu",
			"webhook secret 2 of 3 is the placeholder of fnbridge's documents",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tensorlake.NewVerifier([]string{secretOf("a"), tt.secret, secretOf("c")}, tolerance)
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), "hunter2")
			require.NotContains(t, err.Error(), "aHVudGVy")
		})
	}
	_, err := tensorlake.NewVerifier(nil, tolerance)
	require.Error(t, err)
	_, err = tensorlake.NewVerifier([]string{secretOf("a")}, 0)
	require.ErrorContains(t, err, "tolerance")
}

func TestParseSecretHidesItsValue(t *testing.T) {
	s, err := tensorlake.ParseSecret(" " + secretOf("a") + "\n")
	require.NoError(t, err, "a file with a secret ends with a line break")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed := fmt.Sprintf(format, s)
		require.NotContains(t, printed, "a---", format)
		require.NotContains(t, printed, "612d2d", format)
		require.NotContains(t, printed, "97 45", format)
		require.NotContains(t, printed, secretOf("a")[6:], format)
	}
}

func TestGenerateSecret(t *testing.T) {
	a, b := tensorlake.GenerateSecret(), tensorlake.GenerateSecret()
	require.NotEqual(t, a, b)
	require.Len(t, a, len("whsec_")+32)
	_, err := tensorlake.ParseSecret(a)
	require.NoError(t, err)
}

// requireReason wants err to be nil if reason is empty, and else a SignatureError with that reason and a text.
func requireReason(tb testing.TB, err error, reason string) {
	tb.Helper()
	if reason == "" {
		require.NoError(tb, err)
		return
	}
	var signatureErr *tensorlake.SignatureError
	require.ErrorAs(tb, err, &signatureErr)
	require.Equal(tb, reason, signatureErr.Reason)
	require.NotEmpty(tb, signatureErr.Detail)
}

func FuzzVerify(f *testing.F) {
	good := svixHeaders(f, "svix", secretOf("a"), signedAt(), body)
	f.Add(messageID, good.Get("svix-timestamp"), good.Get("svix-signature"), body, false)
	f.Add(messageID, good.Get("svix-timestamp"), "v1, v1,"+strings.Repeat("A", 44), body, true)
	f.Add("", "", "", []byte{}, false)
	f.Add("a.1773480413", "2", "v1,", []byte("2.{}"), true)
	v := newVerifier(f, secretOf("a"), secretOf("b"))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte, standard bool) {
		family := "svix"
		if standard {
			family = "webhook"
		}
		h := http.Header{}
		h.Set(family+"-id", id)
		h.Set(family+"-timestamp", timestamp)
		h.Set(family+"-signature", signature)
		got, err := v.Verify(h, body, signedAt())
		if err != nil {
			var signatureErr *tensorlake.SignatureError
			require.ErrorAs(t, err, &signatureErr)
			require.Less(t, len(err.Error()), 1000)
			for _, r := range err.Error() {
				require.True(t, strconv.IsPrint(r), "%q", err.Error())
			}
		} else {
			require.Equal(t, id, got.ID)
			require.LessOrEqual(t, got.Timestamp.Sub(signedAt()).Abs(), tolerance)
			require.Contains(t, signature, "v1,")
		}
		// Whatever the sender put there, a signature of ours beside it is found if it is among the first.
		signed, err := tensorlake.Sign(secretOf("b"), messageID, signedAt(), body)
		require.NoError(t, err)
		if strings.Count(signature, signatureVersion) < 60 {
			signed.Set("svix-signature", signature+" "+signed.Get("svix-signature"))
		}
		got, err = v.Verify(signed, body, signedAt())
		require.NoError(t, err)
		require.Equal(t, messageID, got.ID)
	})
}

const signatureVersion = "v1,"

func BenchmarkVerify(b *testing.B) {
	v := newVerifier(b, secretOf("a"), secretOf("b"))
	h := svixHeaders(b, "svix", secretOf("b"), signedAt(), body)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(h, body, signedAt()); err != nil {
			b.Fatal(err)
		}
	}
}
