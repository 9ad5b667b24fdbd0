package state

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Errors about the database as a whole.
var (
	ErrNewer   = errors.New("state was written by a newer version of boxlite")
	ErrCorrupt = errors.New("the file is damaged or is no database")
	ErrFull    = errors.New("no space left on the disk that it is on")
)

// explain puts SQLite's words about the file into ours.
func (s *DB) explain(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff { // the rest is detail
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%s: %w (%v): put a copy in its place, or move it away together with its -wal and -shm files to begin anew", s.path, ErrCorrupt, err)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%s: %w (%v): free some", s.path, ErrFull, err)
	}
	return err
}

// isBusy reports whether SQLite would not wait for another process.
func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}
