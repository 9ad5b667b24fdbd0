package oci

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// A lock is an flock on a file, so the kernel lets go of it however its holder
// ends. The locked file is at the same time the thing it guards (a partial
// download, a temporary file): whoever finds one that nobody has locked knows
// that its owner is dead.

// lockPoll is how often a busy lock is tried again; waiting in flock itself
// could not be cancelled.
const lockPoll = 50 * time.Millisecond

var errLocked = errors.New("locked by another process")

// tryLock opens path, creating it if need be, and locks it. errLocked: another
// open file has the lock.
func tryLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			f.Close()
			return nil, err
		}
		// The last holder may have removed or renamed the file between
		// our open and our lock; then the lock guards nothing.
		if same, err := stillAt(f, path); err != nil {
			f.Close()
			return nil, err
		} else if same {
			return f, nil
		}
		f.Close()
	}
}

// lockWait is tryLock that waits; busy is called before every wait.
func lockWait(ctx context.Context, path string, busy func()) (*os.File, error) {
	for {
		f, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		busy()
		t := time.NewTimer(lockPoll)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		case <-t.C:
		}
	}
}

// removeDead deletes path unless a living process has it locked.
func removeDead(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f); err != nil {
		return err
	}
	if same, err := stillAt(f, path); err != nil || !same {
		return err
	}
	return os.Remove(path)
}

func stillAt(f *os.File, path string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

func flock(f *os.File) error { return flockAs(f, syscall.LOCK_EX) }

// flockAs locks in a way of flock(2), without waiting.
func flockAs(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			return errLocked
		default:
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}
