package erofs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

const noAttribute = unix.ENODATA

// namedXattrs reads the attributes of a file that is not to be opened: a link,
// device, FIFO or socket. The parent's descriptor keeps the path inside it.
func namedXattrs(parent *os.File, name string) ([]tarstream.Xattr, error) {
	path := fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name)
	return readXattrs(
		func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(attr string, b []byte) (int, error) { return unix.Lgetxattr(path, attr, b) })
}
