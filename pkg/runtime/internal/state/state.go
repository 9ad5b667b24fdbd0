// Package state keeps what the runtime knows of its boxes in SQLite, so that any
// number of processes can use one home at once and a crash of any of them
// leaves the truth behind.
//
// A DB may be used from any goroutine. Every method is one transaction; none
// waits for anything but another process's transaction, and that at most
// busyTimeout.
package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the pure-Go driver
)

// busyTimeout bounds the wait for another process's write, in milliseconds.
const busyTimeout = 10_000

// Errors about which box is meant.
var (
	ErrNotFound  = errors.New("no such box")
	ErrExists    = errors.New("name is in use")
	ErrAmbiguous = errors.New("id prefix matches several boxes")
	ErrNewer     = errors.New("state was written by a newer version of boxlite")
)

// Box is one row: what a box is, and what was last known of its process.
type Box struct {
	ID        string // ULID
	Name      string // empty for none
	CreatedAt time.Time
	UpdatedAt time.Time // of the last change of Status
	Options   []byte    // JSON of the runtime's box options
	Image     string    // reference or rootfs path, for lists
	Status    string
	Reason    string // why the status is what it is, where there is something to say
	PID       int    // of the VMM process, 0 when there is none
	PIDStart  uint64 // its start time in clock ticks since boot: with PID, its identity
	BootID    string // of the host's boot that PID belongs to
	Ephemeral bool   // goes away when it stops

	ExitCode   *int      // of the main command's last run; nil while there is none, or where it is not known
	StartedAt  time.Time // of the last start; zero for never
	FinishedAt time.Time // of the end that followed; zero while it runs

	ContainerID string
	Timings     string // JSON of the last boot's phases; see SetTimings
}

// DB is the state of one home.
type DB struct{ db *sql.DB }

// Open opens the state at path, making it when it is not there.
func Open(ctx context.Context, path string) (*DB, error) {
	q := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout),
		"journal_mode(WAL)",
		"synchronous(NORMAL)", // a power cut may lose the last change, never the order or the file
	}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("state: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer a process; readers are as quick as the lock
	s := &DB{db}
	if err := s.migrate(ctx); err != nil {
		db.Close()
		return nil, fmt.Errorf("state: open %s: %w", path, err)
	}
	return s, nil
}

func (s *DB) write(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		tx.Rollback()
		return err
	}
	return tx.Commit()
}

// Close closes the database.
func (s *DB) Close() error { return s.db.Close() }

// BootID identifies the host's current boot, so that pids of an earlier one are
// not believed. It is empty where the system does not tell.
func BootID() string {
	b, _ := os.ReadFile(filepath.Clean("/proc/sys/kernel/random/boot_id"))
	return string(b[:min(len(b), 36)])
}
