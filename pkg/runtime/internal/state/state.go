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
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
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
	Timings     string // JSON of the last boot's stages; see SetTimings
	Ports       string // JSON of the forwarded ports of the last run; see SetPorts

	// Volumes are those that the box names. Insert adds what is missing of them; they
	// are not read back.
	Volumes []Volume

	events []Event // to be stored with it; see Record
}

// DB is the state of one home.
type DB struct {
	db   *sql.DB
	path string
	file fileID
	once sync.Once // closes
}

// Open opens the state at path, making it when it is not there. A file of a newer
// version is ErrNewer and is not touched.
func Open(ctx context.Context, path string) (*DB, error) {
	if err := Create(path); err != nil {
		return nil, fmt.Errorf("state: make %s: %w", path, err)
	}
	file, err := acquire(path)
	if err != nil {
		return nil, fmt.Errorf("state: open %s: %w", path, err)
	}
	db, err := connect(path, "journal_mode(WAL)")
	if err != nil {
		file.release()
		return nil, err
	}
	s := &DB{db: db, path: path, file: file}
	// Several processes that make a new file a WAL database at once stand in each
	// other's way; SQLite sees that and fails without waiting.
	for begin := time.Now(); ; time.Sleep(openRetry) {
		err := s.migrate(ctx)
		if err == nil {
			return s, nil
		} else if !isBusy(err) || time.Since(begin) > busyTimeout*time.Millisecond {
			s.Close()
			return nil, fmt.Errorf("state: open %s: %w", path, s.explain(err))
		}
	}
}

const openRetry = 2 * time.Millisecond

// connect opens a file with further pragmas for its one connection.
func connect(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_pragma": append([]string{
		fmt.Sprintf("busy_timeout(%d)", busyTimeout),
	}, pragmas...), "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("state: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer a process; readers are as quick as the lock
	return db, nil
}

// storedVersion is the schema's version as the file's header has it, 0 when there
// is none. SQLite itself cannot be asked that without it changing the file.
func storedVersion(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	var header [64]byte // https://sqlite.org/fileformat.html, 1.3
	if _, err := io.ReadFull(f, header[:]); err != nil || string(header[:16]) != "SQLite format 3\x00" {
		return 0
	}
	return int(int32(binary.BigEndian.Uint32(header[60:])))
}

// write does something in one transaction. What is lasting has reached the disk
// when write returns, which costs about a millisecond; the rest is as good as
// stored to all processes, but a power cut may take the last of it.
func (s *DB) write(ctx context.Context, lasting bool, do func(*sql.Tx) error) error {
	conn, err := s.db.Conn(ctx) // the pragma belongs to the connection, and must precede the transaction
	if err != nil {
		return s.explain(err)
	}
	defer conn.Close()
	level := "NORMAL"
	if lasting {
		level = "FULL"
	}
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = "+level); err != nil {
		return s.explain(err)
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return s.explain(err)
	}
	if err := do(tx); err != nil {
		tx.Rollback()
		return s.explain(err)
	}
	return s.explain(tx.Commit())
}

// lasting reports whether changes of a box must survive a power cut. An ephemeral
// box itself does not.
func (s *DB) lasting(ctx context.Context, id string) bool {
	var ephemeral bool
	err := s.db.QueryRowContext(ctx, "SELECT ephemeral FROM boxes WHERE id = ?", id).Scan(&ephemeral)
	return err == nil && !ephemeral
}

// Close closes the database.
func (s *DB) Close() (err error) {
	s.once.Do(func() {
		err = s.db.Close()
		s.file.release()
	})
	return err
}

// BootID identifies the host's current boot, so that pids of an earlier one are
// not believed. It is empty where the system does not tell.
func BootID() string {
	b, _ := os.ReadFile(filepath.Clean("/proc/sys/kernel/random/boot_id"))
	return string(b[:min(len(b), 36)])
}
