package charttest

import (
	"os"
	"testing"
)

// lacks skips the test, since the machine lacks something that it needs. With FNBRIDGE_TEST_REQUIRE_ALL=1 in the
// environment, as in CI, it fails the test instead.
func lacks(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") == "1" {
		t.Fatal("FNBRIDGE_TEST_REQUIRE_ALL=1 asks for every test: " + what)
	}
	t.Skip(what)
}

// promtool returns the path of Prometheus' own checker.
func promtool(t *testing.T) string {
	t.Helper()
	path := os.Getenv("PROMTOOL")
	if path == "" {
		lacks(t, "PROMTOOL does not name a promtool: make chart builds one")
	}
	return path
}
