package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// maxBelow is how much of a value is shown below its row. No id of a webhook is longer.
const maxBelow = 256

// columns is how wide a line may be on a terminal, and 0 elsewhere: programs get values whole, a row in a line.
func (c console) columns() int {
	if !c.terminal {
		return 0
	}
	columns, _ := c.size()
	return columns
}

// table prints rows of cells below their heads. On a terminal that is too narrow, what does not fit into a row stands
// below it, each value behind the name of its column.
func (c console) table(head []string, rows [][]string) error {
	widths := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	beside, width := len(head), -2
	for i := range head {
		width += 2 + widths[i]
		if columns := c.columns(); i > 0 && columns > 0 && width > columns {
			beside = i
			break
		}
	}
	for n, row := range append([][]string{head}, rows...) {
		var line strings.Builder
		for i, cell := range row[:beside] {
			fmt.Fprintf(&line, "%-*s", widths[i]+2, cell)
		}
		lines := []string{strings.TrimRight(line.String(), " ")}
		for i := beside; i < len(row) && n > 0; i++ {
			if row[i] != "-" && row[i] != "" {
				lines = append(lines, "  "+c.wrap(4, strings.ToLower(head[i])+": "+clip(row[i], maxBelow)))
			}
		}
		if _, err := fmt.Fprintln(c.out, strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// fields prints names and, beside them, what there is to say of each, whole.
func (c console) fields(pairs [][2]string) error {
	width := 0
	for _, p := range pairs {
		width = max(width, len(p[0])+2)
	}
	for _, p := range pairs {
		if _, err := fmt.Fprintf(c.out, "%-*s%s\n", width, p[0], c.wrap(width, printable(p[1]))); err != nil {
			return err
		}
	}
	return nil
}

// word is what no line is broken in: what stands in quotes is a command to copy.
var word = regexp.MustCompile(`("[^"]{1,60}"|\S)+`)

// wrap breaks a text for a terminal, so that behind an indent it fits. A word that is longer stays whole.
func (c console) wrap(indent int, text string) string {
	if columns := c.columns(); columns > 0 && indent+utf8.RuneCountInString(text) > columns {
		return broken(word.FindAllString(text, -1), " ", indent, columns)
	}
	return text
}

// beside is where the second column of a line begins, as in a list of flags.
var beside = regexp.MustCompile(`^ *\S.*?\s{2,}`)

// wrapHelp has a command's help fit a terminal.
func (c console) wrapHelp(cmd *cobra.Command) {
	help := cmd.HelpFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		var text strings.Builder
		cmd.Root().SetOut(&text)
		help(cmd, args)
		cmd.Root().SetOut(c.out)
		for line := range strings.Lines(text.String()) {
			indent := len(beside.FindString(line))
			fmt.Fprintln(c.out, line[:indent]+c.wrap(indent, strings.TrimSuffix(line[indent:], "\n")))
		}
	})
}

// below returns lines that stand below another, behind an indent.
func (c console) below(indent, lines string) string {
	var text strings.Builder
	for line := range strings.Lines(lines) {
		text.WriteString("\n" + indent + c.wrap(len(indent), strings.TrimRight(line, "\n")))
	}
	return text.String()
}

// member is what JSON in one line can be broken behind without becoming another: all up to a comma outside of strings.
var member = regexp.MustCompile(`("(\\.|[^"\\])*"|[^",])*,|("(\\.|[^"\\])*"|[^",])+$`)

// wrapJSON is wrap for JSON in one line, which can be copied and is still the same.
func (c console) wrapJSON(indent int, text string) string {
	if columns := c.columns(); columns > 0 && json.Valid([]byte(text)) {
		return broken(member.FindAllString(text, -1), "", indent, columns)
	}
	return text
}

// broken puts parts into lines of so many columns, all but the first behind an indent.
func broken(parts []string, between string, indent, columns int) string {
	var text strings.Builder
	at := indent
	for i, part := range parts {
		width := utf8.RuneCountInString(part)
		switch {
		case i == 0:
		case at+len(between)+width > columns:
			text.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			text.WriteString(between)
			at += len(between)
		}
		text.WriteString(part)
		at += width
	}
	return text.String()
}

// oneLine is data without the line breaks and indents that its sender may have put into it.
func oneLine(data []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return string(data)
	}
	return b.String()
}
