package boot

import (
	"io"

	"github.com/anthropics/boxlite/initramfs/init/tarfs"
	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// populate gives an empty volume at dir what lies at a path of the box: all of it, or
// nothing. One that has content of its own is left as it is.
func populate(dir, path string) error {
	names, err := list(dir)
	if err != nil {
		return asMountError("looking into the volume", err)
	}
	switch {
	case contains(names, agentapi.Populated):
	case len(names) == 1 && names[0] == agentapi.Populating:
		if err := removeTree(dir + "/" + agentapi.Populating); err != nil {
			return asMountError("removing half a copy", err)
		}
		fallthrough
	case len(names) == 0:
		if there, err := list(path); err != nil || len(there) == 0 {
			return asMountError("looking at the image's content", err)
		}
		if err := copyIn(dir, path); err != nil {
			return err
		}
	default:
		return nil
	}
	return settle(dir)
}

// copyIn makes a complete copy below the second name.
func copyIn(dir, path string) error {
	tmp := dir + "/" + agentapi.Populating
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return asMountError("looking at the image's content", err)
	}
	if err := unix.Mkdir(tmp, 0o700); err != nil {
		return asMountError("copying the image's content", err)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarfs.Pack(w, path+"/.", true)) }()
	err := tarfs.Unpack(r, tmp, nil)
	r.CloseWithError(err)
	if err != nil {
		return &mountError{"copying the image's content: " + err.Error(), 0}
	}
	// The volume itself is like the folder that it takes the place of.
	if err := unix.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return asMountError("giving the volume its owner", err)
	}
	if err := unix.Chmod(dir, st.Mode&0o7777); err != nil {
		return asMountError("giving the volume its mode", err)
	}
	return asMountError("copying the image's content", unix.Rename(tmp, dir+"/"+agentapi.Populated))
}

// settle moves a complete copy up to where it belongs.
func settle(dir string) error {
	from := dir + "/" + agentapi.Populated
	names, err := list(from)
	for _, name := range names {
		if err == nil {
			err = unix.Rename(from+"/"+name, dir+"/"+name)
		}
	}
	if err == nil {
		err = unix.Rmdir(from)
	}
	return asMountError("putting the image's content in place", err)
}

// list returns the names in a folder.
func list(dir string) (names []string, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// removeTree deletes a folder of our own making, into which nobody else can reach.
func removeTree(dir string) error {
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		at := dir + "/" + name
		err := unix.Unlink(at)
		if err == unix.EISDIR {
			err = removeTree(at)
		}
		if err != nil {
			return err
		}
	}
	return unix.Rmdir(dir)
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}
