package config

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/fnbridge/fnbridge/config/setting"
)

// Groups of variables, in the order of the tables. After them come those of each kind of sink.
const (
	GroupBridge = "Bridge"
	GroupSinks  = "Every sink"
)

// Variable describes one environment variable.
type Variable struct {
	Name     string   `json:"name"`              // full; that of a sink, as for a sink that has the name of its kind
	Type     string   `json:"type"`              // what the value is, in a word or the words that are allowed
	Options  []string `json:"options,omitempty"` // the words that are allowed, when only some are
	Default  string   `json:"default"`
	Meaning  string   `json:"meaning"`
	Group    string   `json:"group"`
	Kind     string   `json:"kind,omitempty"` // the kind of sinks that alone has it
	Required bool     `json:"required"`       // it has to be given
	Secret   bool     `json:"secret"`         // never shown
	Reload   bool     `json:"reload"`         // a bridge that runs takes over what its file holds anew
	First    bool     `json:"-"`              // one of those to know first
}

// Variables returns every variable, in groups.
func Variables(of []setting.Kind) []Variable {
	kinds := kinds(of)
	var list []Variable
	add := func(group, kind, start string, fields []field) {
		for _, f := range fields {
			list = append(list, Variable{
				Name: start + f.name, Type: f.typeWord(), Options: f.options, Default: f.defaultValue,
				Meaning: f.meaning(), Group: group, Kind: kind, Required: f.required != "", Secret: f.secret(), Reload: f.reload,
				First: f.first,
			})
		}
	}
	add(GroupBridge, "", prefix, kinds.bridgeFields())
	add(GroupSinks, "", prefixOf("<sink>"), everySinkFields())
	for _, kind := range kinds {
		add(groupOf(kind), kind.Name, prefixOf(kind.Name), kinds.fields(kind.Name))
	}
	return list
}

func groupOf(kind setting.Kind) string { return kind.Title + " sinks" }

// introduction says, above a group's variables, what their names mean.
func (k kinds) introduction(group string) string {
	if group == GroupSinks {
		first, second := k[0].Name, k[min(1, len(k)-1)].Name
		return fmt.Sprintf("Each sink in FNBRIDGE_SINKS has variables of its own, which carry its name in upper case: "+
			"with FNBRIDGE_SINKS=%s,audit=%s, those of the first start with %s and those of the second with FNBRIDGE_AUDIT_.",
			first, second, prefixOf(first))
	}
	for _, kind := range k {
		if group == groupOf(kind) {
			return fmt.Sprintf("Sinks of the kind %s, here with the name %[1]s.", kind.Name)
		}
	}
	return ""
}

// byGroup returns the variables of each group.
func byGroup(variables []Variable) [][]Variable {
	var groups [][]Variable
	for _, v := range variables {
		if len(groups) == 0 || groups[len(groups)-1][0].Group != v.Group {
			groups = append(groups, nil)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], v)
	}
	return groups
}

// WriteMarkdown writes a table for each group, with its introduction above it.
func WriteMarkdown(w io.Writer, of []setting.Kind) error {
	out := bufio.NewWriter(w)
	for i, group := range byGroup(Variables(of)) {
		if i > 0 {
			_, _ = fmt.Fprintln(out)
		}
		above := wrap("**"+group[0].Group+".** "+markdownText(kinds(of).introduction(group[0].Group)), 120)
		_, _ = fmt.Fprintf(out, "%s\n\n", strings.Join(above, "\n"))
		_, _ = fmt.Fprintln(out, "| Variable | Type | Default | Meaning |\n|---|---|---|---|")
		for _, v := range group {
			_, _ = fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n",
				v.Name, v.Type, markdownCode(v.Default), markdownText(v.Meaning))
		}
	}
	return out.Flush()
}

func markdownCode(text string) string {
	if text == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(text, "|", `\|`) + "`"
}

// markdownText keeps text from being read as markup: names with underscores become code.
func markdownText(text string) string {
	words := strings.Split(text, " ")
	for i, word := range words {
		core := strings.TrimRight(word, ".,:;")
		if strings.Contains(core, "_") && !strings.ContainsAny(core, "()") {
			words[i] = "`" + core + "`" + word[len(core):]
		}
	}
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(strings.Join(words, " "))
}

// WriteText writes every variable in lines of so many columns: name, type and default in a line, the meaning below.
func WriteText(w io.Writer, of []setting.Kind, columns int) error {
	const defaultColumns = 20
	out := bufio.NewWriter(w)
	write := func(indent, text string) {
		for _, line := range wrap(text, columns-len(indent)) {
			_, _ = fmt.Fprintf(out, "%s%s\n", indent, line)
		}
	}
	write("", "fnbridge is configured by environment variables. Each can also be given as a file: with _FILE after its "+
		"name, it is the path of a file that holds the value. A variable that is set to nothing counts as not set.")
	variables := Variables(of)
	names, types := 0, 0
	for _, v := range variables {
		names = max(names, len(v.Name))
	}
	for _, v := range variables {
		if 2+names+2+len(v.Type)+2+defaultColumns <= columns { // a longer one moves its default alone
			types = max(types, len(v.Type))
		}
	}
	for _, group := range byGroup(variables) {
		_, _ = fmt.Fprintf(out, "\n%s\n", group[0].Group)
		write("", kinds(of).introduction(group[0].Group))
		for _, v := range group {
			name := fmt.Sprintf("  %-*s  ", names, v.Name)
			about := strings.TrimRight(fmt.Sprintf("%-*s  %s", types, v.Type, v.Default), " ")
			if len(name)+utf8.RuneCountInString(about) > columns {
				about = strings.Join(wrap(about, columns-len(name)), "\n"+strings.Repeat(" ", len(name)))
			}
			_, _ = fmt.Fprintf(out, "\n%s%s\n", name, about)
			write("      ", v.Meaning)
		}
	}
	return out.Flush()
}

// wrap breaks text between words into lines of at most width characters, if no word is longer.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
