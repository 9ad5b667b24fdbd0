package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// checkCapture refuses a capture file that the box itself could replace, or that cannot
// be made.
func (r *Runtime) checkCapture(o *BoxOptions) error {
	if o.Network.Capture == "" {
		return nil
	}
	shares := r.writableShares(o)
	if err := captureApart(o.Network.Capture, shares); err != nil {
		return err
	}
	return captureThere(o.Network.Capture, shares)
}

// captureThere finds out before a box is booted that no file can be where its frames
// are to go. A folder in a share may come with that.
func captureThere(path string, shares []string) error {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return fail(ErrInvalidArgument, "capture file %s: it is no regular file: name one, or one to be made", path)
	}
	if slices.ContainsFunc(shares, func(share string) bool { return strings.HasPrefix(path, strings.TrimSuffix(share, "/")+"/") }) {
		return nil
	}
	if fi, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
		return fail(ErrInvalidArgument, "capture file %s: there is no folder %s: make it first", path, filepath.Dir(path))
	}
	return nil
}

// captureApart makes sure that the box has no say in where the file for its frames
// is: a guest that may write to the file's folder, or to a folder with a link on the
// way there, would choose which file of the host is overwritten at the next start. path
// is absolute; shares are what of the host the box may write to, some of which may not
// be there yet.
func captureApart(path string, shares []string) error {
	for _, share := range shares {
		shared, err := os.Stat(share)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return wrap(ErrInvalidArgument, err, "capture file %s", path)
		}
		// The file itself too: it may be the one that is shared.
		for at := filepath.Clean(path); ; at = filepath.Dir(at) {
			inside, err := liesIn(at, shared)
			if err != nil {
				return wrap(ErrInvalidArgument, err, "capture file %s", path)
			}
			if inside {
				return fail(ErrInvalidArgument, "capture file %s: the box may write to %s, which it is in or leads through: choose another folder, or share that read-only", path, share)
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return nil
}

// liesIn tells whether a path is what is shared, or leads to something below it. It
// compares files, not names: those have several spellings where case does not matter.
func liesIn(path string, shared os.FileInfo) (bool, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	for at := real; ; at = filepath.Dir(at) {
		fi, err := os.Stat(at)
		if err != nil {
			return false, err
		}
		if os.SameFile(fi, shared) {
			return true, nil
		}
		if at == filepath.Dir(at) {
			return false, nil
		}
	}
}

// writableShares are the paths of the host that a box with these options may write to.
func (r *Runtime) writableShares(o *BoxOptions) (list []string) {
	for _, m := range r.mountsOf(o) {
		if m.Type != MountTmpfs && m.RW {
			list = append(list, m.Source)
		}
	}
	return list
}
