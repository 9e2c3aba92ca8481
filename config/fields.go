package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/config/setting"
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
	required     string // what to give, when it has to be given
	first        bool   // one of those to know first
	reload       bool   // its file is read again when it changes
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
			options:      setting.List(sf.Tag.Get("options")),
			required:     sf.Tag.Get("required"),
			first:        sf.Tag.Get("first") == "true",
			reload:       sf.Tag.Get("reload") == "true",
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
	holdsWord      = "word"
	holdsBool      = "boolean"
	holdsNumber    = "number"
	holdsDuration  = "duration"
	holdsSize      = "size"
	holdsAddress   = "address"
	holdsSecret    = "secret"
	holdsSecrets   = "secrets"
	holdsSinks     = "sinks"
	holdsFile      = "file"
	holdsKey       = "secret file" // a private key, or credentials
	holdsPath      = "path"
	holdsURLs      = "URLs" // of a sink's servers
	holdsDirectory = "directory"
)

func wordFor(f field) string {
	if len(f.options) > 0 {
		return holdsWord
	}
	switch f.typ {
	case reflect.TypeFor[setting.Bytes]():
		return holdsSize
	case reflect.TypeFor[setting.Secret]():
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

// secretIn tells whether text, a value that is right, holds what others must not read.
func (f field) secretIn(text string) bool {
	return f.secret() || f.holds == holdsURLs && strings.Contains(text, "@") // before it stands how to log in
}

// meaning says in a table what the value is for.
func (f field) meaning() string {
	desc := f.desc
	if f.reload {
		desc = strings.TrimSuffix(desc, ".") + ". Its file may change."
	}
	if f.required != "" {
		desc = strings.TrimSuffix(desc, ".") + "; required."
	}
	return desc
}

// typeWord says in a table what the value is: the words that are allowed, when only some are.
func (f field) typeWord() string {
	if f.holds == holdsWord {
		return orList(f.options)
	}
	return f.holds
}

// kinds are the kinds of sinks that there are. The first is that of the sink that there is by default.
type kinds []setting.Kind

// bridgeFields returns the variables of the bridge itself. Which sinks there can be follows from the kinds.
func (k kinds) bridgeFields() []field {
	fields := fieldsOf(reflect.TypeFor[Config]())
	names := strings.NewReplacer("[kind]", k[0].Name, "[kinds]", list(k.names(), "and"))
	for i := range fields {
		if f := &fields[i]; f.holds == holdsSinks {
			f.defaultValue, f.desc = names.Replace(f.defaultValue), names.Replace(f.desc)
		}
	}
	return fields
}

// sinkFields returns the variables that a sink of this kind has: those of every sink, then its kind's.
func (k kinds) sinkFields(kind string) []field { return append(everySinkFields(), k.fields(kind)...) }

func everySinkFields() []field { return fieldsOf(reflect.TypeFor[Sink]()) }

// fields returns the variables that only sinks of this kind have.
func (k kinds) fields(kind string) []field {
	if at := k.index(kind); at >= 0 {
		return fieldsOf(reflect.TypeOf(k[at].New()).Elem())
	}
	return nil
}

func (k kinds) index(name string) int {
	return slices.IndexFunc(k, func(kind setting.Kind) bool { return kind.Name == name })
}

func (k kinds) has(name string) bool { return k.index(name) >= 0 }

func (k kinds) names() []string {
	names := make([]string, len(k))
	for i, kind := range k {
		names[i] = kind.Name
	}
	return names
}

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
