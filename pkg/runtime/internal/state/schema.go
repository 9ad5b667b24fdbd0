package state

import (
	"context"
	"database/sql"
	"fmt"
)

// steps are the versions of the schema, each as what makes it of the one before;
// the first of nothing. SQLite's user_version says how many a file has had. A
// released step never changes: homes exist that had it.
var steps = []string{schemaBoxes, schemaExit, schemaEvents, schemaCounters, schemaPorts, schemaVolumes, schemaMadeVolumes}

// schemaVersion is the version that this program works with.
var schemaVersion = len(steps)

// schemaBoxes is version 1.
const schemaBoxes = `
CREATE TABLE boxes (
	id         TEXT PRIMARY KEY,
	name       TEXT UNIQUE,
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL,
	options    BLOB NOT NULL,
	image      TEXT NOT NULL,
	status     TEXT NOT NULL,
	reason     TEXT NOT NULL,
	pid        INTEGER NOT NULL,
	pid_start  INTEGER NOT NULL,
	boot_id    TEXT NOT NULL,
	ephemeral  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;`

// schemaExit is version 2: how and when main commands ended.
const schemaExit = `
ALTER TABLE boxes ADD COLUMN exit_code INTEGER;
ALTER TABLE boxes ADD COLUMN started_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE boxes ADD COLUMN finished_at INTEGER NOT NULL DEFAULT 0;`

// schemaPorts is version 5: the ports of the host that lead to a box.
const schemaPorts = `ALTER TABLE boxes ADD COLUMN ports TEXT NOT NULL DEFAULT '';`

// migrate brings an older file, or an empty one, to the version of this program.
// A newer one is refused and left as it is.
func (s *DB) migrate(ctx context.Context) error {
	var v int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return err
	}
	if v == schemaVersion {
		return nil
	}
	if v > schemaVersion {
		return newer(v)
	}
	return s.write(ctx, true, func(tx *sql.Tx) error {
		// Another process may have been first while this one waited for the lock.
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
			return err
		}
		if v > schemaVersion {
			return newer(v)
		}
		for ; v < schemaVersion; v++ {
			if _, err := tx.ExecContext(ctx, steps[v]); err != nil {
				return fmt.Errorf("schema %d: %w", v+1, err)
			}
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
		return err
	})
}

func newer(v int) error {
	return fmt.Errorf("%w: schema %d, this one knows %d; use the newer boxlite or another home", ErrNewer, v, schemaVersion)
}
