package hostfiles

import (
	"archive/tar"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func device(st *syscall.Stat_t) (major, minor int64) {
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
}

// mknod makes a FIFO or device in an open directory.
func mknod(dir *os.File, base string, h *tar.Header) error {
	mode := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return os.NewSyscallError("mknod", unix.Mknodat(int(dir.Fd()), base, mode|0o600, int(dev)))
}

// setLinkTime sets the time of a symbolic link in an open directory.
func setLinkTime(dir *os.File, base string, at time.Time) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: at.Unix(), Nsec: int64(at.Nanosecond())}}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(int(dir.Fd()), base, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// xattrPrefix is the key of a pax record that has an extended attribute.
const xattrPrefix = "SCHILY.xattr."

const capability = "security.capability"

// xattrs reads the extended attributes that are worth keeping: the user's, and
// capabilities. Those that cannot be read are left out.
func xattrs(f *os.File) map[string]string {
	fd := int(f.Fd())
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(fd, names)
	if err != nil || n == 0 {
		return nil
	}
	var out map[string]string
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") && name != capability || strings.Contains(name, "=") {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[xattrPrefix+name] = string(value[:n])
	}
	return out
}

// setXattrs gives a file the attributes out of its pax records: the user's, and
// with all the capabilities.
func setXattrs(f *os.File, records map[string]string, all bool, warn func(string)) {
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || !strings.HasPrefix(name, "user.") && !(all && name == capability) {
			continue
		}
		err := unix.Fsetxattr(int(f.Fd()), name, []byte(value), 0)
		if err != nil && err != unix.EOPNOTSUPP {
			warn(fmt.Sprintf("extended attribute %q: %v", name, err))
		}
	}
}
