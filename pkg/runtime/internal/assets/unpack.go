package assets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// MaxSize bounds what an asset unpacks to: far more than any has, far less than
// would hurt.
const MaxSize = 512 << 20

const tempPattern = ".unpack-*"

func (a Asset) unpack(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	in, err := a.Compressed()
	if err != nil {
		return err
	}
	tmp, err := lockedTemp(dir)
	if err != nil {
		return err
	}
	defer tmp.Close()
	defer os.Remove(tmp.Name()) // fails once it has its name
	// The file is mapped into guests, so it must be whole before it has its name, also after a power cut.
	if err = errors.Join(Decompress(tmp, bytes.NewReader(in)), tmp.Sync()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	clean(dir, staleAfter) // a new version has come; the old one may go
	return nil
}

// Decompress unpacks an asset, refusing more than MaxSize.
func Decompress(to io.Writer, in io.Reader) error { return decompress(to, in, MaxSize) }

func decompress(to io.Writer, in io.Reader, most int64) error {
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	n, err := io.Copy(to, io.LimitReader(z, most+1))
	if err == nil && n > most {
		err = fmt.Errorf("unpacks to more than %d bytes", most)
	}
	return err
}

// lockedTemp makes a file that is locked for as long as it is open: one that is
// not belongs to a process that was killed.
func lockedTemp(dir string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, tempPattern)
		if err != nil {
			return nil, err
		}
		if tryLock(f) { // or somebody cleaning up was quicker
			return f, nil
		}
		f.Close()
	}
}

// tryLock locks f if nobody has, and if it still has its name.
func tryLock(f *os.File) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(f.Name())
	return err == nil && os.SameFile(a, b)
}
