package nats_test

import (
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"
)

func TestTailShowsWhatAStreamStoresUnderOtherSubjects(t *testing.T) {
	tests := map[string]struct {
		source, destination string
		want                string // where the first event is
	}{
		"all":                  {">", "stored.>", "stored.tensorlake.workflow.moved.fn_0.success"},
		"all without a source": {"", "stored.>", "stored.tensorlake.workflow.moved.fn_0.success"},
		"the events":           {"tensorlake.>", "t.>", "t.workflow.moved.fn_0.success"},
		"some":                 {"tensorlake.workflow.*.fn_0.>", "fn_0.{{wildcard(1)}}.>", "fn_0.moved.success"},
		"some, old style":      {"tensorlake.workflow.*.fn_0.*", "fn_0.$2.$1", "fn_0.success.moved"},
		"some, below":          {"tensorlake.workflow.*.fn_0.*", "tensorlake.$2.$1", "tensorlake.success.moved"},
		"partitions":           {"tensorlake.workflow.*.*.*", "p.{{partition(1,1)}}.$1.$2.$3", "p.0.moved.fn_0.success"},
		"pieces": {
			"tensorlake.workflow.*.*.*", "{{splitfromleft(1,2)}}.$2.$3", "mo.ved.fn_0.success",
		},
		"other subjects": {"other.>", "o.>", "tensorlake.workflow.moved.fn_0.success"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			srv := natsserver.Single(t)
			js := natsserver.JetStream(t, natsserver.Connect(t, srv.URL()))
			createStream(t, js, natsjs.StreamConfig{
				Name: "TENSORLAKE", Subjects: []string{"tensorlake.>", "other.>", deadLetters},
				SubjectTransform: &natsjs.SubjectTransformConfig{Source: tt.source, Destination: tt.destination},
			})
			o := options(t, srv.URL())
			o.DeadLetter = deadLetters
			sink := open(t, o)
			requireBuries(t, sink, letter("dead", 1))
			events := sinktest.Events("moved", 2, 1)
			publish(t, sink, events)
			r := startTail(t, o, bridge.TailStart{All: true})
			for {
				first := r.next(t)
				if tt.destination[0] == '{' && first.Address == deadLetters {
					continue // whatever it may be made of is read
				}
				require.Equal(t, tt.want, first.Address)
				require.Equal(t, events[0].ID, first.Event.ID)
				break
			}
			r.requireIDs(t, events[1:])
		})
	}
}
