//go:build linux || darwin

package erofs

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

func (d *dirConverter) root(path string) error {
	// The root itself may be given by way of a link.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return d.folder(f, "", "", &st)
}

// folder converts an open directory and everything in it.
func (d *dirConverter) folder(f *os.File, dir, base string, st *unix.Stat_t) error {
	e := &entry{kind: kindDir, dir: dir, base: base}
	if err := d.attributes(e, st, func() ([]tarstream.Xattr, error) { return descriptorXattrs(int(f.Fd())) }); err != nil {
		return err
	}
	if err := d.add(e); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	path := e.path()
	if strings.Count(path, "/") >= maxDepth || len(path) > maxPath {
		return fmt.Errorf("%.100s…: %w", path, ErrLimit)
	}
	// Files first, subfolders behind: records of one folder stay together.
	var sub []string
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "stat", Path: path + "/" + name, Err: err}
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			sub = append(sub, name)
			continue
		}
		if err := d.leaf(f, path, name, &st); err != nil {
			return err
		}
	}
	for _, name := range sub {
		if err := d.subfolder(f, path, name); err != nil {
			return err
		}
	}
	return nil
}

func (d *dirConverter) subfolder(parent *os.File, dir, name string) error {
	f, st, err := openAt(parent, dir, name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.folder(f, dir, name, st)
}

// openAt opens a name for reading without following it or waiting for it, and
// returns what was opened.
func openAt(parent *os.File, dir, name string, flags int) (*os.File, *unix.Stat_t, error) {
	path := dir + "/" + name
	fd, err := unix.Openat(int(parent.Fd()), name,
		unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), &st, nil
}

// leaf converts anything but a directory.
func (d *dirConverter) leaf(parent *os.File, dir, name string, st *unix.Stat_t) error {
	e := &entry{dir: dir, base: name}
	id := fileID{uint64(st.Dev), uint64(st.Ino)}
	if st.Nlink > 1 {
		if first, ok := d.seen[id]; ok {
			e.kind, e.target = kindLink, first
			return d.add(e)
		}
		d.seen[id] = e.path()
	}
	named := func() ([]tarstream.Xattr, error) { return namedXattrs(parent, name) }
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return d.regular(parent, e)
	case unix.S_IFLNK:
		e.kind = kindSymlink
		buf := make([]byte, maxTarget+1)
		n, err := unix.Readlinkat(int(parent.Fd()), name, buf)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: e.path(), Err: err}
		}
		e.target = string(buf[:n])
		if err := checkTarget(e.target); err != nil {
			return fmt.Errorf("%s: %w", e.path(), err)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		e.kind = kindChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			e.kind = kindBlock
		}
		dev := uint64(st.Rdev)
		var err error
		e.rdev, err = deviceNumber(int64(unix.Major(dev)), int64(unix.Minor(dev)))
		if err != nil {
			return fmt.Errorf("%s: %w", e.path(), err)
		}
	case unix.S_IFIFO:
		e.kind = kindFifo
	case unix.S_IFSOCK:
		e.kind = kindSock
	default:
		return fmt.Errorf("%s: mode %#o: %w", e.path(), st.Mode, ErrFormat)
	}
	if err := d.attributes(e, st, named); err != nil {
		return err
	}
	return d.add(e)
}

func (d *dirConverter) regular(parent *os.File, e *entry) error {
	e.kind = kindReg
	f, st, err := openAt(parent, e.dir, e.base, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s: changed while it was read: %w", e.path(), ErrFormat)
	}
	if err := d.attributes(e, st, func() ([]tarstream.Xattr, error) { return descriptorXattrs(int(f.Fd())) }); err != nil {
		return err
	}
	if err := d.contents(f, e, st.Size); err != nil {
		return fmt.Errorf("%s: %w", e.path(), err)
	}
	return d.add(e)
}

// contents stores a file, its holes left out.
func (d *dirConverter) contents(f *os.File, e *entry, size int64) (err error) {
	if size > d.opts.MaxFileSize {
		return fmt.Errorf("file of %d bytes: %w", size, ErrLimit)
	}
	e.size = uint64(size)
	if size == 0 {
		return nil
	}
	if size <= inlineMax {
		b := make([]byte, size)
		if _, err := io.ReadFull(f, b); err != nil {
			return fmt.Errorf("changed while it was read: %w", err)
		}
		e.inline = string(b)
		return nil
	}
	h := &tarstream.Header{Size: size}
	if h.Segments, err = dataSegments(int(f.Fd()), size); err != nil {
		return err
	}
	for _, s := range h.Segments {
		h.Stored += s.Length
	}
	if e.block, err = d.blob.begin(); err != nil {
		return err
	}
	write := func(_ int64, b []byte) error { return d.blob.write(b) }
	finish := d.blob.pad
	if len(holes(h)) > 0 {
		var overhead int64
		if e.sparse, overhead, err = planChunks(h); err != nil {
			return err
		}
		if d.overhead += overhead; d.overhead > maxSparseOverhead {
			return fmt.Errorf("sparse files cost %d bytes beyond their data: %w", d.overhead, ErrLimit)
		}
		w := sparseWriter{blob: d.blob, m: e.sparse, size: size}
		write, finish = w.writeAt, w.finish
	}
	for _, s := range h.Segments {
		for off, end := s.Offset, s.Offset+s.Length; off < end; {
			if err := d.ctx.Err(); err != nil {
				return err
			}
			b := d.buf[:min(int64(len(d.buf)), end-off)]
			if n, err := f.ReadAt(b, off); n < len(b) {
				return fmt.Errorf("changed while it was read: %w", err)
			}
			if err := write(off, b); err != nil {
				return err
			}
			off += int64(len(b))
		}
	}
	return finish()
}

// attributes fills in what all kinds have.
func (d *dirConverter) attributes(e *entry, st *unix.Stat_t, list func() ([]tarstream.Xattr, error)) error {
	e.perm = uint16(st.Mode & 0o7777)
	e.uid, e.gid = st.Uid, st.Gid
	e.sec, e.nsec = int64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	xattrs, err := list()
	if err != nil {
		return fmt.Errorf("%s: extended attributes: %w", e.path(), err)
	}
	body, dropped, err := encodeXattrs(xattrs)
	if err != nil {
		return fmt.Errorf("%s: %w", e.path(), err)
	}
	d.dropped += dropped
	e.xattrs = string(body)
	return nil
}

func (d *dirConverter) add(e *entry) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	if d.meta.entries >= d.opts.MaxEntries {
		return fmt.Errorf("more than %d entries: %w", d.opts.MaxEntries, ErrLimit)
	}
	return d.meta.add(e)
}

// dataSegments lists the stretches of a file that are not holes. A file system
// that does not tell has one stretch.
func dataSegments(fd int, size int64) ([]tarstream.Segment, error) {
	var out []tarstream.Segment
	for at := int64(0); at < size; {
		start, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if err == unix.ENXIO { // only a hole is left
			return out, nil
		}
		if err == unix.EINVAL && at == 0 {
			return []tarstream.Segment{{Offset: 0, Length: size}}, nil
		}
		if err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		end = min(end, size)
		if start >= end {
			return out, nil
		}
		out = append(out, tarstream.Segment{Offset: start, Length: end - start})
		at = end
	}
	return out, nil
}

// descriptorXattrs reads the attributes of an open file.
func descriptorXattrs(fd int) ([]tarstream.Xattr, error) {
	return readXattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

// readXattrs reads a list of names, then each value, growing the buffers as
// needed.
func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]tarstream.Xattr, error) {
	names, err := grow(256, list)
	if err == unix.ENOTSUP || err == unix.EPERM {
		return nil, nil // this file, or file system, has none
	}
	if err != nil || len(names) == 0 {
		return nil, err
	}
	var out []tarstream.Xattr
	for _, name := range strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := grow(256, func(b []byte) (int, error) { return get(name, b) })
		if err == noAttribute || err == unix.EPERM || err == unix.EACCES {
			continue // went away, or is hidden from this user
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, tarstream.Xattr{Name: name, Value: string(value)})
	}
	return out, nil
}

// grow calls f with larger buffers until what it returns fits.
func grow(size int, f func([]byte) (int, error)) ([]byte, error) {
	for {
		b := make([]byte, size)
		n, err := f(b)
		if err == unix.ERANGE && size < 1<<20 {
			size *= 4
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
