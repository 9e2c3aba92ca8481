package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/kelseyhightower/envconfig"
)

// maxFileBytes bounds a file that holds the value of a variable.
const maxFileBytes = 1 << 20

// Load reads the configuration from the environment. The error, when there is one, is Errors with everything
// that is wrong; the Config then holds what is right, and defaults where a value could not be read.
//
// Any variable X can be given as X_FILE, the path of a file whose content is the value; one line break at its
// end is not part of it. A variable that is set to nothing counts as not set.
func Load() (*Config, []Warning, error) {
	l := &loader{config: &Config{given: map[string]string{}}}
	c := l.config
	l.fill(prefix, c)
	for i := range c.Sinks {
		s := &c.Sinks[i]
		own := prefixOf(s.Name)
		l.fill(own, s)
		switch s.Kind {
		case KindNATS:
			s.NATS = new(NATS)
			l.fill(own, s.NATS)
		case KindKafka:
			s.Kafka = new(Kafka)
			l.fill(own, s.Kafka)
		}
	}
	l.checkTogether()
	l.warnOfUnknown(os.Environ())
	return c, l.warnings, l.errs.Err()
}

// loader gathers what Load finds.
type loader struct {
	config   *Config
	errs     Errors
	warnings []Warning
}

func (l *loader) problem(variable, format string, args ...any) {
	l.errs = append(l.errs, Problem{Variable: variable, Message: fmt.Sprintf(format, args...)})
}

func (l *loader) warn(variable, format string, args ...any) {
	l.warnings = append(l.warnings, Warning{Variable: variable, Message: fmt.Sprintf(format, args...)})
}

// fill reads every variable of the configuration struct that into points to.
func (l *loader) fill(namePrefix string, into any) {
	v := reflect.ValueOf(into).Elem()
	for _, f := range fieldsOf(v.Type()) {
		l.read(namePrefix+f.name, f, v.Field(f.index))
	}
}

// read reads one variable, or its file. What was not given, or could not be read at all, gets its default.
func (l *loader) read(name string, f field, into reflect.Value) {
	if !l.readGiven(name, f, into) && into.IsZero() && f.defaultValue != "" {
		// Not by way of the variable: envconfig would take an empty one for a value, but deployments often pass on
		// what they do not have.
		mustParse(f.defaultValue, into)
	}
}

// readGiven tells whether it found a value that is right.
func (l *loader) readGiven(name string, f field, into reflect.Value) bool {
	text, path := os.Getenv(name), os.Getenv(name+fileSuffix)
	switch {
	case text == "" && path == "":
		return false
	case path == "":
		l.config.given[name] = name
		wrong := f.set(text, into, func() error { return process(name, "", into) })
		for _, reason := range wrong {
			l.problem(name, "%s", reason)
		}
		return len(wrong) == 0
	case text != "":
		l.config.given[name] = name
		l.problem(name, "%s is set as well: keep one of the two", name+fileSuffix)
		return false
	}

	l.config.given[name] = name + fileSuffix
	text, err := readValue(path)
	if err != nil {
		l.problem(name+fileSuffix, "%v: give the path of a file with the value of %s", err, name)
		return false
	}
	wrong := f.set(text, into, func() error { return parse(text, into) })
	for _, reason := range wrong {
		l.problem(name+fileSuffix, "in the file %s: %s", quotePath(path), reason)
	}
	return len(wrong) == 0
}

// process lets envconfig set one field from the variable called name. It gets a struct of this field alone, so that
// what is wrong with one variable does not keep it from the next; and it gets the full name in the tag rather than a
// prefix, because with a prefix it would also take the bare name: the USER of the shell for FNBRIDGE_NATS_USER.
func process(name, defaultValue string, into reflect.Value) error {
	tag := fmt.Sprintf("envconfig:%q default:%q", name, defaultValue)
	one := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Value", Type: into.Type(), Tag: reflect.StructTag(tag)}}))
	err := envconfig.Process("", one.Interface())
	into.Set(one.Elem().Field(0))
	if failed, ok := errors.AsType[*envconfig.ParseError](err); ok {
		return failed.Err
	}
	return err
}

// parse lets envconfig set one field from text that is not in the environment.
func parse(text string, into reflect.Value) error {
	// Types that decode themselves, as those of secrets do, get the text as it is: a secret in a tag would outlive the value.
	if d, ok := reflect.TypeAssert[envconfig.Decoder](into.Addr()); ok {
		return d.Decode(text)
	}
	// No variable can have this name, so envconfig takes the default.
	return process("=", text, into)
}

// mustParse is parse for text of this package itself: defaults and limits, which the tests have all tried.
func mustParse(text string, into reflect.Value) {
	if err := parse(text, into); err != nil {
		panic(fmt.Sprintf("config: %s is not a %s: %v", quote(text), into.Type(), err))
	}
}

// readValue returns the content of a file without the line break at its end.
func readValue(path string) (string, error) {
	file, err := os.Open(path) //nolint:gosec // the operator says which file
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
