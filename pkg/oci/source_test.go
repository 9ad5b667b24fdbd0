package oci

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// layoutOf writes an OCI image layout; names are given to the images in order,
// "" for none.
func layoutOf(t testing.TB, dir string, names []string, images ...testImage) map[string][]byte {
	t.Helper()
	files := map[string][]byte{layoutFile: []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	var entries []map[string]any
	for i, img := range images {
		e := entryOf(typeOCIManifest, img.manifest, "")
		if names[i] != "" {
			e["annotations"] = map[string]string{refName: names[i]}
		}
		entries = append(entries, e)
		for _, b := range append([][]byte{img.manifest, img.config}, img.layers...) {
			files[blobName(digestOf(b))] = b
		}
	}
	files[indexFile] = indexOf(t, entries...)
	if dir != "" {
		writeTree(t, dir, files)
	}
	return files
}

func writeTree(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, b := range files {
		p := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, b, 0o644))
	}
}

func tarFile(t testing.TB, path string, files map[string][]byte, more ...*tar.Header) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}))
		_, err := w.Write(data)
		require.NoError(t, err)
	}
	for _, h := range more {
		require.NoError(t, w.WriteHeader(h))
	}
	require.NoError(t, w.Close())
	out := b.Bytes()
	if strings.HasSuffix(path, ".gz") {
		out = gzipOf(t, out)
	}
	require.NoError(t, os.WriteFile(path, out, 0o644))
}

func TestLayout(t *testing.T) {
	dir := t.TempDir()
	one := imageOf(t, nil, tarOf(t, "f", "the first"))
	two := imageOf(t, nil, tarOf(t, "f", "the second"))
	s := newStore(t)

	layoutOf(t, dir, []string{""}, one)
	img, err := s.Pull(t.Context(), dir, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, "oci:"+dir, img.Reference)
	require.Equal(t, one.digest(), img.Digest)
	requireContents(t, s, img, "the first")
	for _, ref := range []string{dir, dir + "/", "oci:" + dir} {
		got, err := s.Resolve(t.Context(), ref)
		require.NoError(t, err)
		require.Equal(t, img, got)
	}

	// The folder changes: what was imported is no longer it.
	layoutOf(t, dir, []string{"web", "example.com/db:v2"}, one, two)
	_, err = s.Resolve(t.Context(), dir)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = s.Pull(t.Context(), dir, PullOptions{})
	require.ErrorIs(t, err, ErrReference)
	require.ErrorContains(t, err, "web, example.com/db:v2")
	img, err = s.Pull(t.Context(), "oci:"+dir+":web", PullOptions{})
	require.NoError(t, err)
	require.Equal(t, one.digest(), img.Digest)
	img, err = s.Pull(t.Context(), "oci:"+dir+":v2", PullOptions{})
	require.NoError(t, err)
	require.Equal(t, two.digest(), img.Digest)
	_, err = s.Pull(t.Context(), "oci:"+dir+":nope", PullOptions{})
	require.ErrorIs(t, err, ErrNotFound)

	t.Chdir(dir)
	_, err = s.Resolve(t.Context(), "oci:.:web")
	require.NoError(t, err)
	_, err = s.Remove(t.Context(), "oci:.:web", RemoveOptions{})
	require.NoError(t, err)
	_, err = s.Resolve(t.Context(), "oci:.:web")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestLayoutFaults(t *testing.T) {
	img := imageOf(t, nil, tarOf(t, "f", noise(1, 10<<10)))
	layer := blobName(digestOf(img.layers[0]))
	for name, c := range map[string]struct {
		change func(files map[string][]byte)
		kind   error
		words  string
	}{
		"no marker":        {func(f map[string][]byte) { delete(f, layoutFile) }, ErrNotFound, "dir:"},
		"future version":   {func(f map[string][]byte) { f[layoutFile] = []byte(`{"imageLayoutVersion":"2"}`) }, ErrUnsupported, "version"},
		"no index":         {func(f map[string][]byte) { delete(f, indexFile) }, nil, indexFile},
		"junk index":       {func(f map[string][]byte) { f[indexFile] = []byte("{") }, ErrCorrupt, indexFile},
		"empty index":      {func(f map[string][]byte) { f[indexFile] = []byte(`{"schemaVersion":2,"manifests":[]}`) }, ErrNotFound, "no images"},
		"missing blob":     {func(f map[string][]byte) { delete(f, layer) }, ErrCorrupt, "lacks blob"},
		"truncated blob":   {func(f map[string][]byte) { f[layer] = f[layer][:50] }, ErrCorrupt, "50 bytes"},
		"altered blob":     {func(f map[string][]byte) { f[layer] = bytes.Repeat([]byte("x"), len(f[layer])) }, ErrCorrupt, "arrived with the digest"},
		"altered config":   {func(f map[string][]byte) { f[blobName(digestOf(img.config))] = make([]byte, len(img.config)) }, ErrCorrupt, "config"},
		"giant index":      {func(f map[string][]byte) { f[indexFile] = make([]byte, maxManifest+1) }, ErrUnsupported, "larger than"},
		"manifest is gone": {func(f map[string][]byte) { delete(f, blobName(img.digest())) }, ErrCorrupt, "lacks blob"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files := layoutOf(t, "", []string{""}, img)
			c.change(files)
			writeTree(t, dir, files)
			s := newStore(t)
			_, err := s.Pull(t.Context(), dir, PullOptions{})
			require.Error(t, err)
			if c.kind != nil {
				require.ErrorIs(t, err, c.kind)
			}
			require.ErrorContains(t, err, c.words)
			requireEmpty(t, s)
			requireClean(t, s)
		})
	}
	// Links do not lead out of the folder.
	dir := t.TempDir()
	files := layoutOf(t, dir, []string{""}, img)
	outside := filepath.Join(t.TempDir(), "blob")
	require.NoError(t, os.WriteFile(outside, files[layer], 0o644))
	require.NoError(t, os.Remove(filepath.Join(dir, layer)))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, layer)))
	s := newStore(t)
	_, err := s.Pull(t.Context(), dir, PullOptions{})
	require.Error(t, err)
	requireEmpty(t, s)
}

func dockerFiles(t testing.TB, tags []string, img testImage) map[string][]byte {
	files := map[string][]byte{"cfg.json": img.config}
	var layers []string
	for i, p := range img.plain {
		name := string(rune('a'+i)) + "/layer.tar"
		files[name] = p
		layers = append(layers, name)
	}
	files[dockerManifestFile] = mustJSON(t, []dockerEntry{{Config: "cfg.json", RepoTags: tags, Layers: layers}})
	return files
}

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	img := imageOf(t, nil, tarOf(t, "f", "below"), tarOf(t, "g", "above"))
	docker, ociTar, zipped, both := filepath.Join(dir, "docker.tar"), filepath.Join(dir, "oci.tar"), filepath.Join(dir, "docker.tar.gz"), filepath.Join(dir, "both.tar")
	files := dockerFiles(t, []string{"team/app:v1"}, img)
	tarFile(t, docker, files)
	tarFile(t, zipped, files)
	layoutFiles := layoutOf(t, "", []string{"v1"}, img)
	tarFile(t, ociTar, layoutFiles)
	for n, b := range layoutFiles {
		files[n] = b
	}
	tarFile(t, both, files)
	for _, ref := range []string{
		docker, "docker-archive:" + docker, "docker-archive:" + docker + ":team/app:v1", "docker-archive:" + docker + ":v1",
		zipped, ociTar, "oci-archive:" + ociTar, "oci-archive:" + ociTar + ":v1", both, "docker-archive:" + both, "archive:" + both,
	} {
		s := newStore(t)
		got, err := s.Pull(t.Context(), ref, PullOptions{})
		require.NoError(t, err, ref)
		require.Equal(t, digestOf(img.config), got.ConfigDigest, ref)
		requireContents(t, s, got, "below", "above")
		requireClean(t, s)
		again, err := s.Resolve(t.Context(), got.Reference)
		require.NoError(t, err)
		require.Equal(t, got, again)
	}
	s := newStore(t)
	got, err := s.Pull(t.Context(), docker, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, "archive:"+docker, got.Reference)
	later := time.Now().Add(time.Hour)
	require.NoError(t, os.Chtimes(docker, later, later))
	_, err = s.Resolve(t.Context(), docker)
	require.ErrorIs(t, err, ErrNotFound, "the file has changed")

	for ref, words := range map[string]string{
		"oci-archive:" + docker:                 "not an image archive",
		"docker-archive:" + ociTar:              "not an image archive",
		"docker-archive:" + docker + ":other":   "team/app:v1",
		"archive:" + filepath.Join(dir, "nope"): "no such file",
		"./nope.tar":                            "no such file",
		"archive:" + dir:                        "not a regular file",
	} {
		_, err := s.Pull(t.Context(), ref, PullOptions{})
		require.ErrorContains(t, err, words, ref)
	}
}

func TestArchiveFaults(t *testing.T) {
	dir := t.TempDir()
	img := imageOf(t, nil, tarOf(t, "f", noise(1, 10<<10)))
	good := dockerFiles(t, nil, img)
	with := func(name string, b []byte) map[string][]byte {
		files := map[string][]byte{}
		for k, v := range good {
			files[k] = v
		}
		if files[name] = b; b == nil {
			delete(files, name)
		}
		return files
	}
	other := tarOf(t, "f", "another layer")
	for name, c := range map[string]struct {
		files map[string][]byte
		kind  error
		words string
	}{
		"no config":    {with("cfg.json", nil), ErrCorrupt, "lacks cfg.json"},
		"no layer":     {with("a/layer.tar", nil), ErrCorrupt, "lacks a/layer.tar"},
		"wrong layer":  {with("a/layer.tar", other), ErrCorrupt, "the image config says"},
		"junk":         {with(dockerManifestFile, []byte("[{")), ErrCorrupt, dockerManifestFile},
		"empty":        {with(dockerManifestFile, []byte("[]")), ErrNotFound, "no images"},
		"zero layers":  {with(dockerManifestFile, []byte(`[{"Config":"cfg.json"}]`)), ErrUnsupported, "no layers"},
		"escape":       {with(dockerManifestFile, []byte(`[{"Config":"../../../../etc/passwd","Layers":["x"]}]`)), ErrCorrupt, "lacks"},
		"several":      {with(dockerManifestFile, []byte(`[{"Config":"a","Layers":["x"],"RepoTags":["one:1"]},{"Config":"b","Layers":["x"],"RepoTags":["two:2"]}]`)), ErrReference, "one:1, two:2"},
		"giant":        {with(dockerManifestFile, make([]byte, maxManifest+1)), ErrUnsupported, "larger than"},
		"zstd'd layer": {with("a/layer.tar", zstdOf(t, img.plain[0])), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := filepath.Join(dir, "a.tar")
			tarFile(t, p, c.files)
			s := newStore(t)
			_, err := s.Pull(t.Context(), p, PullOptions{})
			requireClean(t, s)
			if c.kind == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c.kind)
			require.ErrorContains(t, err, c.words)
			requireEmpty(t, s)
		})
	}
	p := filepath.Join(dir, "cut.tar")
	tarFile(t, p, good)
	st, err := os.Stat(p)
	require.NoError(t, err)
	for _, n := range []int64{0, 100, 512, 700, st.Size() / 2} {
		require.NoError(t, os.Truncate(p, n))
		s := newStore(t)
		_, err := s.Pull(t.Context(), p, PullOptions{})
		require.Error(t, err, n)
		requireEmpty(t, s)
		requireClean(t, s)
		tarFile(t, p, good)
	}
	// Links are followed, in the archive and not for ever.
	linked := with("a/layer.tar", nil)
	linked["real"] = img.plain[0]
	tarFile(t, p, linked, &tar.Header{Name: "a/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../real"})
	_, err = newStore(t).Pull(t.Context(), p, PullOptions{})
	require.NoError(t, err)
	tarFile(t, p, with("a/layer.tar", nil), &tar.Header{Name: "a/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "layer.tar"})
	_, err = newStore(t).Pull(t.Context(), p, PullOptions{})
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestPlatforms(t *testing.T) {
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	mine, theirs := imageOf(t, nil, tarOf(t, "f", "mine")), imageOf(t, []edit{func(cfg, _ map[string]any) {
		if cfg != nil {
			cfg["architecture"] = other
		}
	}}, tarOf(t, "f", "theirs"))
	srv := newServer(t)
	srv.push("app", "mine", mine)
	srv.push("app", "theirs", theirs)
	proof := imageOf(t, nil, tarOf(t, "f", "in-toto"))
	srv.push("app", "proof", proof)
	attestation := entryOf(typeOCIManifest, proof.manifest, "")
	attestation["platform"] = map[string]string{"os": "unknown", "architecture": "unknown"}
	inner := indexOf(t, entryOf(typeOCIManifest, mine.manifest, DefaultPlatform().String()), attestation)
	srv.putManifest("app", string(digestOf(inner)), typeOCIIndex, inner)
	put := func(tag string, entries ...map[string]any) string {
		srv.putManifest("app", tag, typeOCIIndex, indexOf(t, entries...))
		return srv.host() + "/app:" + tag
	}
	s := newStore(t)
	ref := put("both", entryOf(typeOCIManifest, theirs.manifest, "linux/"+other), entryOf(typeOCIIndex, inner, ""))
	img, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	require.Equal(t, mine.digest(), img.Digest)
	require.NotEqual(t, img.Digest, img.IndexDigest)
	require.Equal(t, DefaultPlatform(), img.Platform)

	// Both platforms of a reference live side by side.
	p := Platform{OS: "linux", Architecture: other}
	far, err := s.Pull(t.Context(), ref, PullOptions{Platform: p})
	require.NoError(t, err)
	require.Equal(t, theirs.digest(), far.Digest)
	require.Equal(t, p, far.Platform)
	near, err := s.Resolve(t.Context(), ref)
	require.NoError(t, err)
	require.Equal(t, img, near)

	for _, r := range []string{
		put("only", entryOf(typeOCIManifest, theirs.manifest, "linux/"+other), entryOf(typeOCIManifest, theirs.manifest, "windows/"+other), attestation),
		srv.host() + "/app:theirs",
		put("blind", entryOf(typeOCIManifest, theirs.manifest, "")),
	} {
		_, err = s.Pull(t.Context(), r, PullOptions{})
		require.ErrorIs(t, err, ErrPlatform, r)
		require.ErrorContains(t, err, DefaultPlatform().String()+", only for linux/"+other)
	}
	img, err = s.Pull(t.Context(), put("dark", entryOf(typeOCIManifest, theirs.manifest, ""), entryOf(typeOCIManifest, mine.manifest, "")), PullOptions{})
	require.NoError(t, err)
	require.Equal(t, mine.digest(), img.Digest)
}

func TestPlatformScore(t *testing.T) {
	for _, c := range []struct {
		want, best string
		have       []string
	}{
		{"arm64", "linux/arm64/v8", []string{"linux/amd64", "linux/arm64/v8", "linux/arm/v7"}},
		{"linux/arm64/v8", "linux/arm64", []string{"linux/arm64"}},
		{"arm/v7", "linux/arm/v6", []string{"linux/arm/v5", "linux/arm/v6"}},
		{"arm/v6", "", []string{"linux/arm/v7"}},
		{"amd64", "linux/amd64", []string{"linux/amd64/v3", "linux/amd64"}},
		{"amd64", "", []string{"linux/amd64/v3", "windows/amd64", "linux/386"}},
		{"aarch64", "linux/arm64", []string{"linux/arm64"}},
	} {
		want, err := ParsePlatform(c.want)
		require.NoError(t, err)
		best, score := "", 0
		for _, h := range c.have {
			p, err := ParsePlatform(h)
			require.NoError(t, err)
			if n := want.score(p); n > score {
				best, score = h, n
			}
		}
		require.Equal(t, c.best, best, c)
	}
	for _, s := range []string{"", "/", "linux/", "a/b/c/d", "linux/a b"} {
		_, err := ParsePlatform(s)
		require.ErrorIs(t, err, ErrReference, s)
	}
}
