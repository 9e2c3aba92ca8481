package config

import (
	"regexp"
	"slices"
	"strings"
)

// What Kubernetes sets in every container of a namespace for services called fnbridge or fnbridge-anything: for
// one called fnbridge-nats, FNBRIDGE_NATS_PORT_4222_TCP_ADDR. kubernetesPort is its own only with a URL as the value.
var (
	kubernetesVariable = regexp.MustCompile(`^FNBRIDGE_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)
	kubernetesPort     = regexp.MustCompile(`^FNBRIDGE_([A-Z0-9_]+_)?PORT$`)
)

func setByKubernetes(name, value string) bool {
	return kubernetesVariable.MatchString(name) || kubernetesPort.MatchString(name) && strings.Contains(value, "://")
}

// warnOfUnknown warns of variables with the bridge's prefix that it does not know.
func (l *loader) warnOfUnknown(environment []string) {
	known := l.known()
	var unknown []string
	for _, entry := range environment {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, prefix) || value == "" || slices.Contains(known, name) || setByKubernetes(name, value) {
			continue
		}
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		l.warnings = append(l.warnings, Warning{Variable: name, Message: l.explain(name, known)})
	}
}

// known returns the names of all variables of the bridge and of its sinks, those of files included.
func (l *loader) known() []string {
	names := namesOf(prefix, l.kinds.bridgeFields())
	for _, s := range l.config.Sinks {
		names = append(names, namesOf(prefixOf(s.Name), l.kinds.sinkFields(s.Kind))...)
	}
	return names
}

// explain says why nobody reads a variable, and what may be meant.
func (l *loader) explain(name string, known []string) string {
	meant := ""
	if near := nearest(name, known); near != "" {
		meant = "did you mean " + near + "?"
	}
	sinks := make([]string, len(l.config.Sinks))
	for i, s := range l.config.Sinks {
		sinks[i] = s.Name
	}

	// Of an existing sink, a variable that only another kind has.
	for _, s := range l.config.Sinks {
		own, ok := strings.CutPrefix(name, prefixOf(s.Name))
		for _, kind := range l.kinds.names() {
			if ok && kind != s.Kind && hasField(l.kinds.fields(kind), own) {
				return "has no effect: the sink " + s.Name + " is of the kind " + s.Kind + ", and only " + kind + " sinks have " + own
			}
		}
	}
	// Of a sink that does not exist, when the list of sinks itself is right.
	if sink, entries := l.kinds.sinkOf(name); sink != "" && !l.scope("").Bad("SINKS") {
		text := "has no effect: there is no sink " + sink + " in " + prefix + "SINKS (" + strings.Join(sinks, ", ") + "); add " + orList(entries) + " if you want one"
		if meant != "" && !l.kinds.has(sink) {
			text += ", or " + meant
		}
		return text
	}
	if meant != "" {
		return "is not a variable of fnbridge: " + meant
	}
	return "is not a variable of fnbridge: fnbridge env lists them all"
}

func hasField(fields []field, name string) bool {
	return slices.ContainsFunc(fields, func(f field) bool { return name == f.name || name == f.name+fileSuffix })
}

// sinkOf returns the sink that a variable would belong to, and what it could be in the list of sinks. Both
// are empty for a name that no sink's variable can have.
func (k kinds) sinkOf(name string) (sink string, entries []string) {
	rest := strings.ToLower(strings.TrimPrefix(name, prefix))
	for i := range rest {
		if rest[i] != '_' || !sinkName.MatchString(rest[:i]) || k.reserve(rest[:i]) != "" {
			continue
		}
		sink = rest[:i]
		if k.has(sink) && hasField(k.sinkFields(sink), strings.ToUpper(rest[i+1:])) {
			return sink, []string{sink}
		}
		for _, kind := range k.names() {
			if !k.has(sink) && hasField(k.sinkFields(kind), strings.ToUpper(rest[i+1:])) {
				entries = append(entries, sink+"="+kind)
			}
		}
		if len(entries) > 0 {
			return sink, entries
		}
	}
	return "", nil
}

// nearest returns the known name that is the fewest edits from name, and nothing when all are too far to be meant.
func nearest(name string, known []string) string {
	name = strings.TrimPrefix(name, prefix)
	best, fewest := "", len(name)/3+1
	for _, k := range known {
		if d := edits(name, strings.TrimPrefix(k, prefix)); d < fewest {
			best, fewest = k, d
		}
	}
	return best
}

// edits counts the insertions, deletions, replacements and swaps of neighbours that make b out of a.
func edits(a, b string) int {
	var before []int // the row before last
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = min(replace, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
