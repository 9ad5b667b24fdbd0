package erofs

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

const noAttribute = unix.ENOATTR

// namedXattrs returns nothing: macOS has no way to name a file below an open
// directory for these calls, and no attributes on such files that Linux knows.
func namedXattrs(*os.File, string) ([]tarstream.Xattr, error) { return nil, nil }
