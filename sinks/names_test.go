package sinks_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fnbridge/fnbridge/config"
	"github.com/fnbridge/fnbridge/sinks"
)

// With several sinks of a kind, BROKERS alone does not tell whose they are: texts get a setting's name from
// reload.Part.Variable.
func TestTextsNameSettingsByTheirVariables(t *testing.T) {
	structs := []reflect.Type{reflect.TypeFor[config.Sink]()}
	for _, kind := range sinks.Kinds() {
		structs = append(structs, reflect.TypeOf(kind.New()).Elem())
	}
	var names []string
	for _, s := range structs {
		for _, field := range reflect.VisibleFields(s) {
			name := field.Tag.Get("envconfig")
			if name != "" && name != "TLS" && name != "URL" { // two that are words as well
				names = append(names, name)
			}
		}
	}
	bare := regexp.MustCompile(`(^|[\s("])(` + strings.Join(names, "|") + `)($|[\s)",:;=])`)
	require.Regexp(t, bare, "check BROKERS", "this test looks for nothing")
	for _, pattern := range []string{"*.go", "nats/*.go", "kafka/*.go", "../bridge/tlsfiles/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, 0)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if field, ok := n.(*ast.Field); ok && field.Tag != nil {
					return false // docs/configuration.md has the whole names around it
				}
				literal, ok := n.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(literal.Value)
				require.NoError(t, err)
				if !slices.Contains(names, text) && bare.MatchString(text) {
					t.Errorf("%s: %q names a setting without its sink's prefix", set.Position(literal.Pos()), text)
				}
				return true
			})
		}
	}
}
