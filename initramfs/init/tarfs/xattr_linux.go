package tarfs

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxXattrs bounds the attributes of one file in an archive, in bytes: readers of
// archives accept no more than 1 MiB for all of an extended header.
const maxXattrs = 512 << 10

// getXattrs reads the extended attributes of an open file. A file system without
// them has none.
func getXattrs(fd int) ([]Xattr, error) {
	n, err := unix.Flistxattr(fd, nil)
	if err == unix.EOPNOTSUPP || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]byte, n+256) // room for one that is added meanwhile
	if n, err = unix.Flistxattr(fd, names); err != nil {
		return nil, err
	}
	var list []Xattr
	total := 0
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.IndexByte(name, '=') >= 0 {
			continue
		}
		value, ok, err := getXattr(fd, name)
		if err != nil {
			return list, err
		}
		if total += len(name) + len(value); total > maxXattrs {
			return list, unix.E2BIG
		}
		if ok {
			list = append(list, Xattr{name, value})
		}
	}
	return list, nil
}

func getXattr(fd int, name string) (value string, ok bool, err error) {
	b := make([]byte, 256)
	for range 3 {
		n, err := unix.Fgetxattr(fd, name, b)
		switch err {
		case nil:
			return string(b[:n]), true, nil
		case unix.ENODATA, unix.EOPNOTSUPP:
			return "", false, nil // removed meanwhile, or listed without being there
		case unix.ERANGE:
			b = make([]byte, 64<<10) // XATTR_SIZE_MAX
		default:
			return "", false, err
		}
	}
	return "", false, unix.ERANGE
}

// setXattrs gives an open file its attributes. Those that its file system cannot
// have are left out.
func setXattrs(fd int, list []Xattr) error {
	for _, x := range list {
		if strings.IndexByte(x.Name, 0) >= 0 {
			return damaged("a NUL in the name of an extended attribute")
		}
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil && err != unix.EOPNOTSUPP {
			return &xattrError{x.Name, err}
		}
	}
	return nil
}

type xattrError struct {
	name string
	err  error
}

func (e *xattrError) Error() string {
	return "extended attribute " + strconv.Quote(e.name) + ": " + e.err.Error()
}

// Unwrap returns what the kernel said.
func (e *xattrError) Unwrap() error { return e.err }
