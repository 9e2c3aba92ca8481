package nats

import (
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/cloudevents"
)

// Nothing of a message that has been acknowledged may be in one that uses its memory.
func TestHeadersUsedAgainHoldNothingOfTheMessageBefore(t *testing.T) {
	full := []cloudevents.Header{{Name: "ce-id", Value: "1"}, {Name: "ce-subject", Value: "s"}, {Name: "ce-time", Value: "t"}}
	var s spare
	for _, next := range [][]cloudevents.Header{
		{{Name: "ce-id", Value: "2"}, {Name: "ce-subject", Value: "u"}, {Name: "ce-time", Value: "v"}},
		{{Name: "ce-id", Value: "3"}, {Name: "ce-subject", Value: "w"}},
		{{Name: "ce-id", Value: "4"}, {Name: "ce-subject", Value: "x"}, {Name: "content-type", Value: "y"}},
		{{Name: "ce-id", Value: "5"}, {Name: "ce-subject", Value: "z"}, {Name: "ce-time", Value: "t"}, {Name: "content-type", Value: "y"}},
	} {
		s.headers = append(s.headers, s.header(full))
		got := s.header(next)
		want := natsgo.Header{}
		for _, h := range next {
			want[h.Name] = []string{h.Value}
		}
		require.Equal(t, want, got)
	}
}
