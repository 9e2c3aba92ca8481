package kafka

import (
	"log/slog"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// A request can take the generation just before it is retired, and use it after.
func TestRetiredGenerationLeavesNothing(t *testing.T) {
	c := seeded(t, 1)
	o := testOptions(t, c.ListenAddrs())
	log := slog.New(slog.DiscardHandler)
	checked, err := o.check(log)
	require.NoError(t, err)
	connector := newConnector(&o, checked, log)
	before := goleak.IgnoreCurrent()

	g, err := connector.open(t.Context(), c.ListenAddrs())
	require.NoError(t, err)
	g.retire()
	_, err = g.client.Metadata(t.Context(), &kafkago.MetadataRequest{Topics: []string{testTopic}})
	require.NoError(t, err, "it still serves")
	connector.close()
	serversOwn := goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*clientConn).read")
	require.NoError(t, goleak.Find(before, serversOwn))
}
