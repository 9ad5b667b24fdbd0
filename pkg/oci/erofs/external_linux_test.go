package erofs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/anthropics/boxlite/pkg/oci/erofs/erofstest"
)

// The tests here ask programs that know nothing of this package: fsck.erofs,
// the kernel, and umoci as another unpacker of the same layers. The last two
// need root; without it fsck.erofs extracts the image instead, and what could
// not be compared is logged.

// tool returns the path of an external program. A missing one skips the test,
// or fails it where BOXLITE_REQUIRE_TOOLS is set, as in CI.
func tool(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		msg := fmt.Sprintf("%s not found: apt-get install %s", name, debianPackage)
		if os.Getenv("BOXLITE_REQUIRE_TOOLS") != "" {
			t.Fatal(msg)
		}
		t.Skip(msg)
	}
	return path
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %s\n%.4000s", name, strings.Join(args, " "), out)
	return string(out)
}

// save writes the device to a file.
func (img image) save(t testing.TB) string {
	t.Helper()
	device := filepath.Join(t.TempDir(), "device")
	require.NoError(t, os.WriteFile(device, img.device, 0o644))
	return device
}

// fsck checks the image and all its data, and extracts it.
func fsck(t testing.TB, device string) (extracted string) {
	t.Helper()
	fsck := tool(t, "fsck.erofs", "erofs-utils")
	require.Contains(t, run(t, fsck, "-d3", "--extract", device), "No errors found")
	extracted = filepath.Join(scratch(t), "extracted")
	run(t, fsck, "--extract="+extracted, device)
	return extracted
}

// mount mounts the device, read-only and without options, as the guest does.
func mount(t testing.TB, device string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-t", "erofs", "-o", "ro,loop", device, dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

// scratch returns a folder in memory if there is one that can hold extended
// attributes, else one on disk: umoci waits for the disk at every file.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "erofs-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Bavail*uint64(st.Bsize) < 1<<30 ||
		unix.Lsetxattr(dir, "user.probe", []byte("x"), 0) != nil {
		return t.TempDir()
	}
	return dir
}

// unpack lets umoci unpack the archives as the layers of one image.
func unpack(t testing.TB, archives ...[]byte) string {
	t.Helper()
	umoci := tool(t, "umoci", "umoci")
	dir := scratch(t)
	layout := filepath.Join(dir, "layout")
	writeLayout(t, layout, archives)
	run(t, umoci, "unpack", "--image", layout+":test", filepath.Join(dir, "bundle"))
	return filepath.Join(dir, "bundle", "rootfs")
}

func writeLayout(t testing.TB, dir string, archives [][]byte) {
	t.Helper()
	type desc struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	require.NoError(t, os.MkdirAll(blobs, 0o755))
	put := func(mediaType string, data []byte) desc {
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		require.NoError(t, os.WriteFile(filepath.Join(blobs, name), data, 0o644))
		return desc{MediaType: "application/vnd.oci.image." + mediaType, Digest: "sha256:" + name, Size: len(data)}
	}
	object := func(v any) []byte {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return b
	}
	var layers []desc
	var diffIDs []string
	for _, a := range archives {
		d := put("layer.v1.tar", a)
		layers, diffIDs = append(layers, d), append(diffIDs, d.Digest)
	}
	config := put("config.v1+json", object(map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}))
	manifest := put("manifest.v1+json", object(map[string]any{
		"schemaVersion": 2, "config": config, "layers": layers,
	}))
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": "test"}
	write := func(name string, v any) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), object(v), 0o644))
	}
	write("index.json", map[string]any{"schemaVersion": 2, "manifests": []desc{manifest}})
	write("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"})
}

// requireSame compares two walks file by file and reports the first few
// differences.
func requireSame(t testing.TB, what string, want, got []erofstest.File, relax func(f *erofstest.File)) {
	t.Helper()
	byPath := make(map[string]erofstest.File)
	for _, f := range want {
		byPath[f.Path] = f
	}
	differences := 0
	differ := func(format string, args ...any) {
		t.Helper()
		if differences++; differences <= 10 {
			t.Errorf("%s: "+format, append([]any{what}, args...)...)
		}
	}
	for _, g := range got {
		w, ok := byPath[g.Path]
		if !ok {
			differ("%q is one too many", g.Path)
			continue
		}
		delete(byPath, g.Path)
		if relax != nil {
			relax(&w)
			relax(&g)
		}
		if a, b := fmt.Sprintf("%+v", w), fmt.Sprintf("%+v", g); a != b {
			differ("%q is\n\t%.400q, want\n\t%.400q", g.Path, b, a)
		}
	}
	for path := range byPath {
		differ("%q is missing", path)
	}
	require.Zero(t, differences, what)
}

// dirLinks leaves out the link count of folders, which is each file system's
// own business.
func dirLinks(f *erofstest.File) {
	if f.Mode&unix.S_IFMT == unix.S_IFDIR {
		f.Nlink = 0
	}
}

// agree compares the image with everything at hand. Without archives umoci is
// not asked.
func agree(t *testing.T, img image, archives ...[]byte) {
	t.Helper()
	want := img.list(t)
	device := img.save(t)
	extracted := fsck(t, device)
	if os.Getuid() != 0 {
		t.Log("not root: the kernel's mount and umoci were not asked; compared with fsck.erofs --extract only")
		require.NoError(t, filepath.WalkDir(extracted, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() { // one has mode 0
				err = os.Chmod(path, 0o600)
			}
			return err
		}))
		got, err := erofstest.Folder(extracted)
		require.NoError(t, err)
		if img.open(t).Incompat&incompatChunked != 0 {
			t.Log("fsck.erofs 1.5 leaves holes out when it extracts: names and types are compared, contents not")
			requireSame(t, "fsck.erofs --extract", withoutDevices(want), withoutDevices(got), onlyNames)
			return
		}
		requireSame(t, "fsck.erofs --extract", withoutDevices(want), withoutDevices(got), onlyContents)
		return
	}
	got, err := erofstest.Folder(mount(t, device))
	require.NoError(t, err)
	requireSame(t, "kernel mount", want, got, nil)

	if len(archives) == 0 {
		return
	}
	got, err = erofstest.Folder(unpack(t, archives...))
	require.NoError(t, err)
	requireSame(t, "umoci", got, want, dirLinks)
}

// onlyContents leaves names, types, sizes, contents and link targets: what a
// user without rights can extract.
func onlyContents(f *erofstest.File) {
	*f = erofstest.File{Path: f.Path, Mode: f.Mode & unix.S_IFMT, Size: f.Size, SHA256: f.SHA256, Target: f.Target}
}

func onlyNames(f *erofstest.File) {
	*f = erofstest.File{Path: f.Path, Mode: f.Mode & unix.S_IFMT}
}

func withoutDevices(list []erofstest.File) []erofstest.File {
	var out []erofstest.File
	for _, f := range list {
		if k := f.Mode & unix.S_IFMT; k != unix.S_IFCHR && k != unix.S_IFBLK && k != unix.S_IFIFO {
			out = append(out, f)
		}
	}
	return out
}

func TestDifficultLayersAgreeWithKernelAndUmoci(t *testing.T) {
	archives := difficultLayers(t)
	img := build(t, archives...)
	agree(t, img, archives...)
}

// Bodies of several blocks, which the disk that umoci unpacks to cannot hold.
func TestLargeXattrsAgreeWithKernel(t *testing.T) {
	members := []member{dir(".", 0o755)}
	for i := range 60 {
		members = append(members, file(fmt.Sprint(i), strings.Repeat("d", i)).
			xattr("user.a", strings.Repeat("a", i*1061)).xattr("trusted.b", strings.Repeat("b", 4000+i)))
	}
	agree(t, build(t, layerTar(t, members...)))
}

// difficultLayers is an image of everything that unpackers get wrong. Every
// folder has a member of its own: unpackers differ in the time they give to
// others.
func difficultLayers(t testing.TB) [][]byte {
	many := []member{dir(".", 0o755), dir("many", 0o755), dir("many/sub", 0o755)}
	for i := range 1200 {
		many = append(many, file(fmt.Sprintf("many/%04d-%s", i*7919%1200, strings.Repeat("n", i%200)), fmt.Sprint(i)))
	}
	for i := range 300 {
		many = append(many, link(fmt.Sprintf("many/sub/%d", i), "many/0000-"))
	}
	attrs := []member{dir(".", 0o755), dir("attr", 0o2775).xattr("user.dir", "x")}
	for i := range 130 { // every alignment, and bodies across blocks
		attrs = append(attrs, file(fmt.Sprint("attr/", i), strings.Repeat("d", i*61)).
			xattr("user."+strings.Repeat("n", i+1), strings.Repeat("v", min(i*i+1, 2500))).
			xattr("security.capability", "\x01\x00\x00\x02"+strings.Repeat("\x00", 16)).
			xattr("trusted.as-long-as-capabilities-v3", strings.Repeat("c", 24)).
			xattr("trusted.t", strings.Repeat("t", i%7+1)))
	}
	sizes := []member{dir(".", 0o755), dir("size", 0o755)}
	for i, n := range []int{0, 1, 511, 512, 513, 4031, 4032, 4095, 4096, 4097, 8191, 8192, 8193, 1 << 20} {
		data := bytes.Repeat([]byte{byte(i + 1), 'x', 'y'}, n/3+1)[:n]
		sizes = append(sizes, file(fmt.Sprint("size/", n), string(data)).at(stamp.Add(-1<<uint(i)*1e9)))
	}
	for _, n := range []int{1, 55, 3000, 4031, 4032, 4033, 4064, 4095} {
		sizes = append(sizes, symlink(fmt.Sprint("size/link", n), strings.Repeat("a", n)))
	}
	base := []member{
		dir(".", 0o755), dir("d", 0o755), dir("d/lower", 0o700), file("d/lower/x", "x"), file("d/gone", "1"), file("d/kept", "1"),
		dir("o", 0o755), file("o/hidden", "1"), dir("o/sub", 0o755), file("o/sub/hidden", "1"),
		dir("usr", 0o755), dir("usr/bin", 0o755), symlink("bin", "usr/bin"), symlink("abs", "/usr"), symlink("out", "../../../usr"),
		file("t1", "1"), dir("t2", 0o755), file("t2/x", "1"), file("t3", "1"), link("t4", "t3"), symlink("t5", "t3"),
		member{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		member{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "sda17", Mode: 0o660, Gid: 6, Devmajor: 259, Devminor: 70_000}},
		member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o622}},
		file("suid", "s").mode(0o6755).owned(1000, 70_000), dir("sticky", 0o1777), file("mode0", "0").mode(0),
	}
	upper := []member{
		dir(".", 0o755).owned(1, 2), dir("d", 0o711), file("d/.wh.gone", ""), dir("o", 0o750), file("o/.wh..wh..opq", ""), file("o/new", "2"),
		file("bin/tool", "through a link"), file("abs/tool", "through an absolute link"), file("out/tool2", "through a link to outside"),
		dir("t1", 0o755), file("t1/y", "2"), file("t2", "2"), file("t3", "2"), dir("t5", 0o755),
		link("d/hard", "d/kept"), link("null2", "null"), link("link-to-link", "abs"),
		file("twice", "a"), file("twice", "b").owned(3, 4), dir("sticky", 0o1777).xattr("user.k", "v"),
		file("readme", "r"), file("README", "R"), file("d/lower/.wh.x", ""),
	}
	top := []member{dir(".", 0o755).owned(1, 2), link("d/hard2", "d/hard"), file(".wh.fifo", ""), file("d/kept", "3")}
	return [][]byte{layerTar(t, many...), layerTar(t, attrs...), layerTar(t, sizes...),
		layerTar(t, base...), layerTar(t, upper...), layerTar(t, top...)}
}

// TestSparseFilesAgreeWithKernelAndUmoci lets GNU tar write every sparse
// format it knows.
func TestSparseFilesAgreeWithKernelAndUmoci(t *testing.T) {
	src := t.TempDir()
	holes := func(name string, size int64, at ...int64) {
		f, err := os.Create(filepath.Join(src, name))
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, f.Truncate(size))
		for i, off := range at {
			_, err := f.WriteAt(bytes.Repeat([]byte{byte('a' + i)}, 5000), off)
			require.NoError(t, err)
		}
	}
	holes("all", 10<<20)
	holes("odd-end", 3<<20+123)
	holes("head", 1<<20, 0)
	holes("tail", 1<<20, 1<<20-5000)
	holes("middle", 16<<20, 5<<20, 7<<20+777, 12<<20)
	var at []int64
	for i := range 50 {
		at = append(at, int64(i)*131072)
	}
	holes("many", 50*131072, at...)
	for _, format := range [][]string{
		{"--format=gnu"},
		{"--format=posix", "--sparse-version=0.0"},
		{"--format=posix", "--sparse-version=0.1"},
		{"--format=posix", "--sparse-version=1.0"},
	} {
		t.Run(strings.Join(format, " "), func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "layer.tar")
			run(t, "tar", append(format, "--sparse", "-C", src, "-cf", out, ".")...)
			archive, err := os.ReadFile(out)
			require.NoError(t, err)
			img := build(t, archive)
			require.Less(t, len(img.device), 4<<20, "holes must not be stored")
			require.NotZero(t, img.open(t).Incompat&incompatChunked)
			got, err := erofstest.Folder(src)
			require.NoError(t, err)
			requireSame(t, "source", got, img.list(t), func(f *erofstest.File) {
				if format[0] == "--format=gnu" {
					f.Nsec = 0 // not in this format
				}
			})
			if format[0] == "--format=gnu" { // which umoci refuses
				agree(t, img)
				return
			}
			agree(t, img, archive)
		})
	}
}

func TestDebianImageAgreesWithKernelAndUmoci(t *testing.T) {
	if os.Getenv("BOXLITE_REQUIRE_TOOLS") == "" {
		t.Skip("takes half a minute: set BOXLITE_REQUIRE_TOOLS=1, as CI does")
	}
	archives := debianLayers(t)
	agree(t, build(t, archives...), archives...)
}
