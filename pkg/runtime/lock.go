package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockDir makes a box's folder and locks it for a change of the box's life. The
// lock is the folder's own, so it leaves no file behind, and the kernel drops
// it with its holder.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed in between
		} else if err != nil {
			return nil, err
		}
		switch err := waitFlock(ctx, f, true); {
		case err != nil:
			f.Close()
			return nil, err
		case sameFile(f, dir):
			return f, nil
		}
		f.Close() // it was removed while we waited
	}
}

// lockFile locks a file of a box's folder, making both, alone or together with others.
func lockFile(ctx context.Context, dir, name string, alone bool) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := waitFlock(ctx, f, alone); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// waitFlock waits for a lock that nobody else has, or that others may share.
func waitFlock(ctx context.Context, f *os.File, alone bool) error {
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return nil
		} else if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return os.NewSyscallError("flock", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}
