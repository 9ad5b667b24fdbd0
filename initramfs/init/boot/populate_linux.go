package boot

import (
	"io"

	"github.com/anthropics/boxlite/initramfs/init/tarfs"
	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// populate gives an empty volume at dir what lies at a path of the box: all of it, or
// nothing. One that has content of its own is left as it is.
//
// Other boxes may have the volume at the same time, and leave in it what they like:
// everything in it is reached from the descriptor of a folder, and through no link.
func populate(dir, path string) error {
	vol, err := openFolder(unix.AT_FDCWD, dir)
	if err != nil {
		return asMountError("looking into the volume", err)
	}
	defer unix.Close(vol)
	names, err := list(vol, ".")
	if err != nil {
		return asMountError("looking into the volume", err)
	}
	switch {
	case contains(names, agentapi.Populated):
	case len(names) == 1 && names[0] == agentapi.Populating:
		if err := removeTree(vol, agentapi.Populating); err != nil {
			return asMarkError("removing half a copy", agentapi.Populating, err)
		}
		fallthrough
	case len(names) == 0:
		there, err := list(unix.AT_FDCWD, path)
		if err != nil {
			return asMountError("looking at the image's content", err)
		}
		if len(there) == 0 {
			return likeNew(vol, path)
		}
		if err := copyIn(vol, path); err != nil {
			return err
		}
	default:
		return nil
	}
	return settle(vol)
}

// copyIn makes a complete copy below the second name.
func copyIn(vol int, path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return asMountError("looking at the image's content", err)
	}
	if err := unix.Mkdirat(vol, agentapi.Populating, 0o700); err != nil {
		return asMountError("copying the image's content", err)
	}
	tmp, err := openFolder(vol, agentapi.Populating)
	if err != nil {
		return asMarkError("copying the image's content", agentapi.Populating, err)
	}
	defer unix.Close(tmp)
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarfs.Pack(w, path+"/.", true)) }()
	err = tarfs.UnpackAt(r, tmp, nil)
	r.CloseWithError(err)
	if err != nil {
		return &mountError{"copying the image's content: " + err.Error(), 0}
	}
	if err := like(vol, &st); err != nil {
		return err
	}
	return asMountError("copying the image's content", unix.Renameat(vol, agentapi.Populating, vol, agentapi.Populated))
}

// like gives the volume owner and mode of the folder that it takes the place of.
func like(vol int, st *unix.Stat_t) error {
	if err := unix.Fchown(vol, int(st.Uid), int(st.Gid)); err != nil {
		return asMountError("giving the volume its owner", err)
	}
	return asMountError("giving the volume its mode", unix.Fchmod(vol, st.Mode&0o7777))
}

// likeNew is like for an empty folder of the image, unless somebody has changed the
// volume since it was made.
func likeNew(vol int, path string) error {
	var st, own unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return asMountError("looking at the image's content", err)
	}
	if err := unix.Fstat(vol, &own); err != nil {
		return asMountError("looking into the volume", err)
	}
	if own.Uid != 0 || own.Gid != 0 || own.Mode&0o7777 != newVolume {
		return nil
	}
	return like(vol, &st)
}

// newVolume is the mode of a volume that nobody has changed.
const newVolume = 0o755

// settle moves a complete copy up to where it belongs.
func settle(vol int) error {
	const what = "putting the image's content in place"
	from, err := openFolder(vol, agentapi.Populated)
	if err != nil {
		return asMarkError(what, agentapi.Populated, err)
	}
	defer unix.Close(from)
	names, err := list(from, ".")
	for _, name := range names {
		if err == nil {
			err = unix.Renameat(from, name, vol, name)
		}
	}
	if err == nil {
		err = unix.Unlinkat(vol, agentapi.Populated, unix.AT_REMOVEDIR)
	}
	return asMountError(what, err)
}

// asMarkError explains a mark that none of us has made.
func asMarkError(what, mark string, err error) error {
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return &mountError{what + ": " + mark + " in the volume is no folder; a box that has the volume made it: remove it", 0}
	}
	return asMountError(what, err)
}

// openFolder opens a folder in one that is open. A link to one is an error.
func openFolder(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// list returns the names in a folder. Links on the way to it are followed, so name is
// "." in what others can change.
func list(dir int, name string) (names []string, err error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
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

// removeTree deletes a folder in one that is open, and what is in it.
func removeTree(dir int, name string) error {
	fd, err := openFolder(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := list(fd, ".")
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unix.Unlinkat(fd, n, 0)
		if err == unix.EISDIR {
			err = removeTree(fd, n)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}
