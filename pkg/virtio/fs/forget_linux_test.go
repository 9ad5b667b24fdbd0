package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
	"github.com/anthropics/boxlite/pkg/virtio/virtiotest"
)

// TestForgetAndOpen opens files while another queue forgets them: a file that was
// opened can be read, and is that file, whatever was looked up since.
func TestForgetAndOpen(t *testing.T) {
	dir := t.TempDir()
	for i := range 4 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte{byte('0' + i)}, 0o644))
	}
	g := mount(t, fs.Config{Path: dir})
	in, out := g.in, g.out
	opened := 0
	for i := range long(500) {
		name := fmt.Sprint(i % 4)
		node := g.find(root, name)
		g.in = in + space/2
		g.d.Rings[0].Add(virtiotest.Buf{Addr: g.in, Len: g.put(opForget, node, pack(uint64(1)))})
		g.in, g.out = in, out
		n := g.put(opOpen, node, pack(os.O_RDONLY, 0))
		g.d.Rings[1].Add(virtiotest.Buf{Addr: in, Len: n}, virtiotest.Buf{Addr: out, Len: 32, Write: true})
		for q := range 2 { // which one is first differs
			g.d.Kick((q + i) % 2)
		}
		for q := range 2 {
			_, ok := g.d.WaitUsed(q)
			require.True(t, ok, "%q", g.d.Logged())
		}
		answer := append([]byte(nil), g.d.Bytes(out, 32)...)
		if le.Uint32(answer[4:]) != 0 {
			continue
		}
		opened++
		fh := le.Uint64(answer[16:])
		other := g.find(root, fmt.Sprint((i+1)%4))
		p, errno := g.read(node, fh, 0, 10)
		require.Zero(t, errno)
		require.Equal(t, name, string(p))
		require.Zero(t, g.release(node, fh))
		g.forget(other, 1)
	}
	t.Log("opened: ", opened)
	require.NotZero(t, opened)
}
