package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/fnbridge/fnbridge/bridge/ownfile"
	"github.com/fnbridge/fnbridge/config/setting"
)

// maxFileBytes bounds a file that holds the value of a variable.
const maxFileBytes = 1 << 20

// Load reads the configuration from an environment, in the form of os.Environ. The error, when there is one, is Errors
// with everything that is wrong; the Config then holds what is right, and defaults where a value could not be read.
//
// Any variable X can be given as X_FILE, the path of a file whose content is the value; one line break at its
// end is not part of it. A variable that is set to nothing counts as not set.
func Load(kinds []setting.Kind, environ []string) (*Config, []Warning, error) {
	l := &loader{
		kinds: kinds, variables: map[string]string{},
		config: &Config{given: map[string]string{}, files: map[string]file{}},
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		l.variables[name] = value
	}
	c := l.config
	l.fill(prefix, l.kinds.bridgeFields(), c)
	for i := range c.Sinks {
		s := &c.Sinks[i]
		s.Settings = l.kinds[l.kinds.index(s.Kind)].New()
		l.fill(prefixOf(s.Name), everySinkFields(), s)
		l.fill(prefixOf(s.Name), l.kinds.fields(s.Kind), s.Settings)
		if settings, ok := s.Settings.(setting.Embeddable); ok {
			s.Embedded = settings.Embedded(l.scope(s.Name))
		}
	}
	l.checkTogether()
	l.warnOfUnknown(environ)
	return c, l.warnings, l.errs.Err()
}

// loader gathers what Load finds.
type loader struct {
	kinds     kinds
	variables map[string]string // of the environment
	config    *Config
	errs      Errors
	warnings  []Warning
}

func (l *loader) problem(variable, format string, args ...any) {
	l.errs = append(l.errs, Problem{Variable: variable, Message: fmt.Sprintf(format, args...)})
}

// fill reads variables into the configuration struct that into points to.
func (l *loader) fill(namePrefix string, fields []field, into any) {
	v := reflect.ValueOf(into).Elem()
	for _, f := range fields {
		l.read(namePrefix+f.name, f, v.Field(f.index))
	}
}

// read reads one variable, or its file. What was not given, or could not be read at all, gets its default.
func (l *loader) read(name string, f field, into reflect.Value) {
	if !l.readGiven(name, f, into) && into.IsZero() && f.defaultValue != "" {
		// Not by way of the variable: envconfig would take an empty one for a value, but deployments often pass on
		// what they do not have.
		if err := l.decode(f.defaultValue, into); err != nil {
			panic(fmt.Sprintf("config: the default of %s: %v", name, err)) // the tests have tried it
		}
	}
}

// readGiven tells whether it found a value that is right.
func (l *loader) readGiven(name string, f field, into reflect.Value) bool {
	text, path := l.variables[name], l.variables[name+fileSuffix]
	switch {
	case text == "" && path == "":
		if f.required != "" {
			l.problem(name, "is not set: give %s", f.required)
		}
		return false
	case path == "":
		l.config.given[name] = name
		ok := l.take(name, "", text, f, into)
		if f.holds == holdsKey {
			l.warnOfReaders(name, text)
		}
		return ok
	case text != "":
		l.config.given[name] = name
		l.problem(name, "%s is set as well: keep one of the two", name+fileSuffix)
		return false
	}

	l.config.given[name] = name + fileSuffix
	l.config.files[name] = file{path, f.reload}
	text, err := readValue(path)
	if err != nil {
		l.problem(name+fileSuffix, "%v: give the path of a file with the value of %s", err, name)
		return false
	}
	ok := l.take(name+fileSuffix, "in the file "+quotePath(path)+": ", text, f, into)
	switch {
	case f.secretIn(text):
		l.warnOfReaders(name+fileSuffix, path)
	case f.holds == holdsKey:
		l.warnOfReaders(name+fileSuffix, text)
	}
	return ok
}

// take gives text, which stands where where says, to a variable, and tells whether it is right.
func (l *loader) take(variable, where, text string, f field, into reflect.Value) bool {
	reasons := f.set(text, into, func() error { return l.decode(text, into) })
	for _, reason := range reasons {
		l.problem(variable, "%s%s", where, reason)
	}
	// A secret of webhooks in quotation marks is refused. Any other text may have to begin with one.
	if len(reasons) == 0 && f.holds != holdsSecrets && quoted(text) {
		l.warnings = append(l.warnings, Warning{Variable: variable, Message: where + "begins and ends with a quotation " +
			"mark, and both become part of the value: leave them out"})
	}
	return len(reasons) == 0
}

// quoted tells whether text stands in quotation marks, as a shell would remove them and a file of variables does not.
func quoted(text string) bool {
	last := len(text) - 1
	return last > 0 && text[0] == text[last] && strings.ContainsRune("\"'`", rune(text[0]))
}

// warnOfReaders warns of a file with a secret that others can read.
func (l *loader) warnOfReaders(variable, path string) {
	if ownfile.OthersRead(path) {
		l.warnings = append(l.warnings, Warning{Variable: variable, Message: fmt.Sprintf("holds a secret in %q, which "+
			"everyone on this machine can read: take that right away (chmod o-r; in Kubernetes, defaultMode: 0440 and fsGroup)",
			path)})
	}
}

// decode sets one field from text.
func (l *loader) decode(text string, into reflect.Value) error {
	if sinks, ok := reflect.TypeAssert[*Sinks](into.Addr()); ok {
		return sinks.decode(text, l.kinds)
	}
	return parse(text, into)
}

// parse lets envconfig set one field from text. It gets a struct of this field alone, so that what is wrong with one
// variable does not keep it from the next.
func parse(text string, into reflect.Value) error {
	// Types that decode themselves, as those of secrets do, get the text as it is: a secret in a tag would outlive the
	// value.
	if d, ok := reflect.TypeAssert[envconfig.Decoder](into.Addr()); ok {
		return d.Decode(text)
	}
	if d, ok := reflect.TypeAssert[*time.Duration](into.Addr()); ok {
		duration, err := setting.ParseDuration(text)
		*d = duration
		return err
	}
	// To envconfig 010 is octal.
	if n, ok := reflect.TypeAssert[*int](into.Addr()); ok {
		number, err := strconv.Atoi(text)
		if err == nil {
			*n = number
		}
		return err
	}
	// No variable can have this name, so envconfig takes the default.
	tag := fmt.Sprintf("envconfig:%q default:%q", "=", text)
	one := reflect.New(reflect.StructOf([]reflect.StructField{
		{Name: "Value", Type: into.Type(), Tag: reflect.StructTag(tag)},
	}))
	err := envconfig.Process("", one.Interface())
	into.Set(one.Elem().Field(0))
	if failed, ok := errors.AsType[*envconfig.ParseError](err); ok {
		return failed.Err
	}
	return err
}

// mustParse is parse for limits, which the tests have all tried.
func mustParse(text string, into reflect.Value) {
	if err := parse(text, into); err != nil {
		panic(fmt.Sprintf("config: %s is not a %s: %v", setting.Quote(text), into.Type(), err))
	}
}

// readValue returns the content of a file without the line break at its end.
func readValue(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fileError(path, err)
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	switch {
	case err != nil:
		return "", fileError(path, err)
	case len(content) > maxFileBytes:
		return "", fmt.Errorf("the file %s has more than 1 MiB", quotePath(path))
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if text == "" {
		return "", fmt.Errorf("the file %s is empty", quotePath(path))
	}
	return text, nil
}

// fileError says why a file cannot be read, with its path once.
func fileError(path string, err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		err = pathErr.Err
	}
	return fmt.Errorf("the file %s cannot be read (%w)", quotePath(path), err)
}
