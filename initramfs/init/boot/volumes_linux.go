package boot

import (
	"strconv"
	"strings"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// shareDir is where the file system is mounted of which the box gets a part only.
// It is in the kernel's devtmpfs, out of the image's reach.
const shareDir = "/dev/.boxlite-share"

// Mount puts file systems into the root, in their order.
func (m *Machine) Mount(points []agentapi.MountPoint) error {
	for i := range points {
		if err := mountPoint(&points[i]); err != nil {
			e := &agentapi.Error{Code: agentapi.CodeSetup, Op: "volume at " + points[i].Path, Msg: err.Error()}
			if f, ok := err.(*mountError); ok {
				e.Errno = uint32(f.err)
			}
			m.Log(e.Error())
			return e
		}
	}
	return nil
}

func mountPoint(p *agentapi.MountPoint) error {
	if !isClean(p.Path) {
		return &mountError{"the path is not absolute, or not a plain one", 0}
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return asMountError("opening the root", err)
	}
	defer unix.Close(root)
	target, err := openTarget(root, p.Path, p.Kind == agentapi.MountShare && p.File != "")
	if err != nil {
		return err
	}
	defer unix.Close(target)
	at := "/proc/self/fd/" + strconv.Itoa(target)
	var flags uintptr
	if p.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if p.NoExec {
		flags |= unix.MS_NOEXEC
	}
	switch {
	case p.Kind == agentapi.MountTmpfs:
		mode := p.Mode
		if mode == 0 {
			mode = 0o1777
		}
		data := "mode=" + strconv.FormatUint(uint64(mode&0o7777), 8)
		if p.Size != 0 {
			data += ",size=" + strconv.FormatUint(p.Size, 10)
		}
		return asMountError("mounting a tmpfs", unix.Mount("tmpfs", at, "tmpfs", flags|unix.MS_NOSUID|unix.MS_NODEV, data))
	case p.Kind != agentapi.MountShare:
		return &mountError{"unknown kind of mount", 0}
	case p.File == "" && p.Populate:
		return inShareDir(p.Tag, 0, func() error {
			if err := populate(shareDir, p.Path); err != nil {
				return err
			}
			if err := unix.Mount(shareDir, at, "", unix.MS_BIND, ""); err != nil || flags == 0 {
				return asMountError("mounting the shared folder", err)
			}
			return asMountError("mounting the shared folder", unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""))
		})
	case p.File == "":
		return asMountError("mounting the shared folder", unix.Mount(p.Tag, at, "virtiofs", flags, ""))
	}
	if strings.IndexByte(p.File, '/') >= 0 {
		return &mountError{"the name of the shared file has a slash", 0}
	}
	return inShareDir(p.Tag, flags, func() error {
		return asMountError("mounting the shared file", unix.Mount(shareDir+"/"+p.File, at, "", unix.MS_BIND, ""))
	})
}

// inShareDir has a share mounted out of sight while do puts what the box gets of it
// where it belongs.
func inShareDir(tag string, flags uintptr, do func() error) error {
	if err := unix.Mkdir(shareDir, 0o700); err != nil && err != unix.EEXIST {
		return asMountError("making "+shareDir, err)
	}
	defer unix.Rmdir(shareDir)
	if err := unix.Mount(tag, shareDir, "virtiofs", flags, ""); err != nil {
		return asMountError("mounting what is shared", err)
	}
	defer unix.Unmount(shareDir, unix.MNT_DETACH)
	return do()
}

// mountError says what did not work, in words, and what the kernel had to say, 0
// for nothing.
type mountError struct {
	what string
	err  unix.Errno
}

func (e *mountError) Error() string {
	if e.err == 0 {
		return e.what
	}
	return e.what + ": " + e.err.Error()
}

func asMountError(what string, err error) error {
	if err == nil {
		return nil
	}
	e, _ := err.(unix.Errno)
	return &mountError{what, e}
}

// isClean reports whether a path is absolute, and goes down only.
func isClean(path string) bool {
	if len(path) < 2 || path[0] != '/' || strings.IndexByte(path, 0) >= 0 {
		return false
	}
	for _, name := range strings.Split(path[1:], "/") {
		if name == "" || name == "." || name == ".." {
			return false
		}
	}
	return true
}

// within lets a lookup go wherever names in the root lead to, but not through
// /proc/<pid>/fd and the like, which would lead to what this process has open.
const within = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

func lookUp(root int, path string) (fd int, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: within}
	for range 1000 { // EAGAIN: a rename somewhere in the system (openat2(2))
		if fd, err = unix.Openat2(root, "."+path, &how); err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// openTarget opens the place of a mount: a folder, or a regular file. What is
// missing of it is made. Links of the image are followed within the root.
func openTarget(root int, path string, file bool) (int, error) {
	fd, err := lookUp(root, path)
	if err == unix.ENOENT {
		if fd, err = makeTarget(root, path, file); err != nil {
			return -1, err
		}
	} else if err != nil {
		return -1, asMountError("looking it up in the image", err)
	}
	if err := checkTarget(fd, file); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// makeTarget makes what is missing of a path, from the top.
func makeTarget(root int, path string, file bool) (int, error) {
	dir := root
	defer func() {
		if dir != root {
			unix.Close(dir)
		}
	}()
	for end := 1; end <= len(path); end++ {
		if end < len(path) && path[end] != '/' {
			continue
		}
		at, name := path[:end], path[strings.LastIndexByte(path[:end], '/')+1:end]
		fd, err := lookUp(root, at)
		if err == unix.ENOENT {
			if err = makeOne(dir, name, file && end == len(path)); err == nil {
				fd, err = lookUp(root, at)
			}
		}
		if err == unix.EEXIST { // there is something, but it leads nowhere
			return -1, &mountError{at + " is a link to something that is not there", 0}
		} else if err != nil {
			return -1, asMountError("making "+at, err)
		}
		if end == len(path) {
			return fd, nil
		}
		if dir != root {
			unix.Close(dir)
		}
		dir = fd
	}
	return -1, &mountError{"an empty path", 0}
}

func makeOne(dir int, name string, file bool) error {
	if !file {
		return unix.Mkdirat(dir, name, 0o755)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// checkTarget refuses what nothing may be mounted on: something of another kind,
// and, by whatever links it was reached, the kernel's own file systems.
func checkTarget(fd int, file bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return asMountError("looking at the path in the image", err)
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case file && kind == unix.S_IFDIR:
		return &mountError{"a file is shared, but there is a folder", 0}
	case !file && kind != unix.S_IFDIR:
		return &mountError{"a folder is mounted, but there is a file", 0}
	case file && kind != unix.S_IFREG:
		return &mountError{"there is a special file", 0}
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return asMountError("looking at the path in the image", err)
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC:
		return &mountError{"it leads into one of the kernel's file systems", 0}
	}
	return nil
}
