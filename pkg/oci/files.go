package oci

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Folders of a store. See the package documentation for what is in them.
const (
	blobsDir   = "blobs"
	layersDir  = "layers"
	rootfsDir  = "rootfs"
	refsDir    = "refs"
	partialDir = "partial"
	tmpDir     = "tmp"
)

// partialKept is how long an unfinished download is kept to be continued.
const partialKept = 24 * time.Hour

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

func (s *Store) blobPath(d Digest) string    { return s.path(blobsDir, d.Hex()) }
func (s *Store) partialPath(d Digest) string { return s.path(partialDir, d.Hex()) }

// newTemp creates a file in the store's tmp folder, locked for as long as it
// is open, so that nobody takes it for a leftover.
func (s *Store) newTemp() (*os.File, error) { return s.tempIn(tmpDir) }

func (s *Store) tempIn(dir string) (*os.File, error) {
	for {
		f, err := tryLock(s.path(dir, rand.Text()))
		if !errors.Is(err, errLocked) { // someone cleaning up was quicker
			return f, err
		}
	}
}

// dropTemp closes and removes a file of newTemp; after publish it only closes.
func dropTemp(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}

// publish moves a finished file of newTemp to where readers look, so that it
// is there whole or not at all, even across a power cut.
func publish(f *os.File, to string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Chmod(f.Name(), 0o444); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// writeFile is publish for bytes.
func (s *Store) writeFile(to string, b []byte) error {
	f, err := s.newTemp()
	if err != nil {
		return s.diskError(err, int64(len(b)))
	}
	defer dropTemp(f)
	if _, err := f.Write(b); err != nil {
		return s.diskError(err, int64(len(b)))
	}
	return s.diskError(publish(f, to), int64(len(b)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// readLimited reads a whole file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, limit)
}

var errTooLarge = errors.New("larger than allowed")

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errTooLarge
	}
	return b, err
}

// clean removes what killed pulls left behind: temporary files and locks whose
// owner is dead, and partial downloads nobody came back for.
func (s *Store) clean() {
	s.sweep(tmpDir, func(fs.FileInfo) bool { return true })
	s.sweep(leasesDir, func(fs.FileInfo) bool { return true })
	s.sweep(partialDir, func(fi fs.FileInfo) bool {
		return fi.Size() == 0 || time.Since(fi.ModTime()) >= partialKept
	})
}

// sweep removes the files of dir that are due and that nobody has locked.
func (s *Store) sweep(dir string, due func(fs.FileInfo) bool) {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !due(info) {
			continue
		}
		err = removeDead(s.path(dir, e.Name()))
		if err != nil && !errors.Is(err, errLocked) && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("image store: leftover not removed", "file", e.Name(), "err", err)
		}
	}
}
