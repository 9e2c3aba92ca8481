package catalogue_test

import (
	"bytes"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge/cloudevents"
	"github.com/fnbridge/fnbridge/bridge/tensorlake"
)

func TestEventsFollowTheirSchemas(t *testing.T) {
	validates := validators(t)
	for _, p := range goldenPayloads(t) {
		for i, e := range p.events(t) {
			k := kindOf(t, &e)
			_, event, err := cloudevents.Structured.Encode(e, "")
			require.NoError(t, err)
			what := fmt.Sprintf("event %d of %s", i, p.name)
			require.NoError(t, validates("headers/nats", jsonOf(t, headersOf(t, e, cloudevents.NATSPrefix))), what)
			require.NoError(t, validates("headers/kafka", jsonOf(t, headersOf(t, e, cloudevents.KafkaPrefix))), what)
			require.NoError(t, validates("events/"+k.name, event), what)
			require.NoError(t, validates(k.data, e.Data), what)

			s := k.event(t)
			for _, attribute := range s.Properties {
				name := attribute.name
				require.Error(t, validates("events/"+k.name, spoiled(t, event, 1, name)), "%s: %s is a number", what, name)
				err := validates("events/"+k.name, spoiled(t, event, absent{}, name))
				require.Equal(t, slices.Contains(s.Required, name), err != nil, "%s: %s is missing", what, name)
			}
			for path := range required(schemas(t)[k.data]) {
				path = append([]string{"data"}, path...)
				require.Error(t, validates("events/"+k.name, spoiled(t, event, absent{}, path...)), "%s: %s is missing", what, path)
			}
			require.NoError(t, validates("events/"+k.name, spoiled(t, event, "more", "extension")), what)
		}
	}
}

// What the schema of a shape takes is what fnbridge takes for that shape, whatever is done to a field.
func TestPayloadSchemasSayWhatIsRecognized(t *testing.T) {
	validates := validators(t)
	for _, p := range goldenPayloads(t) {
		shape := p.parse(t).Shape()
		if shape == tensorlake.ShapeUnrecognized {
			for s := shape + 1; s.String() != shape.String(); s++ { // every other one
				// That a key is there twice is nothing that a schema sees.
				if !strings.Contains(p.parse(t).Reason(), "appears twice") {
					require.Error(t, validates("payloads/"+s.String(), p.body), p.name)
				}
			}
			continue
		}
		name := "payloads/" + shape.String()
		require.NoError(t, validates(name, p.body), p.name)
		require.NoError(t, validates(name, spoiled(t, p.body, "of Tensorlake", "a_new_field")), p.name)
		for _, field := range schemas(t)[name].Properties {
			for _, value := range values() {
				changed := goldenPayload{p.name, spoiled(t, p.body, value, field.name)}
				err := validates(name, changed.body)
				require.Equal(t, changed.parse(t).Shape() == shape, err == nil, "%s: %s is %v: %v", p.name, field.name, value, err)
			}
		}
	}
}

// What the schema of a kind of envelopes takes is what gets the kind's address, whatever is done to its names.
func TestPayloadSchemasSayWhatIsAddressed(t *testing.T) {
	validates := validators(t)
	for _, p := range goldenPayloads(t) {
		if p.parse(t).Shape() != tensorlake.ShapeEnvelope {
			continue
		}
		k := kindOf(t, &p.events(t)[0])
		require.NoError(t, validates(k.data, p.body), p.name)
		for path := range required(schemas(t)[k.data]) {
			for _, value := range values() {
				changed := goldenPayload{p.name, spoiled(t, p.body, value, path...)}
				err := validates(k.data, changed.body)
				is := kindOf(t, &changed.events(t)[0])
				require.Equal(t, is.data == k.data, err == nil, "%s: %v is %v: %v", p.name, path, value, err)
			}
		}
	}
}

// values are of every type, and none.
func values() []any {
	return []any{nil, true, 1, "", "7", []any{}, map[string]any{}, absent{}}
}

// required yields the path of each field that a schema insists on.
func required(s *schema) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for _, name := range s.Required {
			if !yield([]string{name}) {
				return
			}
			for path := range required(s.property(name)) {
				if !yield(append([]string{name}, path...)) {
					return
				}
			}
		}
	}
}

// validators returns a function that holds JSON against one of the schemas in docs/schemas.
func validators(t *testing.T) func(name string, text []byte) error {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	return func(name string, text []byte) error {
		t.Helper()
		s, err := compiler.Compile(filepath.Join(schemasDir, name+".json"))
		require.NoError(t, err)
		return s.Validate(decode(t, text))
	}
}

// decode reads an object with its numbers as they are written.
func decode(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	return v
}

// absent, as a value, is none.
type absent struct{}

// spoiled returns the object with another value at a path, or none.
func spoiled(t *testing.T, text []byte, value any, path ...string) []byte {
	t.Helper()
	root := decode(t, text)
	in := root.(map[string]any) //nolint:forcetypeassert // what is spoiled is an object
	last := len(path) - 1
	for _, name := range path[:last] {
		in = in[name].(map[string]any) //nolint:forcetypeassert // and so is what leads there
	}
	in[path[last]] = value
	if value == (absent{}) {
		delete(in, path[last])
	}
	return jsonOf(t, root)
}

func jsonOf(t *testing.T, v any) []byte {
	t.Helper()
	text, err := marshal(v)
	require.NoError(t, err)
	return text
}
