package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// MaxVolumes is how many volumes a box can have. Each is a virtio device of its own,
// and the machine has places for 40. Tmpfs mounts are no devices; there can be as many
// of them again.
const MaxVolumes = 32

// VolumeOwners says whose the files of a volume are in the box.
type VolumeOwners string

const (
	// OwnersDefault is OwnersMapped for a path of the host, and OwnersKept for a
	// volume of the home.
	OwnersDefault VolumeOwners = ""
	// OwnersMapped shows the files of the host's user, who runs the box, as those of
	// the box's user ([BoxOptions.User], or the image's), and those of others as
	// nobody's (65534). What the box makes belongs to the host's user; a change of
	// owner is accepted and has no effect; devices cannot be made.
	OwnersMapped VolumeOwners = "mapped"
	// OwnersKept keeps owner, mode and device number of each file in an extended
	// attribute (user.boxlite.stat), so that the box sees what it has set. Files
	// without one are the root's where they belong to the host's user, else nobody's.
	// On a file system without such attributes (tmpfs before Linux 6.6, NFS before
	// 4.2, FAT) the volume must be read-only, or is refused with ErrUnsupported.
	OwnersKept VolumeOwners = "kept"
)

// VolumeSpec mounts a folder or a file of the host, or a volume of the home, in a
// box. Set HostPath or Name, or neither for an anonymous volume: one that is made for
// this box, with a name of 64 hexadecimal digits.
type VolumeSpec struct {
	// HostPath is a folder or a regular file. It must be there when the box is
	// created and at each start. A relative one is made absolute when the box is
	// created. Links are followed at each start. A file stays the one that was there
	// at the start, also when another is renamed over it.
	HostPath string `json:",omitempty"`
	// Name is a volume of the home, which is created with the box unless it is there.
	Name string `json:",omitempty"`
	// GuestPath is where it goes in the box: absolute, without "..", and not below
	// /proc, /sys or /dev (but for /dev/shm). It is made when it is not there; links
	// in it are followed within the box. Volumes may lie within volumes.
	GuestPath string
	// ReadOnly is enforced on the host, whatever the box's kernel does.
	ReadOnly bool `json:",omitempty"`
	// Owners of files; see there.
	Owners VolumeOwners `json:",omitempty"`
	// SharedLocks makes file locks (flock, fcntl) hold against other boxes and the
	// host's processes. Otherwise they hold within the box. A process that waits for
	// a shared lock cannot be interrupted, not even killed, until it has it.
	SharedLocks bool `json:",omitempty"`
	// NoCopy leaves an empty volume of the home empty. Without it the volume first
	// gets what the image has at GuestPath.
	NoCopy bool `json:",omitempty"`

	// Anonymous marks a volume whose name was made up for this box. Create sets it.
	Anonymous bool `json:",omitempty"`
}

// TmpfsSpec mounts an empty file system in the box's memory. It is gone when the box
// stops.
type TmpfsSpec struct {
	GuestPath string // as in [VolumeSpec]
	SizeBytes int64  `json:",omitempty"` // most it can hold; 0 means half of the box's memory
	Mode      uint32 `json:",omitempty"` // permission bits of its root; 0 means 1777
	Exec      bool   `json:",omitempty"` // allow programs in it to be run
	ReadOnly  bool   `json:",omitempty"`
}

// fillVolumes checks volumes and tmpfs mounts, and copies what it changes: the
// caller's slices are the caller's.
func (o *BoxOptions) fillVolumes() error {
	o.Volumes, o.Tmpfs = slices.Clone(o.Volumes), slices.Clone(o.Tmpfs)
	if len(o.Volumes) > MaxVolumes || len(o.Tmpfs) > MaxVolumes {
		return fail(ErrInvalidArgument, "%d volumes and %d tmpfs mounts: at most %d of each", len(o.Volumes), len(o.Tmpfs), MaxVolumes)
	}
	taken := map[string]string{}
	place := func(guest *string, what string) (err error) {
		if *guest, err = cleanGuestPath(*guest); err != nil {
			return wrap(ErrInvalidArgument, err, "%s", what)
		}
		if other, ok := taken[*guest]; ok {
			return fail(ErrInvalidArgument, "%s and %s both go to %s: only one can", other, what, *guest)
		}
		taken[*guest] = what
		return nil
	}
	for i := range o.Volumes {
		v := &o.Volumes[i]
		if err := v.fill(); err != nil {
			return err
		}
		if v.HostPath == "" && v.Name == "" {
			v.Name, v.Anonymous = string(NewContainerID()), true
		}
		if err := place(&v.GuestPath, v.what()); err != nil {
			return err
		}
	}
	for i := range o.Tmpfs {
		t := &o.Tmpfs[i]
		if err := place(&t.GuestPath, "tmpfs"); err != nil {
			return err
		}
		if t.SizeBytes < 0 || t.Mode&^0o7777 != 0 {
			return fail(ErrInvalidArgument, "tmpfs at %s: size %d, mode %o: want a size that is not negative and a mode of at most 7777", t.GuestPath, t.SizeBytes, t.Mode)
		}
	}
	return nil
}

// what names a volume in errors.
func (v *VolumeSpec) what() string {
	switch {
	case v.HostPath != "":
		return "volume " + v.HostPath
	case v.Name != "" && !v.Anonymous:
		return "volume " + v.Name
	}
	return "anonymous volume"
}

func (v *VolumeSpec) fill() error {
	if v.HostPath != "" && v.Name != "" {
		return fail(ErrInvalidArgument, "volume at %s: both a path of the host (%s) and a name (%s): choose one", v.GuestPath, v.HostPath, v.Name)
	}
	switch v.Owners {
	case OwnersDefault, OwnersMapped, OwnersKept:
	default:
		return fail(ErrInvalidArgument, "volume at %s: owners %q: choose %s or %s", v.GuestPath, v.Owners, OwnersMapped, OwnersKept)
	}
	v.Anonymous = false
	if v.Name != "" {
		return checkVolumeName(v.Name)
	}
	if v.HostPath == "" {
		return nil
	}
	if err := checkText("path of a volume", v.HostPath); err != nil {
		return err
	}
	if !utf8.ValidString(v.HostPath) { // a box's options are kept as JSON
		return fail(ErrInvalidArgument, "volume %q: its path is not UTF-8: rename it, or share a folder above it", v.HostPath)
	}
	folder := strings.HasSuffix(v.HostPath, "/")
	abs, err := filepath.Abs(v.HostPath)
	if err != nil {
		return wrap(ErrInvalidArgument, err, "volume %s", v.HostPath)
	}
	v.HostPath = abs
	if folder && abs != "/" {
		v.HostPath += "/" // so that a file there is refused at later starts, too
	}
	if err := v.checkHost(); err != nil || v.Owners != OwnersKept {
		return err
	}
	return v.checkKept(v.HostPath)
}

// checkHost makes sure that what the host shall share is there, and can be read.
func (v *VolumeSpec) checkHost() error {
	fi, err := os.Stat(v.HostPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if to, err := os.Readlink(v.HostPath); err == nil {
			return fail(ErrInvalidArgument, "volume %s: it is a symbolic link to %s, where nothing is", v.HostPath, to)
		}
		return fail(ErrInvalidArgument, "volume %s: there is no such file or folder on this host: make it first", v.HostPath)
	case errors.Is(err, fs.ErrPermission):
		return fail(ErrInvalidArgument, "volume %s: the user who runs boxlite may not look into a folder on the way there: %w", v.HostPath, unix.EACCES)
	case errors.Is(err, unix.ENOTDIR):
		if path, slash := strings.CutSuffix(v.HostPath, "/"); slash {
			if fi, err := os.Stat(path); err == nil && !fi.IsDir() {
				return fail(ErrInvalidArgument, "volume %s: it is a file, not a folder: leave the slash off", v.HostPath)
			}
		}
		return fail(ErrInvalidArgument, "volume %s: something on the way there is a file, not a folder", v.HostPath)
	case err != nil:
		return wrap(ErrInvalidArgument, err, "volume %s", v.HostPath)
	case fi.IsDir():
		err = unix.Faccessat(unix.AT_FDCWD, v.HostPath, unix.R_OK|unix.X_OK, unix.AT_EACCESS)
	case fi.Mode().IsRegular():
		err = unix.Faccessat(unix.AT_FDCWD, v.HostPath, unix.R_OK, unix.AT_EACCESS)
	default:
		return fail(ErrInvalidArgument, "volume %s: it is neither a folder nor a regular file", v.HostPath)
	}
	if err != nil {
		return fail(ErrInvalidArgument, "volume %s: the user who runs boxlite may not read it: %w", v.HostPath, err)
	}
	return nil
}

// checkKept makes sure that owners can be kept in files at a path of the host. Without
// this the box would find out, at its first change of one.
func (v *VolumeSpec) checkKept(path string) error {
	if v.ReadOnly {
		return nil // nothing has to be kept
	}
	_, err := unix.Getxattr(path, ownersXattr, nil)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOTSUP) {
		return nil // as with one that is not there
	}
	return fail(ErrUnsupported, "%s: the file system of %s has no user extended attributes, in which owners are kept: "+
		"choose owners=%s, or a place that has them, as on ext4, XFS and Btrfs", v.what(), path, OwnersMapped)
}

// ownersXattr is where package fs keeps them.
const ownersXattr = "user.boxlite.stat"

// kernelFolders are those that the box's kernel fills.
var kernelFolders = []string{"/proc", "/sys", "/dev"}

// cleanGuestPath is a path of the box in its shortest form, or says why nothing can
// be mounted there.
func cleanGuestPath(p string) (string, error) {
	switch {
	case p == "":
		return "", errors.New("no path in the box is given")
	case !strings.HasPrefix(p, "/"):
		return "", fail(ErrInvalidArgument, "path %q in the box is not absolute: begin it with a slash", p)
	case !utf8.ValidString(p):
		return "", fail(ErrInvalidArgument, "path %q in the box is not UTF-8: choose another", p)
	case strings.ContainsRune(p, 0):
		return "", errors.New("the path in the box holds a NUL")
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "", fail(ErrInvalidArgument, "path %q in the box climbs with ..: name the place itself", p)
	}
	p = path.Clean(p)
	if p == "/" {
		return "", errors.New("nothing can be mounted over the box's root: see BoxOptions.Rootfs")
	}
	for _, k := range kernelFolders {
		if (p == k || strings.HasPrefix(p, k+"/")) && p != "/dev/shm" && !strings.HasPrefix(p, "/dev/shm/") {
			return "", fail(ErrInvalidArgument, "nothing can be mounted at %s: %s is the kernel's", p, k)
		}
	}
	return p, nil
}
