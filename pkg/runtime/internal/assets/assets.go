// Package assets finds the guest kernel and initramfs: named by the caller,
// built into the program, or installed in the home directory.
//
// The build puts them into the folder files before it compiles the program. A
// program built without that step has none inside, and says what to do.
package assets

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

//go:embed all:files
var files embed.FS

// ErrMissing says that no kernel or initramfs was found anywhere.
var ErrMissing = errors.New("not found")

// Asset is one of the two files a guest boots from.
type Asset struct {
	what string // for messages
	name string // of the plain file under HOME/kernel
	env  string
}

// The assets.
var (
	Kernel    = Asset{"guest kernel", "vmlinux", "BOXLITE_KERNEL"}
	Initramfs = Asset{"guest initramfs", "initramfs.cpio", "BOXLITE_INITRAMFS"}
)

// Find returns the path of an asset: the given one if it is not empty, else
// that in the environment, else the built-in one unpacked under home, else one
// installed by hand under home/kernel.
func (a Asset) Find(given, home string) (string, error) {
	if given == "" {
		given = os.Getenv(a.env)
	}
	if given != "" {
		abs, err := filepath.Abs(given)
		if err != nil {
			return "", err
		}
		if fi, err := os.Stat(abs); err != nil {
			return "", fmt.Errorf("%s: %w", a.what, err)
		} else if !fi.Mode().IsRegular() {
			return "", fmt.Errorf("%s: %s is not a file", a.what, abs)
		}
		return abs, nil
	}
	dir := filepath.Join(home, "kernel")
	path, err := a.builtin(dir)
	if !errors.Is(err, ErrMissing) {
		return path, err
	}
	path = filepath.Join(dir, a.name)
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		return path, nil
	}
	return "", fmt.Errorf("%s: none is built into this program, and %s is not there: run `make` in the boxlite source tree, or set %s: %w", a.what, path, a.env, ErrMissing)
}

// builtin unpacks the built-in asset once per home and content. The file's name
// holds the hash that the build put beside it, so different programs can share
// a home, and the usual case costs one stat.
func (a Asset) builtin(dir string) (string, error) {
	sum, err := files.ReadFile("files/" + a.name + ".sha256")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrMissing
	} else if err != nil {
		return "", err
	}
	// name-<first 16 digits of the hash>
	path := filepath.Join(dir, a.name+"-"+strings.TrimSpace(string(sum))[:16])
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		return path, nil
	}
	if err := a.unpack(path); err != nil {
		return "", fmt.Errorf("%s: unpack to %s: %w", a.what, path, err)
	}
	return path, nil
}

func (a Asset) unpack(path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	in, err := files.Open("files/" + a.name + ".zst")
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	tmp, err := os.CreateTemp(filepath.Dir(path), ".unpack-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once it has its name
	_, err = io.Copy(tmp, z)
	// The file is mapped into guests, so it must be whole before it has its name, also after a power cut.
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
