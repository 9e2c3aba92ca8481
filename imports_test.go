// Package fnbridge_test holds the layout of the module: which package may import which.
package fnbridge_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const (
	module = "github.com/fnbridge/fnbridge"
	// testSupport and the packages below it exist for tests, and nothing that ships may import them.
	testSupport = "sinks/sinktest"
	// So does deliveryTestSupport.
	deliveryTestSupport = "bridge/delivery/deliverytest"
	// embeddedNATS is a server, not a kind of sink.
	embeddedNATS = "sinks/embeddednats"
	// everything, as an element of a row, allows every package of the module but the commands.
	everything = "*"
	// aKind stands for every package of a kind of sink, which is a folder in sinks: a new kind has its row already.
	aKind = "sinks/<kind>"
)

// rules say what one package may import of this module. Its tests may import test support as well, and itself.
type rules struct {
	allowed []string
	// testsImportAnything is for the packages that put the parts together: their tests look at any of them.
	testsImportAnything bool
	// standardOnly forbids modules of others, except in tests.
	standardOnly bool
}

// table returns the layout: a row a package, and no package without a row. Imports point one way, so that the
// domain knows no technology, an adapter knows no other adapter, and a new sink touches one folder.
func table() map[string]rules {
	return map[string]rules{
		".": {}, // this test

		"cmd/fnbridge": {
			allowed: []string{"bridge/app", "bridge/admin", "config", "config/setting"}, testsImportAnything: true,
		},
		// What sinks can be is passed in; that the documents are of the real ones is for tests to see.
		"config":         {allowed: []string{"config/setting", "bridge/ownfile"}, testsImportAnything: true},
		"config/setting": {standardOnly: true},

		"bridge":             {allowed: []string{"bridge/reload"}, standardOnly: true},
		"bridge/reload":      {standardOnly: true},
		"bridge/filewatch":   {},
		"bridge/tensorlake":  {allowed: []string{"bridge", "bridge/excerpt"}, standardOnly: true},
		"bridge/cloudevents": {allowed: []string{"bridge"}, standardOnly: true},
		"bridge/excerpt":     {standardOnly: true},
		"bridge/problem":     {allowed: []string{"bridge/excerpt"}, standardOnly: true},
		"bridge/loglimit":    {standardOnly: true},
		"bridge/tlsfiles":    {allowed: []string{"bridge/reload"}, standardOnly: true},
		"bridge/ownfile":     {standardOnly: true},
		"bridge/wire":        {allowed: []string{"bridge"}},
		"bridge/ingest": {
			allowed: []string{"bridge", "bridge/tensorlake", "bridge/problem", "bridge/excerpt", "bridge/loglimit"},
		},
		"bridge/volume":  {},
		"bridge/journal": {allowed: []string{"bridge", "bridge/volume", "bridge/ownfile"}},
		"bridge/delivery": {
			allowed: []string{
				"bridge", "bridge/excerpt", "bridge/journal", "bridge/tensorlake",
				"bridge/delivery/lane", "bridge/delivery/insist",
			},
		},
		// The state of what is on its way, apart from everything that waits.
		"bridge/delivery/lane":   {allowed: []string{"bridge"}, standardOnly: true},
		"bridge/delivery/insist": {standardOnly: true},
		"bridge/delivery/forward": {allowed: []string{
			"bridge", "bridge/journal", "bridge/delivery/lane", "bridge/delivery/insist",
		}},
		// An origin of delivery's, as the journal is one.
		"bridge/delivery/queue": {allowed: []string{
			"bridge", "bridge/journal", "bridge/tensorlake",
			"bridge/delivery", "bridge/delivery/lane", "bridge/delivery/forward",
		}},
		"bridge/admin": {allowed: []string{
			"bridge", "bridge/journal", "bridge/delivery", "bridge/delivery/queue",
			"bridge/tensorlake", "bridge/cloudevents", "bridge/problem", "bridge/excerpt", "bridge/ownfile", "bridge/reload",
			"sinks", // tail and check go to the brokers themselves
		}},
		"bridge/ops":      {allowed: []string{"bridge", "bridge/problem", "bridge/loglimit"}},
		"bridge/ops/page": {allowed: []string{"bridge", "bridge/ops", "bridge/admin", "bridge/problem"}},
		"bridge/app":      {allowed: []string{everything}, testsImportAnything: true},

		"sinks": {
			allowed:             []string{"bridge", "config/setting", aKind},
			testsImportAnything: true,
		},
		aKind: {allowed: []string{
			"bridge", "bridge/cloudevents", "bridge/reload", "bridge/tlsfiles", "bridge/wire", "config/setting",
		}},
		embeddedNATS: {allowed: []string{"bridge/loglimit", "bridge/ownfile", "bridge/volume"}},

		// Consumers' own programs: they know the brokers, and nothing of this module.
		"docs/examples/go/kafka": {},
		"docs/examples/go/nats":  {},
	}
}

// supportRules are the row of test support, whichever packages it has.
func supportRules() rules {
	return rules{allowed: []string{
		"bridge", "bridge/cloudevents", "config/setting", "sinks", aKind, embeddedNATS,
	}}
}

func TestImportsFollowTheTable(t *testing.T) {
	broken, seen, err := check(os.DirFS("."), table())
	require.NoError(t, err)
	require.Empty(t, broken, "The table in imports_test.go says which package may import which.\n"+
		"Move the code to where it belongs, or change the table if the layout itself is to change.")
	for pkg := range table() {
		require.Contains(t, seen, pkg, "the table has a row for a package that is not there")
	}
}

func TestImportCheckFindsWhatIsForbidden(t *testing.T) {
	tests := map[string]struct {
		file, source string
		want         string // part of the one complaint; empty: none
	}{
		"a row's import": {
			"bridge/ingest/a.go", `import "github.com/fnbridge/fnbridge/bridge/tensorlake"`, "",
		},
		"an import that its row lacks": {
			"bridge/ingest/a.go", `import "github.com/fnbridge/fnbridge/bridge/journal"`,
			"bridge/ingest/a.go: bridge/ingest may not import bridge/journal",
		},
		"under another name": {
			"sinks/nats/a.go", `import . "github.com/fnbridge/fnbridge/sinks/kafka"`, "may not import sinks/kafka",
		},
		"whatever the build tags": {
			"sinks/nats/a_windows.go", `import _ "github.com/fnbridge/fnbridge/sinks/kafka"`, "may not import sinks/kafka",
		},
		"config beyond app and cmd": {
			"sinks/kafka/a.go", `import "github.com/fnbridge/fnbridge/config"`, "may not import config",
		},
		"a new kind, in the registry": {
			"sinks/sinks.go", `import "github.com/fnbridge/fnbridge/sinks/pulsar"`, "",
		},
		"a new kind and what a kind imports": {
			"sinks/pulsar/a.go", `import "github.com/fnbridge/fnbridge/bridge/cloudevents"`, "",
		},
		"a new kind and another": {
			"sinks/pulsar/a.go", `import "github.com/fnbridge/fnbridge/sinks/kafka"`, "sinks/pulsar may not import sinks/kafka",
		},
		"a kind in config": {
			"config/a.go", `import "github.com/fnbridge/fnbridge/sinks/kafka"`, "may not import sinks/kafka",
		},
		"app imports all": {"bridge/app/a.go", `import "github.com/fnbridge/fnbridge/sinks/nats"`, ""},
		"but not the command": {
			"bridge/app/a.go", `import "github.com/fnbridge/fnbridge/cmd/fnbridge"`, "may not import cmd/fnbridge",
		},
		"and not test support": {
			"bridge/app/a.go", `import "github.com/fnbridge/fnbridge/sinks/sinktest"`, "only tests",
		},
		"tests import test support": {
			"sinks/nats/a_test.go", `import "github.com/fnbridge/fnbridge/sinks/sinktest/natsserver"`, "",
		},
		"tests import their package": {"sinks/nats/a_test.go", `import "github.com/fnbridge/fnbridge/sinks/nats"`, ""},
		"tests keep to the row": {
			"sinks/nats/a_test.go", `import "github.com/fnbridge/fnbridge/bridge/app"`, "may not import bridge/app",
		},
		"app's tests import anything": {"bridge/app/a_test.go", `import "github.com/fnbridge/fnbridge/sinks/sinktest"`, ""},
		"test support among itself": {
			"sinks/sinktest/kafkabroker/a.go", `import "github.com/fnbridge/fnbridge/sinks/sinktest"`, "",
		},
		"test support and the rest": {
			"sinks/sinktest/a.go", `import "github.com/fnbridge/fnbridge/bridge/app"`, "may not import bridge/app",
		},
		"a package without a row": {"bridge/util/a.go", ``, "bridge/util has no row"},
		"the domain's standard library": {
			"bridge/a.go", "import (\n\"net/http\"\n\"encoding/json\"\n)", "",
		},
		"the domain and other modules": {
			"bridge/a.go", `import "github.com/nats-io/nats.go"`,
			"bridge may import the standard library only, not github.com/nats-io/nats.go",
		},
		"the domain's tests and other modules": {
			"bridge/a_test.go", `import "github.com/stretchr/testify/require"`, "",
		},
		"C":                      {"bridge/journal/a.go", `import "C"`, "static"},
		"another module inside":  {"charts/test/a.go", `import "github.com/fnbridge/fnbridge/config"`, ""},
		"what go build ignores":  {"bridge/testdata/a.go", `import "github.com/fnbridge/fnbridge/config"`, ""},
		"a folder with a dot":    {".cache/tools/a.go", `import "github.com/fnbridge/fnbridge/config"`, ""},
		"a name like the module": {"bridge/ops/a.go", `import "github.com/fnbridge/fnbridge-extras/x"`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tree := fstest.MapFS{
				tt.file:              {Data: []byte("package p\n" + tt.source + "\n")},
				"go.mod":             {Data: []byte("module " + module + "\n")},
				"charts/test/go.mod": {Data: []byte("module example.org/charts\n")},
				"docs/example.go.md": {Data: []byte("no Go file")},
			}
			broken, _, err := check(tree, table())
			require.NoError(t, err)
			if tt.want == "" {
				require.Empty(t, broken)
				return
			}
			require.Len(t, broken, 1)
			require.Contains(t, broken[0], tt.want)
		})
	}
}

// check reads the imports of every Go file of the module, whatever its build tags, and returns what the table
// forbids, with the packages that it has seen. It parses the files itself: the answer of go list can be an old one,
// since go test cannot see that it depends on them.
func check(tree fs.FS, table map[string]rules) (broken, seen []string, err error) {
	err = fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if outsideModule(tree, name) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		pkg := rowOf(path.Dir(name))
		first := !slices.Contains(seen, pkg)
		if first {
			seen = append(seen, pkg)
		}
		row, ok := table[pkg]
		switch {
		case ok:
		case isTestSupport(pkg):
			row = supportRules()
		default:
			if first {
				broken = append(broken, pkg+" has no row in the table: every package has its place in the layout")
			}
			return nil
		}
		imports, err := importsOf(tree, name)
		if err != nil {
			return err
		}
		for _, imported := range imports {
			if complaint := row.judge(name, imported); complaint != "" {
				broken = append(broken, name+": "+complaint)
			}
		}
		return nil
	})
	return broken, seen, err
}

// outsideModule tells whether the go command would find packages of this module in the folder.
func outsideModule(tree fs.FS, folder string) bool {
	if folder == "." {
		return false
	}
	base := path.Base(folder)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "vendor" {
		return true
	}
	_, err := fs.Stat(tree, path.Join(folder, "go.mod"))
	return err == nil
}

func importsOf(tree fs.FS, name string) ([]string, error) {
	source, err := fs.ReadFile(tree, name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	imports := make([]string, 0, len(file.Imports))
	for _, spec := range file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		imports = append(imports, imported)
	}
	return imports, nil
}

// judge returns what is wrong with file importing the package, or nothing.
func (r rules) judge(file, imported string) string {
	pkg, isTest := path.Dir(file), strings.HasSuffix(file, "_test.go")
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	if !isOurs {
		firstElement, _, _ := strings.Cut(imported, "/")
		switch {
		case imported == "C":
			return "the binary is static, so no package may use cgo"
		case r.standardOnly && !isTest && strings.Contains(firstElement, "."):
			return fmt.Sprintf("%s may import the standard library only, not %s", pkg, imported)
		}
		return ""
	}
	switch {
	case slices.Contains(r.allowed, rowOf(ours)):
		return ""
	case isTest && (ours == pkg || isTestSupport(ours) || r.testsImportAnything):
		return ""
	case isTestSupport(ours):
		if isTestSupport(pkg) {
			return ""
		}
		return fmt.Sprintf("only tests may import %s", ours)
	case slices.Contains(r.allowed, everything) && !strings.HasPrefix(ours, "cmd/"):
		return ""
	}
	return fmt.Sprintf("%s may not import %s", pkg, ours)
}

// rowOf returns the name under which a package is in the table.
func rowOf(pkg string) string {
	if path.Dir(pkg) == "sinks" && pkg != testSupport && pkg != embeddedNATS {
		return aKind
	}
	return pkg
}

func isTestSupport(pkg string) bool {
	return pkg == testSupport || strings.HasPrefix(pkg, testSupport+"/") || pkg == deliveryTestSupport
}
