package vmm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/stretchr/testify/require"
)

type numbered struct {
	virtio.Device
	volume bool
	n      int
}

// TestPlaced looks at which devices share interrupt lines.
func TestPlaced(t *testing.T) {
	const lines = 19
	for _, c := range []struct{ others, volumes, mixed int }{
		{6, 0, 0}, {6, 1, 0}, {6, 13, 0}, {6, 16, 0}, {5, 32, 4}, {6, 32, 6}, {7, 32, 7}, {6, 26, 0},
	} {
		var others, volumes []virtio.Device
		for i := range c.others {
			others = append(others, &numbered{n: i})
		}
		for i := range c.volumes {
			volumes = append(volumes, &numbered{volume: true, n: i})
		}
		list := placed(others, volumes, lines)
		require.Len(t, list, c.others+c.volumes)
		mixed, next := 0, map[bool]int{}
		for i, d := range list {
			d := d.(*numbered)
			require.Equal(t, next[d.volume], d.n, "order is kept: the guest numbers by it")
			next[d.volume]++
			if i >= lines && d.volume != list[i-lines].(*numbered).volume {
				mixed++
			}
		}
		require.Equal(t, c.mixed, mixed, "%+v", c)
	}
}

// TestDescriptorShare adds up what volumes may hold: a quarter, or the least that each
// can do with.
func TestDescriptorShare(t *testing.T) {
	for n := uint64(1024); n <= 1<<20; n *= 4 { // 1024 and 4096 are what systems set
		for volumes := 1; volumes <= 32; volumes++ {
			share := descriptorShare(n, volumes)
			if share != fewestDescriptors {
				require.LessOrEqual(t, uint64(share*volumes), n/4, "%d volumes, %d descriptors", volumes, n)
			}
		}
	}
	require.Equal(t, 256, descriptorShare(1024, 1))
	require.Equal(t, fewestDescriptors, descriptorShare(1024, 4))
	require.Equal(t, 64, descriptorShare(4096, 16))
	require.Equal(t, 1024, descriptorShare(4096, 1))
	require.Equal(t, mostDescriptors, descriptorShare(1<<63, 1))
	require.Equal(t, fewestDescriptors, descriptorShare(0, 1), "when it is not known")
}

// TestInodeShare adds up what volumes may take of the heap.
func TestInodeShare(t *testing.T) {
	require.Equal(t, 512<<10, inodeShare(1))
	require.Equal(t, 16<<10, inodeShare(32))
	for n := 1; n <= 40; n++ {
		each := inodeShare(n)
		require.GreaterOrEqual(t, each, 13000, "a large program's files, with %d volumes", n)
		require.LessOrEqual(t, n*each*fs.InodeBytes, volumeHeapLimit-networkHeapLimit)
	}
}

// TestLockEmpty has boxes that want to fill one volume.
func TestLockEmpty(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	require.NoError(t, os.Mkdir(data, 0o755))
	mounts := func() []Mount {
		return []Mount{{}, {Share: &Share{Path: data, Populate: true}}, {Share: &Share{Path: data, Populate: true}}, {Share: &Share{Path: data}}}
	}
	fills := func(list []Mount) (n int) {
		for _, m := range list {
			if m.Point.Populate {
				n++
			}
		}
		return n
	}
	first := mounts()
	release, err := lockEmpty(ctx, first, lockLimit)
	require.NoError(t, err)
	require.Equal(t, 1, fills(first))

	gone, cancel := context.WithTimeout(ctx, 3*lockRetry)
	defer cancel()
	other, err := lockEmpty(gone, mounts(), lockLimit)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	other()
	other, err = lockEmpty(ctx, mounts(), 3*lockRetry)
	require.ErrorContains(t, err, "volume "+filepath.Base(dir)+": another box is filling it")
	other()

	type result struct {
		fills int
		err   error
	}
	waits := make(chan result)
	go func() {
		second := mounts()
		release, err := lockEmpty(ctx, second, lockLimit)
		release()
		waits <- result{fills(second), err}
	}()
	time.Sleep(2 * lockRetry)
	require.NoError(t, os.WriteFile(filepath.Join(data, "f"), nil, 0o644))
	release()
	require.Equal(t, result{0, nil}, <-waits, "it is filled by now")

	require.NoError(t, os.Mkdir(filepath.Join(data, agentapi.Populating), 0o755))
	third := mounts()
	release, err = lockEmpty(ctx, third, lockLimit)
	require.NoError(t, err)
	release()
	require.Equal(t, 1, fills(third), "somebody did not finish")
}

// TestUnfilledMarks is a volume in which a guest left links, or a file, for marks.
func TestUnfilledMarks(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	require.NoError(t, os.Symlink(other, filepath.Join(dir, agentapi.Populating)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, agentapi.Populated), nil, 0o644))
	require.False(t, unfilled(dir))

	// Somebody was killed while most of the copy was in place already.
	dir = t.TempDir()
	require.True(t, unfilled(dir))
	for i := range 500 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644))
	}
	require.False(t, unfilled(dir))
	require.NoError(t, os.Mkdir(filepath.Join(dir, agentapi.Populated), 0o700))
	require.True(t, unfilled(dir))
}
