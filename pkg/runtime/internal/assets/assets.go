// Package assets finds the guest kernel and initramfs: named by the caller,
// built into the program, or installed in the home directory.
//
// The build puts them into the folder files before it compiles the program. A
// program built without that step has none inside; it takes them from an
// artifact in a registry, which pin.go names, and keeps them in the home.
//
//	HOME/kernel/vmlinux, initramfs.cpio     put there by hand
//	HOME/kernel/vmlinux-<hash> and so on    built-in ones, unpacked
//	HOME/kernel/<sha256>/                   an installed artifact, by its digest
//	HOME/kernel/installed                   link to the one installed last
//	HOME/kernel/.install/                   locked while one is being installed
package assets

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

//go:embed all:files
var files embed.FS

// ErrMissing says that no kernel or initramfs was found anywhere.
var ErrMissing = errors.New("not there")

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

	all = []Asset{Kernel, Initramfs}
)

// Dir is the folder of kernels in a home directory.
func Dir(home string) string { return filepath.Join(home, "kernel") }

// Name is the asset's file name in an installed artifact.
func (a Asset) Name() string { return a.name }

// Find returns the path of an asset: the given one if it is not empty, else
// that in the environment, else the built-in one unpacked under home, else one
// installed by hand under home/kernel. None is ErrMissing.
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
	path, err := a.builtin(Dir(home))
	if !errors.Is(err, ErrMissing) {
		return path, err
	}
	path = filepath.Join(Dir(home), a.name)
	if isFile(path) {
		return path, nil
	}
	return "", fmt.Errorf("%s: none is built into this program, and %s is %w", a.what, path, ErrMissing)
}

// Sum is the hash of the built-in asset, in hex, and false if there is none.
func (a Asset) Sum() (string, bool) {
	sum, err := files.ReadFile("files/" + a.name + ".sha256")
	if err != nil {
		return "", false
	}
	return strings.TrimSpace(string(sum)), true
}

// Compressed is the built-in asset as it is built in. None is ErrMissing.
func (a Asset) Compressed() ([]byte, error) {
	b, err := files.ReadFile("files/" + a.name + ".zst")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: none is built into this program (%w)", a.what, ErrMissing)
	}
	return b, err
}

// builtin unpacks the built-in asset once per home and content. The file's name
// holds the hash that the build put beside it, so different programs can share
// a home, and the usual case costs one stat.
func (a Asset) builtin(dir string) (string, error) {
	sum, ok := a.Sum()
	if !ok {
		return "", ErrMissing
	}
	path := a.unpacked(dir, sum)
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
		if now := time.Now(); now.Sub(fi.ModTime()) > touchEvery {
			_ = os.Chtimes(path, now, now) // see Prune; a home that is read-only has none
		}
		return path, nil
	}
	if err := a.unpack(path); err != nil {
		return "", fmt.Errorf("%s: unpack to %s: %w", a.what, path, err)
	}
	return path, nil
}

// unpacked is name-<first 16 digits of the hash>.
func (a Asset) unpacked(dir, sum string) string { return filepath.Join(dir, a.name+"-"+sum[:16]) }

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}
