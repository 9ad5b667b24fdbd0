package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// maxMembers bounds the files of an image archive: a few per layer.
const maxMembers = 16 << 10

// tarSet is a tar archive, indexed once and then read at random.
type tarSet struct {
	f     *os.File
	files map[string]extent
	links map[string]string
	temp  bool // f is ours, unpacked from a compressed archive
}

type extent struct{ off, size int64 }

// openArchive opens an image archive and finds out which kind it is.
func (s *Store) openArchive(ctx context.Context, t target) (source, error) {
	set, err := s.openTar(ctx, t.path)
	if err != nil {
		return nil, pathError(t, err)
	}
	_, hasLayout := set.files[layoutFile]
	_, hasManifest := set.files[dockerManifestFile]
	switch {
	// docker save has written both kinds into one file since version 25.
	case hasLayout && t.kind != fromDockerArchive:
		return newLayout(set, t)
	case hasManifest && t.kind != fromOCIArchive:
		return newDockerArchive(set, t)
	}
	set.Close()
	return nil, fail(ErrUnsupported, "not an image archive: the tar has neither %s nor %s", layoutFile, dockerManifestFile)
}

func (s *Store) openTar(ctx context.Context, name string) (*tarSet, error) {
	if st, err := os.Stat(name); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	set := &tarSet{f: f}
	if err := set.prepare(ctx, s); err != nil {
		set.Close()
		return nil, err
	}
	return set, nil
}

// prepare makes f readable by name.
func (a *tarSet) prepare(ctx context.Context, s *Store) error {
	if err := a.unpack(ctx, s); err != nil {
		return err
	}
	return a.index(ctx)
}

// unpack replaces a compressed archive by a temporary file with its contents.
func (a *tarSet) unpack(ctx context.Context, s *Store) error {
	var head [6]byte
	n, err := a.f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !isCompressed(head[:n]) {
		return nil
	}
	plain, err := decompress(contextReader{ctx, a.f})
	if err != nil {
		return err
	}
	defer plain.Close()
	tmp, err := s.newTemp()
	if err != nil {
		return s.diskError(err, 0)
	}
	defer a.f.Close() // the archive; from now on a.f is what it unpacks to
	a.f, a.temp = tmp, true
	copied, err := io.Copy(tmp, io.LimitReader(plain, s.opts.MaxLayer+1))
	if err == nil && copied > s.opts.MaxLayer {
		err = fail(ErrUnsupported, "archive unpacks to more than %s", bytesText(s.opts.MaxLayer))
	}
	return s.diskError(err, 0)
}

func (a *tarSet) index(ctx context.Context) error {
	if _, err := a.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	st, err := a.f.Stat()
	if err != nil {
		return err
	}
	a.files, a.links = map[string]extent{}, map[string]string{}
	tr := tar.NewReader(a.f) // skips contents by seeking
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fail(ErrUnsupported, "not a tar archive: %w", err)
		}
		if len(a.files)+len(a.links) >= maxMembers {
			return fail(ErrUnsupported, "archive has more than %d members", maxMembers)
		}
		name := cleanName(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			off, err := a.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if h.Size > st.Size()-off {
				return fail(ErrCorrupt, "archive is truncated: %s needs %d bytes, %d are left", clip(name), h.Size, st.Size()-off)
			}
			a.files[name] = extent{off, h.Size}
			delete(a.links, name)
		case tar.TypeSymlink:
			a.links[name] = cleanName(path.Join(path.Dir(name), h.Linkname))
			delete(a.files, name)
		case tar.TypeLink:
			a.links[name] = cleanName(h.Linkname)
			delete(a.files, name)
		}
	}
}

// cleanName roots a name, so that ".." stops at the top.
func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// open implements fileSet. docker save before version 25 writes a layer that
// occurs twice as a link.
func (a *tarSet) open(name string) (io.ReadCloser, int64, error) {
	name = cleanName(name)
	for range 8 {
		if e, ok := a.files[name]; ok {
			return io.NopCloser(io.NewSectionReader(a.f, e.off, e.size)), e.size, nil
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (a *tarSet) Close() error {
	if a.temp {
		dropTemp(a.f)
		return nil
	}
	return a.f.Close()
}

func fileStamp(name string) (string, error) {
	st, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("file %d %s %d", st.Size(), st.ModTime().UTC().Format(time.RFC3339Nano), inode(st)), nil
}

// contextReader stops reading when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
