package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// LoadOptions of one Load. The zero value is usable.
type LoadOptions struct {
	// Platform to load of images that the archive has for several; zero
	// means the store's.
	Platform Platform
	// Progress as in PullOptions.
	Progress func(Event)
}

// Load brings all images of an archive into the store, as `docker save`, Save
// and other tools write them, compressed or not, under the names they have in
// it. An image without a name, or with no more than a tag for one, is Dangling
// and goes by its digest. r is read from where it is; a regular file is read in
// place, anything else is put into a temporary file of the store. What was
// loaded before an error is returned with it.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]Image, error) {
	if o.Platform.isZero() {
		o.Platform = s.opts.Platform
	}
	o.Platform = o.Platform.normal()
	s.clean()
	images, err := s.load(ctx, r, o)
	if err != nil {
		return images, fmt.Errorf("oci: loading images: %w", err)
	}
	return images, nil
}

func (s *Store) load(ctx context.Context, r io.Reader, o LoadOptions) ([]Image, error) {
	f, temp, err := s.loadFile(ctx, r)
	if err != nil {
		return nil, err
	}
	set := &tarSet{f: f, temp: temp}
	defer set.Close()
	if err := set.prepare(ctx, s); err != nil {
		return nil, err
	}
	sources, err := loadable(set)
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, src := range sources {
		img, err := s.loadOne(ctx, src, o)
		if errors.Is(err, ErrPlatform) && src.platform {
			continue // one of several, of which another will do
		}
		if err != nil {
			return images, fmt.Errorf("%s: %w", src, err)
		}
		images = append(images, img...)
	}
	if len(images) == 0 {
		return nil, fail(ErrPlatform, "the archive has no image for %s", o.Platform)
	}
	return images, nil
}

// loadFile returns the archive as a file of its own to read at random.
func (s *Store) loadFile(ctx context.Context, r io.Reader) (f *os.File, temp bool, err error) {
	if f, ok := r.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			if at, err := f.Seek(0, io.SeekCurrent); err == nil && at == 0 {
				own, err := os.Open(f.Name()) // the caller's is not to be closed
				if err == nil && sameFile(own, st) {
					return own, false, nil
				} else if err == nil {
					own.Close()
				}
			}
		}
	}
	plain, err := decompress(contextReader{ctx, r})
	if err != nil {
		return nil, false, err
	}
	defer plain.Close()
	if f, err = s.newTemp(); err != nil {
		return nil, false, s.diskError(err, 0)
	}
	n, err := io.Copy(f, io.LimitReader(plain, s.opts.MaxLayer+1))
	switch {
	case err == nil && n > s.opts.MaxLayer:
		err = fail(ErrUnsupported, "archive unpacks to more than %s", bytesText(s.opts.MaxLayer))
	case err == nil && n == 0:
		err = fail(ErrUnsupported, "the archive is empty")
	}
	if err != nil {
		dropTemp(f)
		return nil, false, s.diskError(err, 0)
	}
	return f, true, nil
}

func sameFile(f *os.File, st os.FileInfo) bool {
	own, err := f.Stat()
	return err == nil && os.SameFile(own, st)
}

// loadSource is one image of an archive.
type loadSource struct {
	source
	names    []string
	raw      []byte // manifest or index
	kind     string
	platform bool // one of the platforms of an image
}

func (l *loadSource) top(ctx context.Context) ([]byte, string, error) {
	if l.raw == nil {
		return l.source.top(ctx)
	}
	return l.raw, l.kind, nil
}

func (l *loadSource) String() string {
	if len(l.names) > 0 {
		return clip(l.names[0])
	}
	return "image without name"
}

// loadable lists the images of an archive. Closing the set closes them.
func loadable(set *tarSet) ([]*loadSource, error) {
	_, hasLayout := set.files[layoutFile]
	_, hasManifest := set.files[dockerManifestFile]
	switch {
	case hasLayout:
		return loadableLayout(set)
	case hasManifest:
		return loadableDocker(set)
	}
	return nil, fail(ErrUnsupported, "not an image archive: the tar has neither %s nor %s", layoutFile, dockerManifestFile)
}

func loadableDocker(set *tarSet) ([]*loadSource, error) {
	raw, err := readSet(set, dockerManifestFile, maxManifest)
	if err != nil {
		return nil, err
	}
	entries, err := parseDockerManifest(raw)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fail(ErrNotFound, "the archive lists no images")
	}
	var out []*loadSource
	for i := range entries {
		src := &dockerArchive{files: set, layers: map[Digest]string{}, entry: &entries[i]}
		out = append(out, &loadSource{source: src, names: loadNames(entries[i].RepoTags...)})
	}
	return out, nil
}

func loadableLayout(set *tarSet) ([]*loadSource, error) {
	src, err := newLayout(set, target{kind: fromOCIArchive})
	if err != nil {
		return nil, err
	}
	l := src.(*layout)
	raw, err := readSet(set, indexFile, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", indexFile, err)
	}
	doc, err := parseDocument(raw, typeOCIIndex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	if len(doc.Manifests) == 0 {
		return nil, fail(ErrNotFound, "the archive lists no images")
	}
	var out []*loadSource
	byDigest := map[Digest]*loadSource{}
	names := map[string]bool{}
	for _, d := range doc.Manifests {
		own := loadNames(d.Annotations[fullName], d.Annotations[refName])
		if len(own) > 1 {
			own = own[:1]
		}
		several := len(own) > 0 && names[own[0]]
		if len(own) > 0 {
			names[own[0]] = true
		}
		if x := byDigest[d.Digest]; x != nil { // another name of it
			x.names = append(x.names, own...)
			continue
		}
		raw, err := l.manifest(context.Background(), d)
		if err != nil {
			return nil, err
		}
		if err := verify("manifest", raw, d); err != nil {
			return nil, err
		}
		x := &loadSource{source: src, names: own, raw: raw, kind: d.MediaType, platform: d.Platform != nil || several}
		byDigest[d.Digest] = x
		out = append(out, x)
	}
	return out, nil
}

// loadNames normalises those names of an archive that name an image by
// themselves.
func loadNames(names ...string) []string {
	var out []string
	for _, n := range names {
		if !strings.ContainsAny(n, "/:") {
			continue // a tag of a name that the archive does not tell
		}
		if full, ok := tagged(n); ok {
			out = append(out, full)
		}
	}
	return out
}

func (s *Store) loadOne(ctx context.Context, src *loadSource, o LoadOptions) ([]Image, error) {
	ev := newEvents(o.Progress, src.String())
	keep, err := s.newLease()
	if err != nil {
		return nil, err
	}
	defer keep.drop()
	img, err := s.fetch(ctx, src, o.Platform, keep, ev)
	if err != nil {
		return nil, err
	}
	names := src.names
	if len(names) == 0 {
		names, img.Dangling = []string{string(img.Digest)}, true
	}
	var out []Image
	for _, n := range names {
		img.Reference = n
		done, err := s.enter(ctx, img, o.Platform, "", ev)
		if err != nil {
			return out, err
		}
		out = append(out, done)
	}
	return out, nil
}
