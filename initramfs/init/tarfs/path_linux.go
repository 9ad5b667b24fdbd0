package tarfs

import (
	"strconv"
	"strings"
	"syscall"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// within lets a lookup go anywhere in the box that names in it lead to, but not
// through /proc/<pid>/fd and the like, which would lead to what the agent has open.
const within = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// below keeps a lookup below its directory, through real directories only.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// open is openat2(2). It answers EAGAIN when a lookup that must not escape met a
// rename somewhere in the system; trying again is what its manual asks for.
func open(dir int, path string, flags, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for range 1000 {
		fd, err = unix.Openat2(dir, path, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// openRoot opens the box's root, from where paths are looked up.
func openRoot() (int, error) {
	return unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// openPath opens what a path of the host's means. Flags are those of open(2).
func openPath(path string, follow bool, flags uint64) (int, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return -1, pathError(path, unix.EINVAL)
	}
	root, err := openRoot()
	if err != nil {
		return -1, pathError("/", err)
	}
	defer unix.Close(root)
	if wantsDir(path) {
		flags |= unix.O_DIRECTORY
	} else if !follow {
		flags |= unix.O_NOFOLLOW
	}
	// RESOLVE_IN_ROOT takes an absolute path as one from root, but not an empty one.
	fd, err := open(root, "./"+path, flags, within)
	if err != nil {
		return -1, pathError(path, err)
	}
	return fd, nil
}

// Stat describes what lies at a path; see agentapi.StatPath for what it means.
func Stat(path string, follow bool) (*agentapi.PathInfo, error) {
	fd, err := openPath(path, follow, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, pathError(path, err)
	}
	info := &agentapi.PathInfo{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: uint64(st.Size), ModTime: int64(st.Mtim.Sec)*1e9 + int64(st.Mtim.Nsec),
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if info.LinkTarget, err = readlink(fd, ""); err != nil {
			return nil, pathError(path, err)
		}
	}
	return info, nil
}

func readlink(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// pathError makes an error about a path into one for the wire.
func pathError(path string, err error) *agentapi.Error {
	e := &agentapi.Error{Code: agentapi.CodeSystem, Msg: strconv.Quote(path) + ": " + err.Error()}
	errno, _ := err.(syscall.Errno)
	e.Errno = uint32(errno)
	switch errno {
	case unix.ENOENT:
		e.Code = agentapi.CodeNoPath
	case unix.ENOTDIR, unix.EISDIR:
		e.Code = agentapi.CodeFileType
	case unix.EINVAL:
		e.Code = agentapi.CodeInvalid
	}
	return e
}

// retry repeats a call that a signal interrupted.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// procFD names an open file, for calls that take no descriptor of O_PATH.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
