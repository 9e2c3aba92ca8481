package cloudevents_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

func TestDeadLetter(t *testing.T) {
	l := bridge.DeadLetter{Event: sample(), Reason: "stream T: it is 漢 too\r\nlarge", Attempts: 12}
	for _, f := range []cloudevents.Format{cloudevents.Binary, cloudevents.Structured, cloudevents.Plain} {
		headers, body, err := f.EncodeDeadLetter(l, cloudevents.NATSPrefix, "tensorlake.é", true)
		require.NoError(t, err)
		require.Equal(t, []cloudevents.Header{
			{Name: "fnbridge-reason", Value: `stream T: it is \u6f22 too  large`},
			{Name: "fnbridge-attempts", Value: "12"},
			{Name: "fnbridge-address", Value: "tensorlake.%C3%A9"},
		}, headers[len(headers)-3:])
		e, err := cloudevents.Decode(headers, cloudevents.NATSPrefix, body)
		require.NoError(t, err)
		require.Equal(t, sample(), e)

		headers, body, err = f.EncodeDeadLetter(l, cloudevents.NATSPrefix, "tensorlake.é", false)
		require.NoError(t, err)
		require.Equal(t, cloudevents.Header{Name: "fnbridge-data", Value: "omitted"}, headers[len(headers)-1])
		e, err = cloudevents.Decode(headers, cloudevents.NATSPrefix, body)
		require.NoError(t, err)
		require.Empty(t, e.Data)
		require.Equal(t, sample().ID, e.ID)
	}
	_, _, err := cloudevents.Binary.EncodeDeadLetter(bridge.DeadLetter{}, cloudevents.NATSPrefix, "a", true)
	require.ErrorContains(t, err, "no id")
}

func TestReasonOfADeadLetter(t *testing.T) {
	for reason, want := range map[string]string{
		"":                         "",
		" \t\r\n":                  "",
		"a: b, \"c\"":              "a: b, \"c\"",
		"a\r\nce-id: forged":       "a  ce-id: forged",
		"it's":                     "it's",
		"\x1b[31m\x00\x7f":         `\x1b[31m\x00\x7f`,
		"\u2028x\u0085":            "x",
		"\xff\u202e\U0001F680":     `\ufffd\u202e\U0001f680`,
		`back\slash`:               `back\slash`,
		strings.Repeat("x", 1024):  strings.Repeat("x", 1024),
		strings.Repeat("x", 1025):  strings.Repeat("x", 1021) + "...",
		strings.Repeat("漢", 1<<20): strings.Repeat(`\u6f22`, 170) + `...`,
	} {
		headers, _, err := cloudevents.Binary.EncodeDeadLetter(bridge.DeadLetter{Event: sample(), Reason: reason},
			cloudevents.KafkaPrefix, "t", true)
		require.NoError(t, err)
		got := headers[len(headers)-3].Value
		require.LessOrEqual(t, len(got), 1024)
		require.Equal(t, want, got)
	}
}
