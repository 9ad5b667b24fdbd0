package fs_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/virtio/fs"
)

// TestLinkedAndRemoved makes files as git makes objects: under one name, which goes
// once the file has its own. There are more than there are descriptors.
func TestLinkedAndRemoved(t *testing.T) {
	const files = 200
	g := mount(t, fs.Config{Path: t.TempDir(), MaxDescriptors: 64})
	do := func(op uint32, body []byte) {
		t.Helper()
		require.Zero(t, g.simple(op, root, body))
	}
	nodes := make([]uint64, files)
	for i := range files {
		temporary, name, third := fmt.Sprint("tmp", i), fmt.Sprint("object", i), fmt.Sprint("third", i)
		node, fh, errno := g.create(root, temporary, os.O_RDWR, 0o644)
		require.Zero(t, errno)
		_, errno = g.write(node, fh, 0, []byte(name))
		require.Zero(t, errno)
		require.Zero(t, g.release(node, fh))
		linked, _, errno := g.entry(opLink, root, pack(node, name))
		require.Zero(t, errno)
		require.Equal(t, node, linked)
		switch i % 4 {
		case 0: // as git does
			do(opUnlink, pack(temporary))
		case 1: // the new name goes, and the old one stays
			do(opUnlink, pack(name))
			do(opRename, pack(uint64(root), temporary, name))
		case 2: // the name that was seen last is not the one that goes
			g.find(root, temporary)
			do(opUnlink, pack(temporary))
		case 3:
			do(opRename, pack(uint64(root), name, third))
			do(opRename, pack(uint64(root), temporary, third)) // names of one file: nothing happens
			do(opUnlink, pack(temporary))
			do(opRename, pack(uint64(root), third, name))
		}
		nodes[i] = node
	}
	for i, node := range nodes {
		fh, _, errno := g.open(node, os.O_RDONLY)
		require.Zero(t, errno, "file %d: %v", i, errno)
		p, errno := g.read(node, fh, 0, 64)
		require.Zero(t, errno)
		require.Equal(t, fmt.Sprint("object", i), string(p))
		require.Zero(t, g.release(node, fh))
	}
	require.NotZero(t, g.d.Device().(*fs.Device).Counters().Evicted)
}

// TestLastNameRemoved removes a file by a name that the guest has not seen it under.
// The guest may still hold it, so it keeps its descriptor.
func TestLastNameRemoved(t *testing.T) {
	dir := t.TempDir()
	for i := range 200 {
		require.NoError(t, os.WriteFile(fmt.Sprint(dir, "/", i), nil, 0o644))
	}
	g := mount(t, fs.Config{Path: dir, MaxDescriptors: 64})
	node := g.find(root, "0")
	require.NoError(t, os.Rename(dir+"/0", dir+"/moved"))
	require.Zero(t, g.simple(opUnlink, root, pack("moved")))
	for i := 1; i < 200; i++ {
		fh, _, errno := g.open(g.find(root, fmt.Sprint(i)), os.O_RDONLY)
		require.Zero(t, errno)
		require.Zero(t, g.release(g.find(root, fmt.Sprint(i)), fh))
	}
	require.NotZero(t, g.d.Device().(*fs.Device).Counters().Evicted)
	s, errno := g.getattr(node)
	require.Zero(t, errno)
	require.Zero(t, s.nlink)
}

// TestLinkedFull makes more files with two names than may be remembered with both, and
// then files as git makes them.
func TestLinkedFull(t *testing.T) {
	const inodes = 1024
	g := mount(t, fs.Config{Path: t.TempDir(), MaxDescriptors: 64, MaxInodes: inodes})
	link := func(first, name string) {
		t.Helper()
		node, fh, errno := g.create(root, first, os.O_RDWR, 0o644)
		require.Zero(t, errno, "%s: %v", first, errno)
		require.Zero(t, g.release(node, fh))
		_, _, errno = g.entry(opLink, root, pack(node, name))
		require.Zero(t, errno, "%s: %v", name, errno)
	}
	for i := range inodes/8 + 10 {
		link(fmt.Sprint("one", i), fmt.Sprint("two", i))
	}
	for i := range 200 {
		link(fmt.Sprint("tmp", i), fmt.Sprint("object", i))
		require.Zero(t, g.simple(opUnlink, root, pack(fmt.Sprint("tmp", i))))
	}
}

// TestHostileDeepFolders has each folder of a chain under two names as far as the
// device knows, and takes the uppermost away: there must not be two ways to try for
// each.
func TestHostileDeepFolders(t *testing.T) {
	const depth = 60
	dir := t.TempDir()
	for i := range 200 {
		require.NoError(t, os.WriteFile(fmt.Sprint(dir, "/", i), nil, 0o644))
	}
	g := mount(t, fs.Config{Path: dir, MaxDescriptors: 64})
	at, path, first := uint64(root), dir, uint64(0)
	for range depth {
		require.NoError(t, os.MkdirAll(path+"/a/x", 0o755))
		node := g.find(at, "a")
		require.NoError(t, os.Rename(path+"/a", path+"/b")) // the host, or another volume of the box
		require.Equal(t, syscall.ENOTEMPTY, g.simple(opRmdir, at, pack("b")))
		require.NoError(t, os.Remove(path+"/b/x"))
		if first == 0 {
			first = node
		}
		at, path = node, path+"/b"
	}
	for i := range 200 { // so that no folder keeps its descriptor
		node := g.find(root, fmt.Sprint(i))
		fh, _, errno := g.open(node, os.O_RDONLY)
		require.Zero(t, errno)
		require.Zero(t, g.release(node, fh))
	}
	_, errno := g.getattr(at)
	require.Zero(t, errno, "it is found again")
	for i := range 200 {
		g.must(opGetattr, g.find(root, fmt.Sprint(i)), pack(0, 0, uint64(0)), 104)
	}
	g.forget(first, 1)
	_, errno = g.getattr(at)
	require.Contains(t, []syscall.Errno{0, syscall.ESTALE}, errno)
}
