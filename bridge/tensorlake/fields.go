package tensorlake

import (
	"bytes"
	"fmt"
	"strings"
)

// key is a top-level key that one of the shapes knows.
type key int

const (
	keyWorkflowName key = iota
	keyInvocationID
	keyFnStatus

	keyJobID
	keyStatus
	keyDataset
	keyCreatedAt
	keyFinishedAt
	keyUsage

	keyEventID
	keyEventType
	keyEventVersion
	keyOccurredAt
	keyProjectID
	keySourceID
	keySourceRevision
	keySourceOrdinal
	keyData

	keyCount
)

// keyNames returns the names of the keys, by key.
func keyNames() [keyCount]string {
	return [...]string{
		"workflow_name", "invocation_id", "fn_status",
		"job_id", "status", "dataset", "created_at", "finished_at", "usage",
		"event_id", "event_type", "event_version", "occurred_at", "project_id", "source_id", "source_revision",
		"source_ordinal", "data",
	}
}

func (k key) String() string { return keyNames()[k] }

// fields are the values of the known keys of one payload, as they stand in it.
type fields struct {
	values [keyCount][]byte
	twice  [keyCount]bool
}

func (f *fields) read(object []byte) {
	names := keyNames()
	for literal, value := range members(object) {
		name := literal[1 : len(literal)-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name = []byte(unquote(literal))
		}
		for k := range keyCount {
			if string(name) == names[k] {
				f.twice[k] = f.values[k] != nil
				f.values[k] = value
				break
			}
		}
	}
}

func (f *fields) hasAll(keys []key) bool {
	for _, k := range keys {
		if f.values[k] == nil {
			return false
		}
	}
	return true
}

// nearest says what keeps a payload from having any shape: which keys the one that it is nearest to lacks.
func (f *fields) nearest() string {
	best, missing := 0, []key(nil)
	for _, keys := range [][]key{envelopeKeys(), workflowKeys(), documentKeys()} {
		var lacks []key
		for _, k := range keys {
			if f.values[k] == nil {
				lacks = append(lacks, k)
			}
		}
		if has := len(keys) - len(lacks); has > best {
			best, missing = has, lacks
		}
	}
	if best == 0 {
		return "it has the keys of no known shape"
	}
	names := make([]string, len(missing))
	for i, k := range missing {
		names[i] = k.String()
	}
	return "it has the keys of no known shape; the nearest one lacks " + strings.Join(names, " and ")
}

// fieldReader reads the fields of one shape and keeps the first thing that is wrong with them.
type fieldReader struct {
	*fields
	problem string
}

func (r *fieldReader) fail(format string, args ...any) {
	if r.problem == "" {
		r.problem = fmt.Sprintf(format, args...)
	}
}

// value returns the value of k, nil when it is absent.
func (r *fieldReader) value(k key) []byte {
	if r.twice[k] {
		r.fail("%s appears twice", k)
	}
	return r.values[k]
}

// required returns the value of k, and complains unless it has the type whose values begin with start.
func (r *fieldReader) required(k key, start byte) []byte {
	value := r.value(k)
	switch {
	case value == nil:
		r.fail("%s is missing", k)
	case value[0] != start:
		r.fail("%s is %s, not %s", k, kindOf(value), kindOf([]byte{start}))
	}
	return value
}

// optional is required for a field that may be absent or null; then it returns nil.
func (r *fieldReader) optional(k key, start byte) []byte {
	if value := r.value(k); value == nil || value[0] == 'n' {
		return nil
	}
	return r.required(k, start)
}
