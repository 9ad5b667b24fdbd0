package vmm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// lockEmpty says in the mounts which volumes the guest shall fill with what its image
// has, and locks those until release: of several boxes with a new volume one fills it,
// and the others wait, for at most limit. release may be called in any case.
func lockEmpty(ctx context.Context, mounts []Mount, limit time.Duration) (release func(), err error) {
	locked := map[string]*os.File{}
	release = func() {
		for _, f := range locked {
			f.Close()
		}
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for i := range mounts {
		m := &mounts[i]
		m.Point.Populate = false
		if m.Share == nil || !m.Share.Populate || !unfilled(m.Share.Path) {
			continue
		}
		dir := filepath.Dir(m.Share.Path) // the volume's own folder, which no guest sees
		if locked[dir] != nil {
			continue // it is there twice: the first one fills it
		}
		f, err := lockFolder(limited, dir)
		if err != nil {
			if limited.Err() != nil && ctx.Err() == nil {
				err = fmt.Errorf("another box is filling it, and was not done within %v: stop the one that hangs", limit)
			}
			return release, fmt.Errorf("vmm: lock volume %s: %w", filepath.Base(dir), err)
		}
		locked[dir] = f
		m.Point.Populate = unfilled(m.Share.Path)
	}
	return release, nil
}

// lockLimit is how long a box waits for others to fill its volumes: whoever does
// it may hang, or be hostile.
const lockLimit = time.Minute

// lockRetry is how often a lock that somebody has is tried.
const lockRetry = 10 * time.Millisecond

func lockFolder(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case nil:
			return f, nil
		case unix.EWOULDBLOCK, unix.EINTR:
		default:
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(lockRetry):
		}
	}
}

// unfilled reports whether a folder is empty, or was being filled by somebody who did
// not live to finish.
func unfilled(dir string) bool {
	for _, mark := range []string{agentapi.Populating, agentapi.Populated} {
		// A mark is a folder: anything else of its name a guest has left there.
		if fi, err := os.Lstat(filepath.Join(dir, mark)); err == nil && fi.IsDir() {
			return true
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		return false // the guest's mount will tell
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	return len(names) == 0 && err == io.EOF
}
