// Package disk makes the writable disk of a box: a sparse raw file with an empty
// ext4 filesystem, written from a template of a few kilobytes. The guest grows
// the filesystem online where the file is larger than the template.
package disk

import (
	"compress/flate"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// The templates hold the blocks of an empty filesystem that are not zero; see mktemplate.
var (
	//go:embed templates/64MiB.flate
	small []byte
	//go:embed templates/10GiB.flate
	normal []byte
)

const (
	blockSize  = 4096
	smallSize  = 64 << 20
	normalSize = 10 << 30

	// DefaultGB is the size of a box's disk where none is asked for. Space is
	// taken as the guest writes. The template has this size, so that a boot
	// does not have to grow it.
	DefaultGB = 10
	// MaxGB is the largest disk, 16 TiB.
	MaxGB = 16 << 10
)

// Create makes a new disk of sizeGB gibibytes at path, which must not exist; one
// that does is left alone, and the error is os.ErrExist. On an error nothing is
// left. No other Create of the same path may be under way.
func Create(path string, sizeGB int) (err error) {
	if sizeGB < 1 || sizeGB > MaxGB {
		return fmt.Errorf("disk: size of %d GB: choose 1 to %d", sizeGB, MaxGB)
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("disk: %s: %w", path, os.ErrExist)
	}
	// The name is given last: what a killed process leaves is no disk.
	unfinished := path + ".new"
	f, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(unfinished, path)
		}
		if err != nil {
			os.Remove(unfinished)
		}
	}()
	size := int64(sizeGB) << 30
	template := normal
	if size < normalSize {
		template = small
	}
	if err := write(f, template); err != nil {
		return fmt.Errorf("disk: create %s: %w", path, err)
	}
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("disk: create %s: %w", path, err)
	}
	return nil
}

// write puts the blocks of a template in their places.
func write(f io.WriterAt, template []byte) error {
	r := flate.NewReader(&byteReader{template})
	var rec [4 + blockSize]byte
	for {
		if _, err := io.ReadFull(r, rec[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("built-in filesystem template: %w", err)
		}
		at := int64(binary.LittleEndian.Uint32(rec[:])) * blockSize
		if _, err := f.WriteAt(rec[4:], at); err != nil {
			return err
		}
	}
}

// byteReader spares flate the bufio.Reader that it would put around other readers.
type byteReader struct{ b []byte }

func (r *byteReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

func (r *byteReader) ReadByte() (byte, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c, nil
}
