package tarfs

import (
	"io"
	"strconv"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds how deep a tree is followed: each level holds a descriptor.
	maxDepth = 4096
	maxName  = 64 << 10 // bytes of a name in an archive; what reads it has limits as well
	// maxLinks bounds the memory for files with several names, about 100 bytes
	// each. Of those beyond it each name is archived as a file of its own.
	maxLinks = 1 << 17
	// maxPseudo bounds a file of /proc or /sys, whose size only reading tells.
	maxPseudo = 4 << 20
)

// Pack writes what lies at a path to w as a tar stream; see agentapi.ArchiveGet.
// What cannot be read is left out, and told when everything else is written.
func Pack(w io.Writer, path string, follow bool) error {
	top, err := openPath(path, follow, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return pathError(path, err)
	}
	p := &packer{w: NewWriter(w), links: map[inode]string{}, buf: make([]byte, bufSize)}
	name := Base(path)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		fd, err := openPath(path, follow, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
		if err != nil {
			return err
		}
		err = p.opened(fd, name, &st, 0)
		if err != nil {
			return err
		}
	default:
		if err := p.special(top, "", name, &st); err != nil {
			return err
		}
	}
	if err := p.w.Close(); err != nil {
		return err
	}
	return p.complaint()
}

type inode struct{ dev, ino uint64 }

type packer struct {
	w        *Writer
	links    map[inode]string
	buf      []byte
	problems int
	first    string
}

// note remembers that something is missing from the archive.
func (p *packer) note(name string, what string) {
	if p.problems == 0 {
		p.first = strconv.Quote(name) + ": " + what
	}
	p.problems++
}

func (p *packer) complaint() error {
	if p.problems == 0 {
		return nil
	}
	msg := p.first
	if p.problems > 1 {
		msg += " (and " + utoa(uint64(p.problems-1)) + " more)"
	}
	return &agentapi.Error{Code: agentapi.CodeSystem, Msg: "not everything could be read: " + msg}
}

// entry archives a name in an open directory. Only errors of the stream are
// returned.
func (p *packer) entry(dir int, base, name string, dev uint64, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err != unix.ENOENT && err != unix.ESRCH { // gone meanwhile
			p.note(name, err.Error())
		}
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return p.special(dir, base, name, &st)
	}
	if p.linked(name, &st) {
		return p.hardLink(name, &st)
	}
	if depth == maxDepth || len(name) > maxName {
		p.note(name[:min(len(name), unix.PathMax)], "too many directories in each other")
		return nil
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		if err != unix.ENOENT && err != unix.ESRCH {
			p.note(name, err.Error())
		}
		return nil
	}
	if uint64(st.Dev) != dev && st.Mode&unix.S_IFMT == unix.S_IFDIR && kernelMade(fd) {
		// /proc and its like below a tree: what is in them is the kernel's.
		unix.Close(fd)
		return p.w.Next(header(name, &st))
	}
	return p.opened(fd, name, &st, depth)
}

// opened archives an open file or directory and closes it, if it still is the
// one that want describes.
func (p *packer) opened(fd int, name string, want *unix.Stat_t, depth int) error {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != want.Dev || st.Ino != want.Ino || (st.Mode^want.Mode)&unix.S_IFMT != 0 {
		p.note(name, "was exchanged while it was read")
		return nil
	}
	h := header(name, &st)
	var err error
	if h.Xattrs, err = getXattrs(fd); err != nil {
		p.note(name, "extended attributes: "+err.Error())
	}
	if h.Type == TypeDir {
		if err := p.w.Next(h); err != nil {
			return err
		}
		return p.children(fd, name, uint64(st.Dev), depth+1)
	}
	if st.Nlink > 1 && len(p.links) < maxLinks {
		p.links[inode{uint64(st.Dev), st.Ino}] = name
	}
	return p.content(fd, h)
}

// children archives what is in a directory, in the file system's order: names
// are not collected, so memory does not depend on their number.
func (p *packer) children(fd int, name string, dev uint64, depth int) error {
	buf := make([]byte, 4096)
	var names []string
	for {
		var n int
		err := retry(func() (e error) { n, e = unix.ReadDirent(fd, buf); return e })
		if err != nil {
			if err != unix.ENOENT { // of a directory that was deleted
				p.note(name, err.Error())
			}
			return nil
		}
		if n <= 0 {
			return nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, base := range names {
			if err := p.entry(fd, base, name+"/"+base, dev, depth); err != nil {
				return err
			}
		}
	}
}

// content archives a regular file. Its size is settled by the header: what is
// written to it meanwhile is left out, what was cut off reads as zeros.
func (p *packer) content(fd int, h *Header) error {
	if kernelMade(fd) {
		return p.pseudo(fd, h)
	}
	if err := p.w.Next(h); err != nil {
		return err
	}
	for left := h.Size; left > 0; {
		var n int
		err := retry(func() (e error) { n, e = unix.Read(fd, p.buf[:min(left, bufSize)]); return e })
		if err != nil {
			p.note(h.Name, err.Error())
			return nil
		}
		if n == 0 {
			p.note(h.Name, "became shorter while it was read")
			return nil
		}
		if _, err := p.w.Write(p.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// pseudo archives a file that the kernel makes up, which says nothing true about
// its size: it is read first.
func (p *packer) pseudo(fd int, h *Header) error {
	var all []byte
	for {
		var n int
		err := retry(func() (e error) { n, e = unix.Read(fd, p.buf); return e })
		if err != nil {
			p.note(h.Name, err.Error())
			return nil
		}
		if n == 0 {
			break
		}
		if all = append(all, p.buf[:n]...); len(all) > maxPseudo {
			p.note(h.Name, "has no end within 4 MiB")
			return nil
		}
	}
	h.Size = int64(len(all))
	if err := p.w.Next(h); err != nil {
		return err
	}
	_, err := p.w.Write(all)
	return err
}

// special archives a link, device, FIFO. Sockets are nothing that can be kept.
func (p *packer) special(dir int, base, name string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	if p.linked(name, st) {
		return p.hardLink(name, st)
	}
	h := header(name, st)
	if h.Type == TypeSymlink {
		var err error
		if h.Link, err = readlink(dir, base); err != nil {
			if err != unix.ENOENT {
				p.note(name, err.Error())
			}
			return nil
		}
	}
	if st.Nlink > 1 && len(p.links) < maxLinks {
		p.links[inode{uint64(st.Dev), st.Ino}] = name
	}
	return p.w.Next(h)
}

// linked tells whether a file is in the archive already under another name.
func (p *packer) linked(name string, st *unix.Stat_t) bool {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false
	}
	_, ok := p.links[inode{uint64(st.Dev), st.Ino}]
	return ok
}

func (p *packer) hardLink(name string, st *unix.Stat_t) error {
	h := header(name, st)
	h.Type, h.Size, h.Link = TypeLink, 0, p.links[inode{uint64(st.Dev), st.Ino}]
	return p.w.Next(h)
}

func header(name string, st *unix.Stat_t) *Header {
	h := &Header{
		Name: name, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		Sec: int64(st.Mtim.Sec), Nsec: int64(st.Mtim.Nsec),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Type, h.Size = TypeReg, st.Size
		h.Sparse = st.Blocks*512 < st.Size
	case unix.S_IFDIR:
		h.Type = TypeDir
	case unix.S_IFLNK:
		h.Type = TypeSymlink
	case unix.S_IFIFO:
		h.Type = TypeFIFO
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Type = TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Type = TypeBlock
		}
		h.Major, h.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return h
}

// kernelMade tells whether a file lies on a file system whose files are made up
// as they are read (statfs(2)).
func kernelMade(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	switch uint32(fs.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.BINFMTFS_MAGIC:
		return true
	}
	return false
}
