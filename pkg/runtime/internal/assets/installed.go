package assets

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Installed is an artifact in the home.
type Installed struct {
	Dir       string `json:"-"`
	Digest    string `json:"digest"`    // of what the reference named: "sha256:…"
	Reference string `json:"reference"` // where it came from
	Version   string `json:"version"`   // of the release
	Size      int64  `json:"-"`         // on disk, in bytes
	Last      bool   `json:"-"`         // the one installed last
}

const (
	infoName = "artifact.json"
	lastName = "installed"
)

// InstallDir is the folder that installations are prepared in. Who holds an
// flock on it may remove all that is in it.
func InstallDir(home string) string { return filepath.Join(Dir(home), ".install") }

func digestHex(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// Find returns the path of an asset in the artifact, and false if it lacks it.
func (i *Installed) Find(a Asset) (string, bool) {
	path := filepath.Join(i.Dir, a.name)
	return path, isFile(path)
}

// Lookup returns the installed artifact with a digest. None is ErrMissing. The
// artifact counts as used.
func Lookup(home, digest string) (*Installed, error) {
	return open(filepath.Join(Dir(home), digestHex(digest)), true)
}

// Last returns the artifact that was installed last. None is ErrMissing.
func Last(home string) (*Installed, error) {
	to, err := os.Readlink(filepath.Join(Dir(home), lastName))
	if err != nil || !installedName.MatchString(to) {
		return nil, ErrMissing
	}
	return open(filepath.Join(Dir(home), to), true)
}

// List returns all installed artifacts, sorted by digest.
func List(home string) ([]Installed, error) {
	entries, err := os.ReadDir(Dir(home))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	last, _ := os.Readlink(filepath.Join(Dir(home), lastName))
	var out []Installed
	for _, e := range entries {
		if !installedName.MatchString(e.Name()) {
			continue
		}
		i, err := open(filepath.Join(Dir(home), e.Name()), false)
		if errors.Is(err, ErrMissing) {
			continue
		} else if err != nil {
			return nil, err
		}
		i.Size, i.Last = sumOf([]string{i.Dir}), e.Name() == last
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b Installed) int { return strings.Compare(a.Digest, b.Digest) })
	return out, nil
}

func open(dir string, use bool) (*Installed, error) {
	b, err := os.ReadFile(filepath.Join(dir, infoName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMissing
	} else if err != nil {
		return nil, err
	}
	i := &Installed{Dir: dir}
	if err := json.Unmarshal(b, i); err != nil || digestHex(i.Digest) != filepath.Base(dir) {
		return nil, ErrMissing // not one of ours, or damaged: to be installed again
	}
	if use {
		if st, err := os.Stat(dir); err == nil && time.Since(st.ModTime()) > touchEvery {
			now := time.Now()
			_ = os.Chtimes(dir, now, now) // see Prune
		}
	}
	return i, nil
}

// Publish makes dir, a folder of InstallDir with the assets in it, an installed
// artifact. The caller holds the lock. Everything in it is on disk before it has
// its name.
func Publish(home, dir string, i Installed) (*Installed, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	if err := writeSynced(filepath.Join(dir, infoName), b); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	to := filepath.Join(Dir(home), digestHex(i.Digest))
	if err := os.RemoveAll(to); err != nil { // Lookup found it damaged
		return nil, err
	}
	if err := os.Rename(dir, to); err != nil {
		return nil, err
	}
	i.Dir = to
	return &i, syncDir(Dir(home))
}

// SetLast makes an artifact the one that programs without a pin take.
func SetLast(home string, i *Installed) error {
	tmp := filepath.Join(InstallDir(home), "last")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(i.Dir), tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(Dir(home), lastName))
}

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
