package config

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Groups of variables, in the order of the tables.
const (
	GroupBridge = "Bridge"
	GroupSinks  = "Every sink"
	GroupNATS   = "NATS sinks"
	GroupKafka  = "Kafka sinks"
)

// Variable describes one environment variable.
type Variable struct {
	Name    string `json:"name"` // full; that of a sink, as for a sink that has the name of its kind
	Type    string `json:"type"` // what the value is, in a word or the words that are allowed
	Default string `json:"default"`
	Meaning string `json:"meaning"`
	Group   string `json:"group"`
	Secret  bool   `json:"secret"` // never shown
}

// Variables returns every variable, in groups.
func Variables() []Variable {
	var list []Variable
	add := func(group, start string, fields []field) {
		for _, f := range fields {
			list = append(list, Variable{
				Name: start + f.name, Type: f.typeWord(), Default: f.defaultValue,
				Meaning: f.desc, Group: group, Secret: f.secret(),
			})
		}
	}
	add(GroupBridge, prefix, bridgeFields())
	add(GroupSinks, prefixOf("<sink>"), everySinkFields())
	add(GroupNATS, prefixOf(KindNATS), kindFields(KindNATS))
	add(GroupKafka, prefixOf(KindKafka), kindFields(KindKafka))
	return list
}

// introduction says, above a group's variables, what their names mean.
func introduction(group string) string {
	switch group {
	case GroupSinks:
		return "Each sink in FNBRIDGE_SINKS has variables of its own, which carry its name in upper case: " +
			"with FNBRIDGE_SINKS=nats,audit=kafka, those of the first start with FNBRIDGE_NATS_ and those of the second with FNBRIDGE_AUDIT_."
	case GroupNATS:
		return "Sinks of the kind nats, here with the name nats."
	case GroupKafka:
		return "Sinks of the kind kafka, here with the name kafka."
	default:
		return ""
	}
}

// byGroup returns the variables of each group.
func byGroup() [][]Variable {
	var groups [][]Variable
	for _, v := range Variables() {
		if len(groups) == 0 || groups[len(groups)-1][0].Group != v.Group {
			groups = append(groups, nil)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], v)
	}
	return groups
}

// WriteMarkdown writes a table for each group, with its introduction above it.
func WriteMarkdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	for i, group := range byGroup() {
		if i > 0 {
			_, _ = fmt.Fprintln(out)
		}
		above := "**" + group[0].Group + ".** " + markdownText(introduction(group[0].Group))
		_, _ = fmt.Fprintf(out, "%s\n\n", strings.TrimRight(above, " "))
		_, _ = fmt.Fprintln(out, "| Variable | Type | Default | Meaning |\n|---|---|---|---|")
		for _, v := range group {
			_, _ = fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n", v.Name, v.Type, markdownCode(v.Default), markdownText(v.Meaning))
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

// WriteText writes every variable for a terminal of 100 columns: name, type and default in a line, the meaning below.
func WriteText(w io.Writer) error {
	const columns = 100
	out := bufio.NewWriter(w)
	write := func(indent, text string) {
		for _, line := range wrap(text, columns-len(indent)) {
			_, _ = fmt.Fprintf(out, "%s%s\n", indent, line)
		}
	}
	write("", "fnbridge is configured by environment variables. Each can also be given as a file: with _FILE after its name, "+
		"it is the path of a file that holds the value. A variable that is set to nothing counts as not set.")
	names, types := 0, 0
	for _, v := range Variables() {
		names, types = max(names, len(v.Name)), max(types, len(v.Type))
	}
	for _, group := range byGroup() {
		_, _ = fmt.Fprintf(out, "\n%s\n", group[0].Group)
		write("", introduction(group[0].Group))
		for _, v := range group {
			line := fmt.Sprintf("  %-*s  %-*s  %s", names, v.Name, types, v.Type, v.Default)
			_, _ = fmt.Fprintf(out, "\n%s\n", strings.TrimRight(line, " "))
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
