package app_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const guaranteesPage = "docs/guarantees.md"

var (
	// shownByTest is a test that the page names, with its file; shownByFault one of the torture run's faults.
	shownByTest  = regexp.MustCompile("\\[`(\\w+)`\\]\\(\\.\\./([^)]+)\\)")
	shownByFault = regexp.MustCompile(`\*((?:bridge|nats|kafka|disk|replicas): [^*]+)\*`)
	playedFault  = regexp.MustCompile(`\{\s*"((?:bridge|nats|kafka|disk|replicas): [^"]+)"`)
)

// Each failure that the page speaks of is shown by tests that are there, and each fault of the torture run is on the
// page.
func TestGuaranteesPage(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, guaranteesPage))
	require.NoError(t, err)
	tests := shownByTest.FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, tests)
	for _, m := range tests {
		require.True(t, strings.HasPrefix(m[1], "Test"), "%s is no test", m[1])
		require.True(t, strings.HasSuffix(m[2], "_test.go"), "%s holds no tests", m[2])
		source, err := os.ReadFile(filepath.Join(root, m[2]))
		require.NoError(t, err, "%s names %s", guaranteesPage, m[1])
		require.Contains(t, string(source), "\nfunc "+m[1]+"(t *testing.T)",
			"%s has no %s, which %s names", m[2], m[1], guaranteesPage)
	}

	sources, err := filepath.Glob(filepath.Join(root, "test/torture/*_test.go"))
	require.NoError(t, err)
	played := []string{}
	for _, name := range sources {
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, m := range playedFault.FindAllStringSubmatch(string(source), -1) {
			played = append(played, m[1])
		}
	}
	require.NotEmpty(t, played)
	named := []string{}
	for _, m := range shownByFault.FindAllStringSubmatch(string(text), -1) {
		require.Contains(t, played, m[1], "%s names a fault that the torture run does not play", guaranteesPage)
		named = append(named, m[1])
	}
	for _, fault := range played {
		require.Contains(t, named, fault, "%s does not say what happens at this fault of the torture run", guaranteesPage)
	}

	rows := 0
	_, table, found := strings.Cut(string(text), "\n## What happens when")
	require.True(t, found)
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "## ") {
			break
		}
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| failure ") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		require.Len(t, cells, 5, "%s", line)
		require.False(t, slices.ContainsFunc(cells,
			func(cell string) bool { return strings.TrimSpace(cell) == "" }), "a cell is empty: %s", line)
		last := cells[len(cells)-1]
		require.True(t, shownByTest.MatchString(last) || shownByFault.MatchString(last), "no test shows this: %s", line)
		rows++
	}
	require.Greater(t, rows, 20)
}
