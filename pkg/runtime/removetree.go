package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// removeTree deletes a tree that a guest made: of any depth, and with folders that are
// closed to us. Folders within folders are moved up to the top before it is their
// turn, so that neither descriptors nor lengths of paths grow with the depth, and no
// link leads out. Others may delete the same tree meanwhile. Errors name nothing that
// is in the tree: names are the guest's.
func removeTree(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return nameless(err)
	}
	defer root.Close()
	f := flattener{root: root, prefix: ".up-" + string(NewBoxID())}
	for range 100 {
		if err = eachEntry(root, f.remove); err == nil {
			err = unlessGone(os.Remove(dir))
		}
		if !errors.Is(err, fs.ErrExist) { // not empty: others have moved folders up
			break
		}
	}
	return nameless(err)
}

type flattener struct {
	root   *os.Root
	prefix string // of the names of folders that were moved up; nothing else has it
	moved  int
}

// remove deletes an entry of the root, and moves folders in it up there.
func (f *flattener) remove(e fs.DirEntry) error {
	name := e.Name()
	if !e.IsDir() {
		return unlessGone(f.root.Remove(name))
	}
	if err := f.root.Chmod(name, 0o700); err != nil {
		return unlessGone(err)
	}
	sub, err := f.root.OpenRoot(name)
	if err != nil {
		return unlessGone(err)
	}
	defer sub.Close()
	err = eachEntry(sub, func(e fs.DirEntry) error {
		if !e.IsDir() {
			return unlessGone(sub.Remove(e.Name()))
		}
		// A folder's parent cannot be changed without the right to write to it.
		if err := sub.Chmod(e.Name(), 0o700); err != nil {
			return unlessGone(err)
		}
		f.moved++
		return unlessGone(f.root.Rename(name+"/"+e.Name(), fmt.Sprintf("%s-%d", f.prefix, f.moved)))
	})
	if err != nil {
		return err
	}
	return unlessGone(f.root.Remove(name))
}

// eachEntry calls do, which takes entries away, until none is left.
func eachEntry(dir *os.Root, do func(fs.DirEntry) error) error {
	for {
		d, err := dir.Open(".")
		if err != nil {
			return unlessGone(err)
		}
		n, err := eachRead(d, do)
		d.Close()
		if err != nil || n == 0 {
			return err
		}
	}
}

// eachRead calls do with what one reading of a folder finds: some may be missing of
// one that changes meanwhile.
func eachRead(d *os.File, do func(fs.DirEntry) error) (n int, err error) {
	for {
		entries, err := d.ReadDir(256)
		for _, e := range entries {
			n++
			if err := do(e); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, unlessGone(err)
		}
	}
}

func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// nameless is what the system said, without the path that it is about.
func nameless(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}
