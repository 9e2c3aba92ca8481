package catalogue_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"time"
)

const dialect = "https://json-schema.org/draft/2020-12/schema"

// schema is a JSON Schema, in the keywords that this dialect and AsyncAPI's own share.
type schema struct {
	Dialect     string   `json:"$schema,omitempty"`
	Comment     string   `json:"$comment,omitempty"`
	Ref         string   `json:"$ref,omitempty"`
	Title       string   `json:"title,omitempty"`
	Description string   `json:"description,omitempty"`
	Type        any      `json:"type,omitempty"` // a word or several
	Const       string   `json:"const,omitempty"`
	Format      string   `json:"format,omitempty"`
	Pattern     string   `json:"pattern,omitempty"`
	MinLength   int      `json:"minLength,omitempty"`
	Examples    []any    `json:"examples,omitempty"`
	Required    []string `json:"required,omitempty"`
	Properties  object   `json:"properties,omitempty"`
	Values      *schema  `json:"additionalProperties,omitempty"`
}

// schemaOf describes JSON by the Go type that it could be read into, with the tags of shapes_test.go.
func schemaOf(t reflect.Type) *schema {
	if t == reflect.TypeFor[time.Time]() {
		return &schema{Type: "string", Format: "date-time"}
	}
	switch t.Kind() {
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Int:
		return &schema{Type: "integer"}
	case reflect.Float64:
		return &schema{Type: "number"}
	case reflect.Interface:
		return &schema{}
	case reflect.Pointer:
		s := schemaOf(t.Elem())
		s.Type = []any{s.Type, "null"}
		return s
	case reflect.Map:
		return &schema{Type: "object", Values: schemaOf(t.Elem())}
	case reflect.Struct:
		s := &schema{Type: "object"}
		for field := range t.Fields() {
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			s.add(name, fieldSchema(field), options == "")
		}
		return s
	default:
		panic("no schema for " + t.String())
	}
}

func fieldSchema(field reflect.StructField) *schema {
	s := schemaOf(field.Type)
	s.Description = field.Tag.Get("desc")
	s.Pattern = field.Tag.Get("pattern")
	s.MinLength, _ = strconv.Atoi(field.Tag.Get("min"))
	if types := field.Tag.Get("type"); types != "" {
		s.Type = strings.Fields(types)
	}
	described := s
	if s.Values != nil {
		described = s.Values
	}
	described.Examples = toAny(strings.Fields(field.Tag.Get("words")))
	return s
}

func (s *schema) add(name string, property *schema, required bool) {
	s.Properties = append(s.Properties, member{name, property})
	if required {
		s.Required = append(s.Required, name)
	}
}

func (s *schema) property(name string) *schema {
	for _, m := range s.Properties {
		if m.name == name {
			return m.value.(*schema) //nolint:forcetypeassert // properties are schemas
		}
	}
	return nil
}

func toAny(words []string) (values []any) {
	for _, word := range words {
		values = append(values, word)
	}
	return values
}

// object is a JSON object whose members keep their order.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := marshal(m.name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(m.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is json.Marshal for people's eyes: < stays <.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}
