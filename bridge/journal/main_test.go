package journal

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(playRole(role))
	}
	goleak.VerifyTestMain(m)
}

// roleVariable makes the test binary do one thing as another process.
const roleVariable = "JOURNAL_TEST_ROLE"

func playRole(string) int { return 1 }
