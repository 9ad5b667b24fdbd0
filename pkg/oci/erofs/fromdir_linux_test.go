package erofs

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/oci/erofs/erofstest"
)

func fromDir(t testing.TB, path string) (layer, error) {
	t.Helper()
	var blob, meta bytes.Buffer
	info, err := FromDir(t.Context(), path, &blob, &meta, Options{})
	return layer{info, blob.Bytes(), meta.Bytes()}, err
}

// makeFolder fills a folder with every kind of file this user may make.
func makeFolder(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	in := func(name string) string { return filepath.Join(root, name) }
	for _, d := range []string{"", "a", "a/b", "empty", ".wh.dir"} {
		require.NoError(t, os.Mkdir(in(d), 0o755))
	}
	for name, size := range map[string]int{"small": 5, "none": 0, "a/large": 70_000, "a/b/x": 513, ".wh.small": 3} {
		require.NoError(t, os.WriteFile(in(name), []byte(strings.Repeat("z", size)), 0o640))
	}
	require.NoError(t, os.Link(in("a/large"), in("z-hard")))
	require.NoError(t, os.Symlink("/etc/passwd", in("outside")))
	require.NoError(t, os.Symlink("..", in("a/up")))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o600))
	l, err := net.Listen("unix", in("sock"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	require.NoError(t, os.Chmod(in("a"), 0o1777|fs.ModeSticky))
	f, err := os.Create(in("sparse"))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(50<<20+1))
	_, err = f.WriteAt([]byte("data"), 20<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	if err := unix.Lsetxattr(in("small"), "user.k", []byte("v"), 0); !errors.Is(err, unix.ENOTSUP) {
		require.NoError(t, err)
	}
	if os.Getuid() == 0 {
		require.NoError(t, os.Lchown(in("outside"), 123, 456_789))
		require.NoError(t, os.Chown(in("small"), 1000, 1001))
		require.NoError(t, os.Chmod(in("small"), 0o755|fs.ModeSetuid))
		require.NoError(t, unix.Mknod(in("zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		require.NoError(t, unix.Lsetxattr(in("outside"), "trusted.link", []byte("on a link"), 0))
		require.NoError(t, unix.Lsetxattr(in("fifo"), "trusted.fifo", []byte("on a fifo"), 0))
	}
	return root
}

func TestFolderComesBackAsItIs(t *testing.T) {
	t.Parallel()
	root := makeFolder(t)
	l, err := fromDir(t, root)
	require.NoError(t, err)
	img := merged(t, l)
	want, err := erofstest.Folder(root)
	require.NoError(t, err)
	requireSame(t, "folder", want, img.list(t), dirLinks)
	require.Less(t, len(img.device), 1<<20, "holes must not be stored")

	again, err := fromDir(t, root)
	require.NoError(t, err)
	require.Equal(t, l, again)
}

func TestUnreadableFolderIsNamed(t *testing.T) {
	t.Parallel()
	_, err := fromDir(t, "/no/such/folder")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "/no/such/folder")

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = fromDir(t, file)
	require.ErrorIs(t, err, unix.ENOTDIR)

	if os.Getuid() != 0 { // root reads everything
		root := makeFolder(t)
		require.NoError(t, os.Chmod(filepath.Join(root, "small"), 0))
		_, err = fromDir(t, root)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, "small")
	}
}
