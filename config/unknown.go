package config

import (
	"maps"
	"reflect"
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
	unknown := map[string]string{}
	for _, entry := range environment {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, prefix) || value == "" || slices.Contains(known, name) || setByKubernetes(name, value) {
			continue
		}
		unknown[name] = value
	}
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		meant := nearest(name, known)
		if address := l.addressIn(name, unknown[name]); address != "" {
			meant = address
		}
		why := l.explain(name, meant)
		ended := why
		if !strings.HasSuffix(why, "?") {
			ended += "."
		}
		if sink := l.leftEmbedded(meant); sink != "" {
			l.problem(name, "%s Without that variable, the embedded server gets the events of the sink %s: "+
				"correct the name, or remove it", ended, sink)
			continue
		}
		if sink := l.embedded(); sink != "" && l.isAddressOfAbsentSink(name) {
			l.problem(name, "%s As long as %sSINKS is not set, the embedded server gets the events of the sink %s: "+
				"set it, or remove this", ended, prefix, sink)
			continue
		}
		l.warnings = append(l.warnings, Warning{Variable: name, Message: why})
	}
}

// leftEmbedded returns the sink that uses the embedded server for want of the variable of this name, if there is one:
// the URLs of the sink's servers, or the list of sinks.
func (l *loader) leftEmbedded(name string) (sink string) {
	name = strings.TrimSuffix(name, fileSuffix)
	if name == prefix+"SINKS" && !l.scope("").Given("SINKS") {
		return l.embedded()
	}
	for _, s := range l.config.Sinks {
		for _, f := range l.kinds.fields(s.Kind) {
			if s.Embedded && f.holds == holdsURLs && name == prefixOf(s.Name)+f.name {
				return s.Name
			}
		}
	}
	return ""
}

// embedded returns the first sink that uses the embedded server, if there is one.
func (l *loader) embedded() string {
	for _, s := range l.config.Sinks {
		if s.Embedded {
			return s.Name
		}
	}
	return ""
}

// addressIn returns the variable of a sink's servers that value would be right for, if the sink uses the embedded
// server for want of it: that is what is meant, whatever the unknown variable is called. One that begins as those of
// another sink do is not for it.
func (l *loader) addressIn(name, value string) (variable string) {
	if absent, _ := l.kinds.sinkOf(name); absent != "" {
		return ""
	}
	for _, s := range l.config.Sinks {
		address := ""
		for _, f := range l.kinds.fields(s.Kind) {
			if s.Embedded && f.holds == holdsURLs && parse(value, reflect.New(f.typ).Elem()) == nil {
				address = prefixOf(s.Name) + f.name
			}
		}
		if strings.HasPrefix(name, prefixOf(s.Name)) {
			return address
		}
		if variable == "" {
			variable = address
		}
	}
	return variable
}

// isAddressOfAbsentSink tells whether a variable has the servers of a sink that there is not, while nobody has said
// which sinks there are.
func (l *loader) isAddressOfAbsentSink(name string) bool {
	sink, _ := l.kinds.sinkOf(name)
	if sink == "" || l.scope("").Given("SINKS") {
		return false
	}
	own := strings.TrimSuffix(strings.TrimPrefix(strings.ToUpper(name), prefixOf(sink)), fileSuffix)
	return slices.ContainsFunc(l.kinds.names(), func(kind string) bool {
		return slices.ContainsFunc(l.kinds.fields(kind), func(f field) bool {
			return f.name == own && (f.required != "" || f.holds == holdsURLs)
		})
	})
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
