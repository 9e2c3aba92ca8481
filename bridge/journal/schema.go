package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// applicationID marks a SQLite file as a journal of fnbridge ("fnbr").
	applicationID = 0x666e6272
	// schemaVersion is what this program writes, kept in PRAGMA user_version.
	schemaVersion = 6
	// pageSize is that of new journals.
	pageSize = 4096
)

// firstSchema makes version 1; migrations makes of it what this program uses. Times are Unix nanoseconds with 0 for
// none, except an event's own time, which comes from outside and may lie anywhere: it is RFC 3339 text.
const firstSchema = `
CREATE TABLE webhooks (
	seq INTEGER PRIMARY KEY AUTOINCREMENT,
	id TEXT NOT NULL UNIQUE,
	signed_at INTEGER NOT NULL,
	received_at INTEGER NOT NULL,
	body BLOB NOT NULL
) STRICT;
CREATE TABLE sinks (
	sink TEXT NOT NULL PRIMARY KEY,
	cursor INTEGER NOT NULL,
	configured INTEGER NOT NULL,
	state TEXT NOT NULL DEFAULT '',
	last_error TEXT NOT NULL DEFAULT '',
	last_error_at INTEGER NOT NULL DEFAULT 0,
	since INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letters (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	sink TEXT NOT NULL,
	webhook_seq INTEGER NOT NULL,
	event_index INTEGER NOT NULL,
	webhook_id TEXT NOT NULL,
	event_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	event_source TEXT NOT NULL,
	event_subject TEXT NOT NULL,
	event_time TEXT NOT NULL,
	partition_key TEXT NOT NULL,
	workflow TEXT NOT NULL,
	function TEXT NOT NULL,
	status TEXT NOT NULL,
	invocation TEXT NOT NULL,
	project TEXT NOT NULL,
	route TEXT NOT NULL,
	reason TEXT NOT NULL,
	attempts INTEGER NOT NULL,
	first_at INTEGER NOT NULL,
	last_at INTEGER NOT NULL,
	data BLOB NOT NULL,
	UNIQUE (sink, webhook_seq, event_index)
) STRICT;
CREATE INDEX dead_letters_by_sink ON dead_letters (sink, id);
CREATE TABLE settings (
	name TEXT NOT NULL PRIMARY KEY,
	value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`

// finishedBeyond brings the schema to what each sink has finished beyond its cursor, and to what of it stands still.
const finishedBeyond = `
ALTER TABLE sinks ADD COLUMN finished BLOB NOT NULL DEFAULT x'';
ALTER TABLE sinks ADD COLUMN stands_still TEXT NOT NULL DEFAULT '';
`

// migrations returns the statements that turn each version into the next; the first are for version 1. A new journal
// takes the same way, so that one that was migrated is no different from one that was not.
func migrations() []string {
	return []string{`
ALTER TABLE dead_letters ADD COLUMN retry_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN published_at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX dead_letters_to_retry ON dead_letters (sink, id) WHERE retry_at <> 0;
CREATE INDEX dead_letters_to_publish ON dead_letters (sink, id) WHERE published_at = 0;
`, `
ALTER TABLE dead_letters ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN sandbox TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN sandbox_name TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN outcome TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN event_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN source_id TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN sequence TEXT NOT NULL DEFAULT '';
ALTER TABLE dead_letters ADD COLUMN webhook_digest BLOB NOT NULL DEFAULT x'';
ALTER TABLE dead_letters ADD COLUMN replay INTEGER NOT NULL DEFAULT 0;
`, `
CREATE TABLE streams (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	kind TEXT NOT NULL,
	sink TEXT NOT NULL,
	cursor INTEGER NOT NULL,
	through INTEGER NOT NULL,
	since INTEGER NOT NULL,
	until INTEGER NOT NULL,
	ids TEXT NOT NULL,
	events TEXT NOT NULL,
	rate REAL NOT NULL,
	asked_at INTEGER NOT NULL,
	ended_at INTEGER NOT NULL DEFAULT 0,
	ended TEXT NOT NULL DEFAULT '',
	taken INTEGER NOT NULL DEFAULT 0,
	acknowledged INTEGER NOT NULL DEFAULT 0,
	dead_lettered INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO streams (kind, sink, cursor, through, since, until, ids, events, rate, asked_at)
	SELECT 'retry', sink, 0, max(id), -9223372036854775808, 9223372036854775807,
		json_group_array(id), '{}', 0, max(retry_at)
	FROM dead_letters WHERE retry_at <> 0 GROUP BY sink;
DROP INDEX dead_letters_to_retry;
`, packedLetters + pastWebhooks + removedSinks + positions + finishedBeyond, droppedLetters}
}

// requiredColumns lists the tables and columns of a version that must be there.
func requiredColumns(version int) map[string][]string {
	letters := []string{"id"}
	for _, c := range letterColumns(version) {
		letters = append(letters, c.name)
	}
	if version >= 2 {
		letters = append(letters, "published_at")
	}
	if version >= 5 {
		letters = append(letters, "event", "data_bytes")
	}
	if version == 2 || version == 3 { // later versions have retries as streams
		letters = append(letters, "retry_at")
	}
	tables := map[string][]string{
		"webhooks":     {"seq", "id", "signed_at", "received_at", "body"},
		"sinks":        {"sink", "cursor", "configured", "state", "last_error", "last_error_at", "since"},
		"dead_letters": letters,
		"settings":     {"name", "value"},
	}
	if version >= 4 {
		tables["streams"] = strings.Split(streamColumns, ", ")
	}
	if version >= 5 {
		tables["letter_events"] = []string{"webhook_seq", "event"}
		tables["past_webhooks"] = []string{"n", "id", "digest", "until"}
		tables["sinks"] = append(tables["sinks"], "began")
		tables["absences"] = []string{"sink", "after", "through", "since"}
		tables["holes"] = []string{"after", "through"}
		tables["sinks"] = append(tables["sinks"], "position", "missing")
		tables["checkpoints"] = []string{"sink", "cursor", "position"}
		tables["sinks"] = append(tables["sinks"], "finished", "stands_still")
	}
	if version >= 6 {
		tables["dropped_letters"] = []string{"webhook_seq", "sink", "event_index", "id", "reason", "dropped_at"}
	}
	return tables
}

// createSchema fills an empty database.
func createSchema(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	statements := fmt.Sprintf("%s PRAGMA application_id = %d", firstSchema, applicationID)
	if _, err := tx.ExecContext(ctx, statements); err != nil {
		return err
	}
	if err := migrateSchema(ctx, tx, 1); err != nil {
		return err
	}
	return tx.Commit()
}

// migrateSchema brings the database from a version to the present one, inside the caller's transaction.
func migrateSchema(ctx context.Context, tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}, from int,
) error {
	for _, statements := range migrations()[from-1:] {
		if _, err := tx.ExecContext(ctx, statements); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
	return err
}

// rowQuerier is what *sql.DB, *sql.Conn and *sql.Tx have in common for reading.
type rowQuerier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// checkSchema returns the version of the schema. It refuses a database that is not a journal, is newer than this
// program, or misses tables or columns of its version.
func checkSchema(ctx context.Context, q rowQuerier, path string) (version int, err error) {
	var id int
	if err := q.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id); err != nil {
		return 0, damaged(path, err)
	}
	if err := q.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return 0, damaged(path, err)
	}
	if err := checkIdentity(path, id, version); err != nil {
		return 0, err
	}
	for table, want := range requiredColumns(version) {
		have, err := columns(ctx, q, table)
		if err != nil {
			return 0, damaged(path, err)
		}
		for _, column := range want {
			if !slices.Contains(have, column) {
				return 0, &DamagedError{Path: path, Err: fmt.Errorf("the table %s has no column %s", table, column)}
			}
		}
	}
	return version, nil
}

// checkIdentity judges the two numbers by which a journal says what it is.
func checkIdentity(path string, id, version int) error {
	switch {
	case id != applicationID:
		return &DamagedError{Path: path, Err: fmt.Errorf("it is not a journal of fnbridge (application id %#x)",
			uint32(id))} //nolint:gosec // the bits are the number
	case version > schemaVersion:
		return &VersionError{Path: path, Found: version, Known: schemaVersion}
	case version < 1:
		return &DamagedError{Path: path, Err: fmt.Errorf("its schema version is %d", version)}
	default:
		return nil
	}
}

func columns(ctx context.Context, q rowQuerier, table string) (names []string, err error) {
	rows, err := q.QueryContext(ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}
