package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/fnbridge/fnbridge/config/setting"
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
		meant := nearest(name, known)
		why := l.explain(name, meant)
		if sink := l.leftEmbedded(meant); sink != "" {
			l.problem(name, "%s Without that variable, the embedded server gets the events of the sink %s: "+
				"correct the name, or remove it", why, sink)
			continue
		}
		l.warnings = append(l.warnings, Warning{Variable: name, Message: why})
	}
}

// leftEmbedded returns the sink that uses the embedded server for want of the variable of this name, its servers' URLs,
// if there is one.
func (l *loader) leftEmbedded(name string) (sink string) {
	for i := range l.config.Sinks {
		s := &l.config.Sinks[i]
		own, ok := strings.CutPrefix(strings.TrimSuffix(name, fileSuffix), prefixOf(s.Name))
		if ok && s.Embedded && slices.ContainsFunc(l.kinds.fields(s.Kind), func(f field) bool {
			return f.holds == holdsURLs && f.name == own
		}) {
			return s.Name
		}
	}
	return ""
}

// known returns the names of all variables of the bridge and of its sinks, those of files included.
func (l *loader) known() []string {
	names := namesOf(prefix, l.kinds.bridgeFields())
	for _, s := range l.config.Sinks {
		names = append(names, namesOf(prefixOf(s.Name), l.kinds.sinkFields(s.Kind))...)
	}
	return names
}

// explain says why nobody reads a variable, and that the one called near may be meant, unless that is empty.
func (l *loader) explain(name, near string) string {
	meant := ""
	if near != "" {
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
				return "has no effect: the sink " + s.Name + " is of the kind " + s.Kind +
					", and only " + kind + " sinks have " + own
			}
		}
	}
	// Of a sink that does not exist, when the list of sinks itself is right.
	if sink, entries := l.kinds.sinkOf(name); sink != "" && !slices.Contains(sinks, sink) && !l.scope("").Bad("SINKS") {
		text := "has no effect: there is no sink " + sink + " in " + prefix + "SINKS (" + strings.Join(sinks, ", ") +
			"); add " + orList(entries) + " if you want one"
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

// nearest returns the known variable that may be meant by name, or nothing.
func nearest(name string, known []string) string {
	own := make([]string, len(known))
	for i, k := range known {
		own[i] = strings.TrimPrefix(k, prefix)
	}
	near := setting.Nearest(strings.ToUpper(strings.TrimPrefix(name, prefix)), own)
	if near == "" {
		return ""
	}
	return prefix + near
}
