package fs

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestInodeBytes fills a table with names that were made as long as they can be, just
// after its maps have grown.
func TestInodeBytes(t *testing.T) {
	const inodes = 60000
	s := &server{}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what the first one found is swept
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s.nodes.init(s, inodes, 64)
	for i := range inodes {
		st := &unix.Statx_t{Ino: uint64(i), Mode: unix.S_IFREG}
		for _, n := range []int{200, nameMax} {
			name := bytes.Repeat([]byte{'x'}, n)
			copy(name, fmt.Sprint(i))
			id, _, errno := s.nodes.enter(rootID, name, st)
			require.Zero(t, errno)
			if n == nameMax {
				s.nodes.linkedAs(s.nodes.byID[id], rootID, append(name[:n-1], 'y'))
			}
		}
	}
	require.Equal(t, inodes/linkedShare, s.nodes.linked)
	each := float64(heap()-before) / inodes
	t.Logf("%.0f bytes each", each)
	require.Less(t, each, float64(InodeBytes))
	require.Greater(t, each, float64(InodeBytes)/2, "the heap is what it is said to be")
	runtime.KeepAlive(s)
}
