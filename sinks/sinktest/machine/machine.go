// Package machine is what tests need of the machine that they run on, and how they do without it.
package machine

import (
	"os"
	"testing"
)

// Lacks skips the test, since the machine lacks something that it needs. With FNBRIDGE_TEST_REQUIRE_ALL=1 in the
// environment, as in CI, it fails the test instead.
func Lacks(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("FNBRIDGE_TEST_REQUIRE_ALL") == "1" {
		tb.Fatalf("FNBRIDGE_TEST_REQUIRE_ALL=1 asks for every test: "+format, args...)
	}
	tb.Skipf(format, args...)
}
