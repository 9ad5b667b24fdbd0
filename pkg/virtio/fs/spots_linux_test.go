package fs

import (
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestFindTogether has threads find a file again at once, by the second of its names:
// the host has removed the first.
func TestFindTogether(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/there", nil, 0o644))
	var st unix.Statx_t
	require.NoError(t, unix.Statx(unix.AT_FDCWD, dir+"/there", 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME|unix.STATX_MNT_ID, &st))
	d, err := New(Config{Tag: "share", Path: dir})
	require.NoError(t, err)
	defer d.Close()
	table := &d.srv.nodes
	id, _, errno := table.enter(rootID, []byte("there"), &st)
	require.Zero(t, errno)
	n := table.byID[id]
	for range 5000 {
		table.linkedAs(n, rootID, []byte("gone"))
		require.Equal(t, 1, table.linked)
		var errs [2]syscall.Errno
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				held, _, errno := table.hold(id)
				if errs[i] = errno; errno == 0 {
					table.unpin(held)
				}
			})
		}
		wg.Wait()
		require.Equal(t, [2]syscall.Errno{}, errs)
		require.Equal(t, "there", string(n.at.name))
		var victims [evictMost]int
		table.mu.Lock()
		k := table.evict(&victims)
		table.mu.Unlock()
		require.Equal(t, 1, k)
		closeFD(victims[0])
		table.mu.Lock()
		table.dropAlso(n)
		table.mu.Unlock()
	}
	require.Zero(t, table.linked)
}
