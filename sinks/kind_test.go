package sinks_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/config/setting"
	"github.com/fnbridge/fnbridge/sinks"
	"github.com/fnbridge/fnbridge/sinks/kafka"
	"github.com/fnbridge/fnbridge/sinks/nats"
	"github.com/fnbridge/fnbridge/sinks/sinktest"
	"github.com/fnbridge/fnbridge/sinks/sinktest/memory"
)

// kinds are a registry with a kind more. Beside its folder, its line here is all that there is of it.
func kinds() []setting.Kind {
	return []setting.Kind{
		sinks.Kind[nats.Settings]("nats", "NATS"),
		sinks.Kind[kafka.Settings]("kafka", "Kafka"),
		sinks.Kind[memory.Settings]("memory", "Memory"),
	}
}

// load reads the configuration of a bridge with these variables and no others, their names without the prefix.
func load(t *testing.T, variables map[string]string) (*config.Config, []config.Warning, error) {
	t.Helper()
	var environ []string
	for name, value := range variables {
		environ = append(environ, "FNBRIDGE_"+name+"="+value)
	}
	return config.Load(kinds(), environ)
}

func optionsOf(t *testing.T, place string) sinks.Options {
	t.Helper()
	c, warnings, err := load(t, map[string]string{
		"SINKS": "attic=memory", "ATTIC_PLACE": place, "ATTIC_MAX_EVENT": "128KiB",
	})
	require.NoError(t, err)
	require.Empty(t, warnings)
	s := c.Sinks[0]
	require.Equal(t, &memory.Settings{Place: place, MaxEvent: 128 << 10}, s.Settings)
	return sinks.Options{Settings: s.Settings, SinkOptions: bridge.SinkOptions{Name: s.Name, Format: s.Format}}
}

func TestAKindIsDocumented(t *testing.T) {
	var page, text bytes.Buffer
	require.NoError(t, config.WriteMarkdown(&page, kinds()))
	require.Contains(t, page.String(), "with the kinds nats, kafka and memory; nats alone is short for nats=nats.")
	require.Contains(t, page.String(), `
**Memory sinks.** Sinks of the kind memory, here with the name memory.

| Variable | Type | Default | Meaning |
|---|---|---|---|
| `+"`FNBRIDGE_MEMORY_PLACE`"+` | text |  | Place that keeps the events; required. |
| `+"`FNBRIDGE_MEMORY_MAX_EVENT` | size | `1MiB`"+` | Largest event that the place keeps, at least 1KiB. |
`)
	require.NoError(t, config.WriteText(&text, kinds(), 100))
	require.Regexp(t, `\nMemory sinks\n(?s:.*)\n  FNBRIDGE_MEMORY_MAX_EVENT +size +1MiB\n`, text.String())
}

func TestAKindsSettingsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		variables     map[string]string
		problem, warn string
	}{
		"what it lacks": {
			map[string]string{"SINKS": "memory"}, "FNBRIDGE_MEMORY_PLACE: is not set: give any name, such as attic", "",
		},
		"a value": {
			map[string]string{"SINKS": "memory", "MEMORY_PLACE": "a", "MEMORY_MAX_EVENT": "1"},
			`FNBRIDGE_MEMORY_MAX_EVENT: "1" is not a size of at least 1KiB: give bytes`, "",
		},
		"two beside each other": {
			map[string]string{"SINKS": "a=memory,nats,b=memory", "A_PLACE": "attic", "B_PLACE": "attic"},
			"FNBRIDGE_B_PLACE: the sink a keeps its events in attic: give each sink a place of its own", "",
		},
		"its name": {
			map[string]string{"SINKS": "audit=memmory"},
			`FNBRIDGE_SINKS: "audit=memmory": "memmory" is not a kind of sink: give audit=nats, audit=kafka or audit=memory`, "",
		},
		"a variable of a sink that is not there": {
			map[string]string{"SINKS": "nats", "MEMORY_PLACE": "attic"},
			"",
			"FNBRIDGE_MEMORY_PLACE: has no effect: there is no sink memory in FNBRIDGE_SINKS (nats); add memory if you want one",
		},
		"a variable that another kind has not": {
			map[string]string{"NATS_PLACE": "attic"},
			"",
			"FNBRIDGE_NATS_PLACE: has no effect: the sink nats is of the kind nats, and only memory sinks have PLACE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := load(t, c.variables)
			if c.warn != "" {
				require.NoError(t, err)
				require.Len(t, warnings, 1)
				require.Equal(t, c.warn, warnings[0].String())
				return
			}
			var problems config.Errors
			require.ErrorAs(t, err, &problems)
			require.Len(t, problems, 1)
			require.ErrorContains(t, problems, c.problem)
		})
	}
}

func TestAKindConforms(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Broker {
		o := optionsOf(t, t.Name())
		return sinktest.Broker{
			NewSink: func(t *testing.T) bridge.Sink {
				sink, err := sinks.New(o)
				require.NoError(t, err)
				return sink
			},
			Stored: func(t *testing.T) []sinktest.Record {
				var records []sinktest.Record
				for _, r := range memory.Stored(t.Name()) {
					records = append(records, sinktest.Record{Event: r.Event})
				}
				return records
			},
			TooLarge: 200_000,
		}
	})
}

func TestAKindIsRead(t *testing.T) {
	o := optionsOf(t, t.Name())
	sink, err := sinks.New(o)
	require.NoError(t, err)
	events := sinktest.Events("read", 2, 1)
	for _, err := range sink.Publish(t.Context(), events) {
		require.NoError(t, err)
	}
	require.NoError(t, sink.Close(t.Context()))
	var read []string
	enough := errors.New("enough")
	err = sinks.Tail(context.Background(), o, bridge.TailStart{All: true}, func(r bridge.Received) error {
		if read = append(read, r.Event.ID); len(read) == len(events) {
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
	require.Equal(t, []string{events[0].ID, events[1].ID}, read)
}
