package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// SQLite's locks between processes are POSIX record locks, which a process loses
// when it closes any descriptor of the file, whoever opened it
// (https://sqlite.org/howtocorrupt.html §2.2). So nobody in a process that has a
// database open may open its main file: these functions see to that.

// fileID is a file, by whatever name.
type fileID struct{ dev, ino uint64 }

var inUse struct {
	mu    sync.Mutex
	count map[fileID]int // open DBs of this process
}

// Create makes the file of a database that has none, readable by this user only:
// what boxes have in their environments may be secret.
func Create(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// It gets its name when it is closed.
	f, err := os.CreateTemp(filepath.Dir(path), ".state-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	if err == nil || errors.Is(err, os.ErrExist) {
		return nil
	}
	// A file system without links. Nobody of this process has locks on a new file,
	// unless it is very quick.
	if f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); errors.Is(err, os.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return f.Close()
}

// acquire checks the database file and registers its use, which release ends.
func acquire(path string) (fileID, error) {
	inUse.mu.Lock()
	defer inUse.mu.Unlock()
	fi, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, fmt.Errorf("%s: no inode", path)
	}
	id := fileID{uint64(st.Dev), st.Ino}
	if inUse.count[id] == 0 { // or it was checked already
		if v := storedVersion(path); v > schemaVersion {
			return fileID{}, newer(v)
		}
	}
	if inUse.count == nil {
		inUse.count = make(map[fileID]int)
	}
	inUse.count[id]++
	return id, nil
}

// release comes after SQLite has closed the file.
func (id fileID) release() {
	inUse.mu.Lock()
	defer inUse.mu.Unlock()
	if inUse.count[id]--; inUse.count[id] == 0 {
		delete(inUse.count, id)
	}
}
