// Package reload keeps what was made of files up to date: credentials, secrets and certificates that somebody replaces
// while the bridge runs. What can be used takes the place of what there was; what cannot is refused, and what there was
// stays.
//
// Nothing here looks at files by itself: package filewatch calls Refresh.
package reload

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Files are all files that values are made of. They are safe for concurrent use.
type Files struct {
	log *slog.Logger

	// reading is held while files are read, which may take for ever.
	reading sync.Mutex

	mu   sync.Mutex
	sets []*set
}

// New returns Files that log, which may be nil, hears of: of what was taken over, and of each new reason why something
// was not.
func New(log *slog.Logger) *Files {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Files{log: log}
}

// Source is where the text of a setting comes from. An empty Path means no file, so that it never changes.
type Source struct {
	// Variable is the setting's name for people, such as FNBRIDGE_KAFKA_SASL_PASSWORD_FILE.
	Variable string
	Path     string
	// Read returns the text of the file. Nil: all of its content.
	Read func() (string, error)
}

// Part is one part of the bridge that has settings, and perhaps files. A nil Part has no files that are ever looked at
// again, and its settings go by the names that they have within it.
type Part struct {
	files  *Files
	source func(setting string) Source

	mu       sync.Mutex
	onChange []func()
}

// Part returns the part whose settings come from where source says.
func (f *Files) Part(source func(setting string) Source) *Part {
	return &Part{files: f, source: source}
}

// Variable returns a setting's name for people, such as FNBRIDGE_KAFKA_BROKERS for BROKERS.
func (p *Part) Variable(setting string) string { return p.sourceOf(Text{Setting: setting}).Variable }

// Variables lists settings, of which there is one at least, under the names that people know them by.
func (p *Part) Variables(settings ...string) string {
	names := make([]string, len(settings))
	for i, setting := range settings {
		names[i] = p.Variable(setting)
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// OnChange has f called whenever a value of the part is another. It must not block, and not call this package.
func (p *Part) OnChange(f func()) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.onChange = append(p.onChange, f)
}

// Text is one text that a value is made of.
type Text struct {
	// Setting is its name within the part, such as SASL_PASSWORD or TLS_CA_FILE.
	Setting string
	// Given is the text, unless the setting was given as a file, or is one.
	Given string
	// Path is the file that the setting names; empty if it names none.
	Path string
}

func (p *Part) sourceOf(t Text) Source {
	source := Source{Variable: t.Setting}
	if p != nil {
		source = p.source(t.Setting)
	}
	if t.Path != "" {
		source.Path, source.Read = t.Path, nil
	}
	return source
}

// Value is what was made of texts. It is safe for concurrent use.
type Value[T any] struct {
	set     *set
	current atomic.Pointer[T]
}

// Open makes a value of texts: one for all of them, so that what belongs together changes together. Its error is that
// of parse or of a file, and names the setting. With an error there is a Value as well, which holds nothing until its
// files are mended.
//
// parse gets the texts in their order, an empty one for a setting without any. It is called again, never concurrently,
// when a file has changed.
func Open[T any](p *Part, parse func(texts []string) (T, error), texts ...Text) (*Value[T], error) {
	v := &Value[T]{}
	v.set = &set{part: p, given: texts, take: func(texts []string) (any, error) {
		t, err := parse(texts)
		if err == nil {
			v.current.Store(&t)
		}
		return t, err
	}}
	for _, t := range texts {
		v.set.sources = append(v.set.sources, p.sourceOf(t))
	}
	if p == nil {
		_, _, err := v.set.refresh()
		return v, err
	}
	p.files.reading.Lock()
	defer p.files.reading.Unlock()
	_, _, err := v.set.refresh()
	if v.set.hasFiles() {
		p.files.mu.Lock()
		defer p.files.mu.Unlock()
		p.files.sets = append(p.files.sets, v.set)
	}
	return v, err
}

// Get returns the value: what the files hold, or held when they could be used last. It is T's zero value if they never
// could.
func (v *Value[T]) Get() (value T) {
	if t := v.current.Load(); t != nil {
		value = *t
	}
	return value
}

// Err returns why the files cannot be used now, and nil if they can.
func (v *Value[T]) Err() error {
	if refused := v.set.refused.Load(); refused != nil {
		return *refused
	}
	return nil
}

// set is what one value is made of.
type set struct {
	part    *Part
	given   []Text
	sources []Source
	take    func(texts []string) (any, error)

	refused atomic.Pointer[error] // nil: what the files hold is in use
	taken   atomic.Int64
	// Of whoever is reading.
	read  bool     // once
	texts []string // in use
}

func (s *set) hasFiles() bool {
	return slices.ContainsFunc(s.sources, func(source Source) bool { return source.Path != "" })
}

// refresh reads the files. It returns the value if it has made another one.
func (s *set) refresh() (changed bool, value any, err error) {
	defer func() {
		if err == nil {
			s.refused.Store(nil)
		} else {
			s.refused.Store(&err)
		}
	}()
	texts := make([]string, len(s.sources))
	var problems []string
	var first error
	for i, source := range s.sources {
		if texts[i], err = s.text(i, source); err != nil {
			problems = append(problems, source.Variable+": "+err.Error())
			if first == nil {
				first = err
			}
		}
	}
	if first != nil {
		return false, nil, &problem{strings.Join(problems, "\n"), first}
	}
	if s.read && slices.Equal(texts, s.texts) {
		return false, nil, nil
	}
	if value, err = s.take(texts); err != nil {
		return false, nil, err
	}
	s.read, s.texts = true, texts
	return true, value, nil
}

func (s *set) text(i int, source Source) (string, error) {
	switch {
	case source.Path == "":
		return s.given[i].Given, nil
	case source.Read != nil:
		return source.Read()
	}
	content, err := os.ReadFile(source.Path)
	return string(content), err
}

// problem is an error with its own text.
type problem struct {
	text  string
	cause error
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.cause }

// variables returns the names of the settings that come from files.
func (s *set) variables() string {
	var names []string
	for _, source := range s.sources {
		if source.Path != "" {
			names = append(names, source.Variable)
		}
	}
	return strings.Join(names, ", ")
}

// Refresh reads every file. Whoever is to hear of a change has heard of it when Refresh returns.
func (f *Files) Refresh() {
	f.reading.Lock()
	var changed []*Part
	for _, s := range f.all() {
		before := ""
		if refused := s.refused.Load(); refused != nil {
			before = (*refused).Error()
		}
		another, value, err := s.refresh()
		log := f.log.With(slog.String("variables", s.variables()))
		switch {
		case err != nil && err.Error() != before:
			log.Error("what a file holds now cannot be used; what it held before stays in use until it is mended",
				slog.Any("error", err))
		case err != nil:
		case another:
			s.taken.Add(1)
			attrs := []any{}
			if logged, ok := value.(slog.LogValuer); ok {
				attrs = append(attrs, slog.Any("now", logged))
			}
			log.Info("a file has changed, and what it holds is in use from now on", attrs...)
			if !slices.Contains(changed, s.part) {
				changed = append(changed, s.part)
			}
		case before != "":
			log.Info("a file holds again what is in use")
		}
	}
	f.reading.Unlock()
	for _, p := range changed {
		p.mu.Lock()
		hear := slices.Clone(p.onChange)
		p.mu.Unlock()
		for _, f := range hear {
			f()
		}
	}
}

func (f *Files) all() []*set {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sets)
}

// Paths returns the path of every file, as it was given.
func (f *Files) Paths() []string {
	var paths []string
	for _, s := range f.all() {
		for _, source := range s.sources {
			if source.Path != "" && !slices.Contains(paths, source.Path) {
				paths = append(paths, source.Path)
			}
		}
	}
	return paths
}

// State is how one setting that comes from a file is.
type State struct {
	Variable string
	Path     string
	// Taken counts how often something new was taken over.
	Taken int64
	// Refused is why what the file holds, or another that belongs to it, is not in use; empty if it is.
	Refused string
}

// States returns the states of all settings that come from files, by variable. It waits for no file.
func (f *Files) States() []State {
	var states []State
	for _, s := range f.all() {
		refused := ""
		if err := s.refused.Load(); err != nil {
			refused = (*err).Error()
		}
		for _, source := range s.sources {
			if source.Path != "" {
				states = append(states, State{source.Variable, source.Path, s.taken.Load(), refused})
			}
		}
	}
	slices.SortStableFunc(states, func(a, b State) int { return strings.Compare(a.Variable, b.Variable) })
	return slices.CompactFunc(states, func(a, b State) bool { return a.Variable == b.Variable })
}
