package assets

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Several programs, of several versions, use one home. What of it is in use
// shows by the time of change of the unpacked files, which whoever uses one
// brings up to date every touchEvery.
const (
	touchEvery = time.Hour
	unusedFor  = 24 * time.Hour      // then Prune may have it
	staleAfter = 30 * 24 * time.Hour // then it goes without being asked for
)

var (
	unpackedName  = regexp.MustCompile(`^(vmlinux|initramfs\.cpio)-[0-9a-f]{16}$`)
	installedName = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Prune removes what killed processes left, and kernels that neither this
// program nor, in the last day, another one used. What was put there by hand,
// and the artifact installed last, stay.
func Prune(home string) (freed int64, err error) { return clean(Dir(home), unusedFor) }

// Usage is what kernels take up in a home, and what of it Prune would free.
func Usage(home string) (total, unused int64, err error) {
	dir := Dir(home)
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			total += onDisk(info)
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return total, sumOf(unusedIn(dir, unusedFor)), nil
}

// Count is how many kernels are in a home: built-in ones that were unpacked there,
// one put there by hand, and installed artifacts; and how many of them Prune would
// remove.
func Count(home string) (total, unused int) {
	dir := Dir(home)
	isKernel := func(name string) bool {
		return name == Kernel.name || installedName.MatchString(name) || unpackedName.MatchString(name) && strings.HasPrefix(name, Kernel.name)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0 // none, then
	}
	for _, e := range entries {
		if isKernel(e.Name()) {
			total++
		}
	}
	for _, path := range unusedIn(dir, unusedFor) {
		if isKernel(filepath.Base(path)) {
			unused++
		}
	}
	return total, unused
}

func clean(dir string, age time.Duration) (freed int64, err error) {
	dead, err := filepath.Glob(filepath.Join(dir, tempPattern))
	if err != nil {
		return 0, err
	}
	for _, path := range dead {
		freed += removeDead(path)
	}
	var errs []error
	for _, path := range unusedIn(dir, age) {
		n := sumOf([]string{path})
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, err)
			continue
		}
		freed += n
	}
	return freed, errors.Join(errs...)
}

// removeDead removes a temporary file whose owner is gone.
func removeDead(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	if !tryLock(f) {
		return 0
	}
	info, err := f.Stat()
	if err != nil || os.Remove(path) != nil {
		return 0
	}
	return onDisk(info)
}

// unusedIn lists what nobody has used for so long.
func unusedIn(dir string, age time.Duration) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // no kernels, then
	}
	own := map[string]bool{}
	for _, a := range all {
		if sum, ok := a.Sum(); ok {
			own[filepath.Base(a.unpacked(dir, sum))] = true
		}
	}
	if PinDigest != "" {
		own[digestHex(PinDigest)] = true
	}
	if last, err := os.Readlink(filepath.Join(dir, lastName)); err == nil {
		own[last] = true
	}
	var out []string
	for _, e := range entries {
		if own[e.Name()] || !unpackedName.MatchString(e.Name()) && !installedName.MatchString(e.Name()) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > age {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

func sumOf(paths []string) (n int64) {
	for _, p := range paths {
		_ = filepath.WalkDir(p, func(_ string, d fs.DirEntry, err error) error {
			if err == nil {
				if info, err := d.Info(); err == nil {
					n += onDisk(info)
				}
			}
			return nil
		})
	}
	return n
}

func onDisk(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(st.Blocks) * 512
	}
	return info.Size()
}
