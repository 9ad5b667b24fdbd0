package main

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// cpioWriter writes the "newc" archive that Linux unpacks as its initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst). Everything is
// owned by root.
type cpioWriter struct {
	w    io.Writer
	n    int64           // bytes written
	ino  uint32          // of the last entry
	dirs map[string]bool // folders that the archive has

	mtime uint32 // of the entries that follow
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, dirs: map[string]bool{".": true, "": true}}
}

func (c *cpioWriter) write(p []byte) error {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return err
}

func (c *cpioWriter) align() error {
	return c.write(make([]byte, -c.n&3))
}

// header writes an entry's header and name. dev is used by device nodes only.
func (c *cpioWriter) header(name string, mode uint32, size int64, major, minor uint32) error {
	if size > math.MaxUint32 {
		return fmt.Errorf("%s: %d bytes: more than an initramfs can hold in one file", name, size)
	}
	c.ino++
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, mode, 0, 0, 1, c.mtime, size, 0, 0, major, minor, len(name)+1, 0, name)
	if err := c.write([]byte(h)); err != nil {
		return err
	}
	return c.align()
}

// parents adds the folders above name that are not there yet.
func (c *cpioWriter) parents(name string) error {
	dir := filepath.Dir(name)
	if c.dirs[dir] {
		return nil
	}
	if err := c.parents(dir); err != nil {
		return err
	}
	return c.dir(dir, 0o755)
}

func (c *cpioWriter) dir(name string, perm fs.FileMode) error {
	name = strings.TrimPrefix(name, "/")
	if c.dirs[name] {
		return nil
	}
	c.dirs[name] = true
	if err := c.parents(name); err != nil {
		return err
	}
	return c.header(name, syscall.S_IFDIR|uint32(perm.Perm()), 0, 0, 0)
}

func (c *cpioWriter) device(name string, perm, major, minor uint32) error {
	if err := c.parents(name); err != nil {
		return err
	}
	return c.header(name, syscall.S_IFCHR|perm, 0, major, minor)
}

func (c *cpioWriter) symlink(name, target string) error {
	name = strings.TrimPrefix(name, "/")
	if err := c.parents(name); err != nil {
		return err
	}
	if err := c.header(name, syscall.S_IFLNK|0o777, int64(len(target)), 0, 0); err != nil {
		return err
	}
	if err := c.write([]byte(target)); err != nil {
		return err
	}
	return c.align()
}

// bytes adds a regular file that holds data.
func (c *cpioWriter) bytes(name string, perm fs.FileMode, data []byte) error {
	name = strings.TrimPrefix(name, "/")
	if err := c.parents(name); err != nil {
		return err
	}
	if err := c.header(name, syscall.S_IFREG|uint32(perm.Perm()), int64(len(data)), 0, 0); err != nil {
		return err
	}
	if err := c.write(data); err != nil {
		return err
	}
	return c.align()
}

// file adds the host's file src, links followed.
func (c *cpioWriter) file(name, src string) error {
	name = strings.TrimPrefix(name, "/")
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := c.parents(name); err != nil {
		return err
	}
	c.mtime = uint32(info.ModTime().Unix())
	if err := c.header(name, syscall.S_IFREG|uint32(info.Mode().Perm()), info.Size(), 0, 0); err != nil {
		return err
	}
	n, err := io.Copy(c.w, io.LimitReader(f, info.Size()))
	c.n += n
	if err == nil && n != info.Size() {
		err = fmt.Errorf("%s: became shorter while it was read", src)
	}
	if err != nil {
		return err
	}
	return c.align()
}

// tree adds the host's folder src with all that is in it; links stay links.
func (c *cpioWriter) tree(name, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(name, rel)
		switch d.Type() {
		case fs.ModeDir:
			info, err := d.Info()
			if err != nil {
				return err
			}
			c.mtime = uint32(info.ModTime().Unix())
			return c.dir(to, info.Mode())
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return c.symlink(to, target)
		case 0:
			return c.file(to, path)
		}
		return nil // sockets, pipes and devices mean nothing elsewhere
	})
}

// close ends the archive; another may follow it in the same file.
func (c *cpioWriter) close() error {
	c.ino = 0
	if err := c.header("TRAILER!!!", 0, 0, 0, 0); err != nil {
		return err
	}
	return c.write(make([]byte, -c.n&511))
}
