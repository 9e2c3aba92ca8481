package config

import (
	"reflect"
	"strings"
)

// prefix starts the name of every variable; with fileSuffix after it, a variable names a file with the value.
const (
	prefix     = "FNBRIDGE_"
	fileSuffix = "_FILE"
)

// field is one variable: a struct field with an envconfig tag.
type field struct {
	index        int
	name         string // without prefix
	typ          reflect.Type
	holds        string // what the value is: the type tag, or the type's own word
	defaultValue string
	desc         string
	min, max     string
	options      []string
}

// fieldsOf returns the variables of a configuration struct, in the order of its fields.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name, ok := sf.Tag.Lookup("envconfig")
		if !ok {
			continue
		}
		f := field{
			index:        i,
			name:         name,
			typ:          sf.Type,
			holds:        sf.Tag.Get("type"),
			defaultValue: sf.Tag.Get("default"),
			desc:         sf.Tag.Get("desc"),
			min:          sf.Tag.Get("min"),
			max:          sf.Tag.Get("max"),
			options:      splitList(sf.Tag.Get("options")),
		}
		if f.holds == "" {
			f.holds = wordFor(f)
		}
		fields = append(fields, f)
	}
	return fields
}

// What values are, as the tables say it.
const (
	holdsText      = "text"
	holdsTemplate  = "template"
	holdsWord      = "word"
	holdsBool      = "boolean"
	holdsNumber    = "number"
	holdsDuration  = "duration"
	holdsSize      = "size"
	holdsAddress   = "address"
	holdsAddresses = "addresses"
	holdsURLs      = "URLs"
	holdsSecret    = "secret"
	holdsSecrets   = "secrets"
	holdsSinks     = "sinks"
	holdsFile      = "file"
	holdsDirectory = "directory"
	holdsStream    = "stream"
	holdsSubject   = "subject"
	holdsTopic     = "topic"
)

func wordFor(f field) string {
	if len(f.options) > 0 {
		return holdsWord
	}
	switch f.typ {
	case reflect.TypeFor[Bytes]():
		return holdsSize
	case reflect.TypeFor[Addresses]():
		return holdsAddresses
	case reflect.TypeFor[URLs]():
		return holdsURLs
	case reflect.TypeFor[Secret]():
		return holdsSecret
	case reflect.TypeFor[Secrets]():
		return holdsSecrets
	case reflect.TypeFor[Sinks]():
		return holdsSinks
	}
	switch f.typ.Kind() {
	case reflect.Bool:
		return holdsBool
	case reflect.Int:
		return holdsNumber
	case reflect.Int64:
		return holdsDuration
	default:
		return holdsText
	}
}

// secret tells whether the value is never to be shown.
func (f field) secret() bool { return f.holds == holdsSecret || f.holds == holdsSecrets }

// typeWord says in a table what the value is: the words that are allowed, when only some are.
func (f field) typeWord() string {
	switch f.holds {
	case holdsWord:
		return orList(f.options)
	case holdsStream, holdsTopic:
		return "name"
	case holdsSubject:
		return holdsTemplate
	default:
		return f.holds
	}
}

func bridgeFields() []field { return fieldsOf(reflect.TypeFor[Config]()) }

// sinkFields returns the variables that a sink of this kind has: those of every sink, then its kind's.
func sinkFields(kind string) []field { return append(everySinkFields(), kindFields(kind)...) }

func everySinkFields() []field { return fieldsOf(reflect.TypeFor[Sink]()) }

func kindFields(kind string) []field {
	switch kind {
	case KindNATS:
		return fieldsOf(reflect.TypeFor[NATS]())
	case KindKafka:
		return fieldsOf(reflect.TypeFor[Kafka]())
	default:
		return nil
	}
}

// kinds returns every kind of sink.
func kinds() []string { return []string{KindNATS, KindKafka} }

// prefixOf returns what the names of a sink's variables start with; an empty sink means the bridge itself.
func prefixOf(sink string) string {
	if sink == "" {
		return prefix
	}
	return prefix + strings.ToUpper(sink) + "_"
}

// namesOf returns the full names of variables, and of those that name a file instead.
func namesOf(start string, fields []field) []string {
	names := make([]string, 0, 2*len(fields))
	for _, f := range fields {
		names = append(names, start+f.name, start+f.name+fileSuffix)
	}
	return names
}
