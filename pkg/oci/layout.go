package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// fileSet is a folder or a tar archive that holds an image. Names are clean,
// relative and slash-separated; no name leads out of the set.
type fileSet interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// dirSet is a folder. os.Root keeps symbolic links from leading out of it.
type dirSet struct{ root *os.Root }

func openDir(path string) (fileSet, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return dirSet{root}, nil
}

func (d dirSet) open(name string) (io.ReadCloser, int64, error) {
	// Judged before it is opened: opening a FIFO would wait for a writer.
	if st, err := d.root.Stat(name); err != nil {
		return nil, 0, err
	} else if !st.Mode().IsRegular() {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func (d dirSet) Close() error { return d.root.Close() }

func readSet(set fileSet, name string, limit int64) ([]byte, error) {
	f, _, err := set.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readAtMost(f, limit)
	if errors.Is(err, errTooLarge) {
		return nil, fail(ErrUnsupported, "%s is larger than %s", name, bytesText(limit))
	}
	return b, err
}

// layout is an OCI image layout (image-spec 1.1, image-layout.md).
type layout struct {
	files fileSet
	t     target
}

const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"
	refName    = "org.opencontainers.image.ref.name"
	fullName   = "io.containerd.image.name" // as buildkit and docker save add it
)

// newLayout takes over files.
func newLayout(files fileSet, t target) (source, error) {
	b, err := readSet(files, layoutFile, maxManifest)
	if err != nil {
		files.Close()
		if errors.Is(err, fs.ErrNotExist) {
			hint := ""
			if t.kind == fromLayout {
				hint = "; if it is a root file system, write dir:" + t.path
			}
			return nil, fail(ErrNotFound, "no OCI image layout: there is no file %s%s", layoutFile, hint)
		}
		return nil, fmt.Errorf("reading %s: %w", layoutFile, err)
	}
	var v struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(b, &v); err != nil || !strings.HasPrefix(v.Version, "1.") {
		files.Close()
		return nil, fail(ErrUnsupported, "%s states the layout version %q, not 1.x", layoutFile, clip(v.Version))
	}
	return &layout{files: files, t: t}, nil
}

func (l *layout) addressed() bool { return true }
func (l *layout) remote() bool    { return false }
func (l *layout) Close() error    { return l.files.Close() }

func (l *layout) top(ctx context.Context) ([]byte, string, error) {
	raw, err := readSet(l.files, indexFile, maxManifest)
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", indexFile, err)
	}
	doc, err := parseDocument(raw, typeOCIIndex)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", indexFile, err)
	}
	var named []descriptor
	var names []string
	for _, d := range doc.Manifests {
		names = append(names, clip(d.Annotations[refName]))
		if l.t.tag == "" || matchesTag(d.Annotations, l.t.tag) {
			named = append(named, d)
		}
	}
	switch {
	case len(doc.Manifests) == 0:
		return nil, "", fail(ErrNotFound, "the layout lists no images")
	case len(named) == 0:
		return nil, "", fail(ErrNotFound, "the layout has no image %q, only %s", clip(l.t.tag), list(names))
	case len(named) == 1:
		raw, err := l.manifest(ctx, named[0])
		if err != nil {
			return nil, "", err
		}
		return raw, named[0].MediaType, verify("manifest", raw, named[0])
	case l.t.tag == "" && list(names) != "":
		return nil, "", fail(ErrReference, "the layout has several images; name one as oci:DIR:TAG: %s", list(names))
	}
	// The same image for several platforms, without an index of its own.
	doc.Manifests, doc.MediaType = named, typeOCIIndex
	raw, err = json.Marshal(doc)
	return raw, typeOCIIndex, err
}

// matchesTag compares with the whole name or with the tag in it.
func matchesTag(annotations map[string]string, tag string) bool {
	for _, key := range []string{refName, fullName} {
		if n := annotations[key]; n != "" && (n == tag || strings.HasSuffix(n, ":"+tag)) {
			return true
		}
	}
	return false
}

// list joins what is not empty, at most 20 of it.
func list(names []string) string {
	var out []string
	for _, n := range names {
		if n != "" {
			out = append(out, n)
		}
	}
	if len(out) > 20 {
		out = append(out[:20], "...")
	}
	return strings.Join(out, ", ")
}

func blobName(d Digest) string { return "blobs/sha256/" + d.Hex() }

func (l *layout) manifest(_ context.Context, d descriptor) ([]byte, error) {
	raw, err := readSet(l.files, blobName(d.Digest), maxManifest)
	return raw, l.missing(d, err)
}

func (l *layout) blob(_ context.Context, d descriptor, off int64) (io.ReadCloser, error) {
	f, size, err := l.files.open(blobName(d.Digest))
	if err != nil {
		return nil, l.missing(d, err)
	}
	if size != d.Size {
		f.Close()
		return nil, fail(ErrCorrupt, "blob %s has %d bytes, the manifest says %d", d.Digest, size, d.Size)
	}
	if _, err := io.CopyN(io.Discard, f, off); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (l *layout) missing(d descriptor, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fail(ErrCorrupt, "the layout lacks blob %s, which its manifest names", d.Digest)
	}
	return err
}

// layoutStamp: blobs are content-addressed, so the index says all.
func layoutStamp(path string) (string, error) {
	set, err := openDir(path)
	if err != nil {
		return "", err
	}
	defer set.Close()
	b, err := readSet(set, indexFile, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // newLayout says what is wrong
	} else if err != nil {
		return "", err
	}
	return "index " + string(digestOf(b)), nil
}
