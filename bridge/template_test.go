package bridge_test

import (
	"cmp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/bridge"
)

func sample() bridge.Event {
	return bridge.Event{
		ID:           "id",
		Type:         "tensorlake.workflow.function.success",
		PartitionKey: "inv/1",
		About: bridge.About{
			Route:       []string{"workflow", "w.w", "fn {route}", "success"},
			Application: "w.w",
			Function:    "fn {route}",
			Status:      "success",
			Request:     "inv 1",
			Project:     "",
		},
	}
}

func TestTemplateExpand(t *testing.T) {
	token := func(s string) string {
		if s == "" {
			return "_"
		}
		return strings.NewReplacer(".", "_", " ", "_").Replace(s)
	}
	tests := []struct{ template, plain, escaped string }{
		{"", "", ""},
		{"events", "events", "events"},
		{"tensorlake.{route}", "tensorlake.workflow.w.w.fn {route}.success", "tensorlake.workflow.w_w.fn_{route}.success"},
		{"{type}", "tensorlake.workflow.function.success", "tensorlake_workflow_function_success"},
		{"a.{workflow}.{function}.{status}.z", "a.w.w.fn {route}.success.z", "a.w_w.fn_{route}.success.z"},
		{"{invocation}{partitionkey}", "inv 1inv/1", "inv_1inv/1"},
		{"x.{project}.y", "x..y", "x._.y"},
		{"literal dots. and spaces", "literal dots. and spaces", "literal dots. and spaces"},
		{"é{status}é", "ésuccessé", "ésuccessé"},
	}
	for _, tt := range tests {
		t.Run(tt.template, func(t *testing.T) {
			parsed, err := bridge.ParseTemplate(tt.template)
			require.NoError(t, err)
			require.Equal(t, tt.template, parsed.String())
			require.Equal(t, tt.plain, parsed.Expand(sample(), nil))
			require.Equal(t, tt.escaped, parsed.Expand(sample(), token))
		})
	}
	require.Empty(t, bridge.Template{}.Expand(sample(), nil))
}

func TestTemplateErrorsSayWhatIsWrong(t *testing.T) {
	for template, want := range map[string]string{
		"{":            "a { without a }",
		"a.{route":     "a { without a }",
		"}":            "a } without a {",
		"{route}}":     "a } without a {",
		"{}":           "the unknown placeholder \"\"",
		"{Route}":      "the unknown placeholder \"Route\"",
		"{ route}":     "the unknown placeholder \" route\"",
		"{{route}}":    "the unknown placeholder \"{route\"",
		"{id}.{route}": "known are {route}, {type}, {project}, {source_id}, {partitionkey}, {application}, ",
	} {
		t.Run(template, func(t *testing.T) {
			_, err := bridge.ParseTemplate(template)
			require.ErrorContains(t, err, want)
		})
	}
}

func TestEveryPlaceholderExpands(t *testing.T) {
	e := bridge.Event{
		Type: "type", PartitionKey: "partitionkey", SourceID: "source_id", About: bridge.About{
			Route: []string{"route"}, Project: "project",
			Application: "application", Version: "version", Request: "request", Function: "function", Sandbox: "sandbox",
			SandboxName: "sandbox_name", Status: "status", Outcome: "outcome", Reason: "reason",
		},
	}
	older := map[string]string{"workflow": "application", "invocation": "request"}
	for _, name := range bridge.Placeholders() {
		parsed, err := bridge.ParseTemplate("{" + name + "}")
		require.NoError(t, err)
		require.Equal(t, cmp.Or(older[name], name), parsed.Expand(e, nil))
	}
}

func TestPlaceholdersCannotBeChanged(t *testing.T) {
	bridge.Placeholders()[0] = "changed"
	require.Equal(t, "route", bridge.Placeholders()[0])
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"", "tensorlake.{route}", "{", "}", "{}", "{{route}}", "{route}{route}", "a{type}b{status}c", "{\x00}", "\xff{route}",
	} {
		f.Add(seed, "w.\r\n>", "")
	}
	f.Fuzz(func(t *testing.T, template, workflow, function string) {
		parsed, err := bridge.ParseTemplate(template)
		if err != nil {
			require.Equal(t, bridge.Template{}, parsed)
			require.ErrorContains(t, err, strconv.Quote(template), "it quotes the template that is wrong")
			require.NotContains(t, err.Error(), "\n", "nothing in a template breaks the line")
			return
		}
		require.Equal(t, template, parsed.String())

		// A value of an event, whatever it holds, stands in the place of its placeholder and changes nothing around it.
		e := bridge.Event{About: bridge.About{
			Application: workflow, Function: function, Route: []string{"r", workflow, function},
		}}
		values := []string{
			"{route}", "r." + workflow + "." + function, "{workflow}", workflow,
			"{application}", workflow, "{function}", function,
		}
		for _, name := range bridge.Placeholders() {
			values = append(values, "{"+name+"}", "")
		}
		want := strings.NewReplacer(values...).Replace(template)
		require.Equal(t, want, parsed.Expand(e, nil))

		// Only values go through escape, and every one of them does.
		calls := 0
		got := parsed.Expand(e, func(string) string {
			calls++
			return "x"
		})
		routes := strings.Count(template, "{route}")
		require.Equal(t, strings.Count(template, "{")+routes*(len(e.Route)-1), calls)
		require.False(t, strings.ContainsAny(got, "{}"))
	})
}
