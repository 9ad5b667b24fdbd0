package erofstest

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Folder lists a real folder in the form that Image.Walk gives.
func Folder(root string) ([]File, error) {
	var files []File
	ids := make(map[string]uint64)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		f := File{Path: rel, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint64(st.Nlink),
			Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f.Size = uint64(st.Size)
			if f.Size <= maxHash {
				if f.SHA256, err = hashFile(path); err != nil {
					return err
				}
			}
		case unix.S_IFLNK:
			f.Size = uint64(st.Size)
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFCHR, unix.S_IFBLK:
			f.Major, f.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		if f.Xattrs, err = xattrs(path); err != nil {
			return &fs.PathError{Op: "listxattr", Path: path, Err: err}
		}
		files = append(files, f)
		ids[rel] = st.Ino
		return nil
	})
	sort.Slice(files, func(i, j int) bool { return files[i].Path < files[j].Path })
	relink(files, ids)
	return files, err
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

func xattrs(path string) (map[string]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	val := make([]byte, 64<<10)
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		n, err := unix.Lgetxattr(path, name, val)
		if err != nil {
			return nil, err
		}
		out[name] = string(val[:n])
	}
	return out, nil
}
