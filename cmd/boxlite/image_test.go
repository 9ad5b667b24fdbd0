package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anthropics/boxlite/pkg/oci"
	"github.com/creack/pty"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	gcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary stand in for the program.
func TestMain(m *testing.M) {
	if os.Getenv("BOXLITE_TEST_IS_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// self prepares a run of the program as this test has it, on a home.
func self(t testing.TB, home string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	c := exec.CommandContext(t.Context(), exe, args...)
	c.Env = append(os.Environ(), "BOXLITE_TEST_IS_PROGRAM=1", "BOXLITE_HOME="+home)
	return c
}

// must runs the program and returns what it printed.
func must(t testing.TB, home string, args ...string) string {
	t.Helper()
	r := runProgram(t, self(t, home, args...))
	require.Zero(t, r.code, "%v: %s", args, r.stderr)
	require.Empty(t, r.stderr, args)
	return r.stdout
}

// refused runs the program, which must fail with one line, and returns that.
func refused(t testing.TB, home string, args ...string) string {
	t.Helper()
	return refusedWith(t, exitFailed, home, args...)
}

// refusedWith is refused with an exit code.
func refusedWith(t testing.TB, code int, home string, args ...string) string {
	t.Helper()
	r := runProgram(t, self(t, home, args...))
	require.Equal(t, code, r.code, "%v: %s", args, r.stdout)
	require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
	return r.stderr
}

// serveImages is a registry with images of two layers. before, if set, is called
// before a layer is sent.
func serveImages(t testing.TB, before func(*http.Request), names ...string) (host string) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if before != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			before(r)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	host = strings.TrimPrefix(srv.URL, "http://")
	store, err := oci.Open(t.TempDir(), oci.Options{})
	require.NoError(t, err)
	for _, n := range names {
		img, err := random.Image(200_000, 2)
		require.NoError(t, err)
		dir := t.TempDir()
		p, err := gcrlayout.Write(dir, empty.Index)
		require.NoError(t, err)
		require.NoError(t, p.AppendImage(img))
		_, err = store.Push(t.Context(), "oci:"+dir, host+"/"+n, nil)
		require.NoError(t, err)
	}
	return host
}

var digestLine = regexp.MustCompile(`^sha256:[0-9a-f]{64}\n$`)

func TestPullInAPipe(t *testing.T) {
	host := serveImages(t, nil, "app:one")
	home := t.TempDir()
	for range 2 {
		require.Regexp(t, digestLine, must(t, home, "pull", host+"/app:one"))
	}
}

// On a terminal there is a line per layer while it is fetched, and nothing when
// it is over.
func TestPullOnATerminal(t *testing.T) {
	gate := make(chan struct{})
	var blobs atomic.Int32
	host := serveImages(t, func(r *http.Request) {
		if blobs.Add(1) == 1 {
			return // the config
		}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	}, "app:one")
	ptmx, tty, err := pty.Open()
	require.NoError(t, err)
	defer ptmx.Close()
	require.NoError(t, pty.Setsize(ptmx, &pty.Winsize{Rows: 24, Cols: 100}))
	c := self(t, t.TempDir(), "image", "pull", host+"/app:one")
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, tty
	require.NoError(t, c.Start())
	require.NoError(t, tty.Close())
	screen := new(terminal)
	layer := regexp.MustCompile(`^[0-9a-f]{12} downloading +\[`)
	buf := make([]byte, 4096)
	open := true
	for {
		n, err := ptmx.Read(buf)
		screen.write(buf[:n])
		lines := 0
		for _, l := range screen.lines {
			if layer.MatchString(l) {
				lines++
			}
		}
		require.LessOrEqual(t, lines, 2, "one line per layer: %q", screen.lines)
		if lines == 2 && open { // both are shown at once, on lines of their own
			close(gate)
			open = false
		}
		if err != nil {
			break
		}
	}
	require.NoError(t, c.Wait())
	require.False(t, open, "no lines were shown: %q", screen.lines)
	require.Empty(t, strings.TrimSpace(strings.Join(screen.lines, "")), "the display is cleared")
	require.Zero(t, screen.row, "and the cursor is where it was")
	require.Regexp(t, digestLine, out.String())
}

// terminal understands as much as the display needs of one: text, line ends, and
// the sequences that move the cursor up and erase.
type terminal struct {
	lines    []string
	row, col int
	rest     string
}

var controlSequence = regexp.MustCompile(`^\x1b\[(\??[0-9;]*)([A-Za-z])`)

func (s *terminal) write(b []byte) {
	in := s.rest + string(b)
	s.rest = ""
	for len(in) > 0 {
		for len(s.lines) <= s.row {
			s.lines = append(s.lines, "")
		}
		switch c := in[0]; c {
		case '\x1b':
			m := controlSequence.FindStringSubmatch(in)
			if m == nil {
				s.rest = in // the rest comes with the next read
				return
			}
			in = in[len(m[0]):]
			n := 1
			fmt.Sscan(m[1], &n)
			switch m[2] {
			case "A":
				s.row = max(0, s.row-n)
			case "J":
				s.lines = s.lines[:s.row+1]
				s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
			case "K":
				s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
			}
			continue
		case '\r':
			s.col = 0
		case '\n':
			s.row++
		default:
			line := s.lines[s.row]
			line += strings.Repeat(" ", max(0, s.col-len(line)))
			s.lines[s.row] = line[:s.col] + string(c) + line[min(len(line), s.col+1):]
			s.col++
		}
		in = in[1:]
	}
}

func TestImageCommands(t *testing.T) {
	host := serveImages(t, nil, "app:one", "app:two")
	one, two := host+"/app:one", host+"/app:two"
	home := t.TempDir()
	d1 := strings.TrimSpace(must(t, home, "pull", one))
	d2 := strings.TrimSpace(must(t, home, "image", "pull", two))
	require.Equal(t, one+"\n"+two+"\n", must(t, home, "images", "--format", "{{.Reference}}"))
	require.Equal(t, d2+"\n", must(t, home, "images", "-q", "--filter", "reference=*/app:two"))
	require.Equal(t, d1+"\n", must(t, home, "image", "ls", "-q", one))
	require.Empty(t, must(t, home, "images", "-q", "--filter", "dangling=true"))
	require.Contains(t, refused(t, home, "images", "--filter", "size=1"), "dangling=true|false")
	require.Contains(t, refused(t, home, "image", "frobnicate"), "frobnicate")

	var details []map[string]any
	require.NoError(t, json.Unmarshal([]byte(must(t, home, "image", "inspect", one, d2[7:20])), &details))
	require.Len(t, details, 2)
	require.Equal(t, d1, details[0]["Digest"])
	require.Equal(t, []any{two}, details[1]["References"])
	require.Equal(t, "2\n", must(t, home, "image", "inspect", "--format", "{{len .Layers}}", one))
	require.Contains(t, refusedWith(t, exitSome, home, "image", "inspect", "nope"), "boxlite images")

	// Save to a file and to a pipe gives the same; load brings both back.
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	require.Empty(t, must(t, home, "image", "save", "-o", file, one, two))
	piped := must(t, home, "image", "save", one, two)
	saved, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(saved), piped)
	require.Contains(t, refusedWith(t, exitSome, home, "image", "save", "-o", filepath.Join(dir, "b.tar"), "nope"), "nope")
	require.Contains(t, refused(t, home, "image", "save", "--format", "zip", one), "oci-archive or docker-archive")
	require.Equal(t, "boxlite: save: "+one+": image is not available for linux/s390x, only for "+oci.DefaultPlatform().String()+"\n",
		refusedWith(t, exitSome, home, "save", "--platform", "linux/s390x", "-o", filepath.Join(dir, "b.tar"), one))
	require.Equal(t, "boxlite: image inspect: oci:/nope: no such image in the image store; `boxlite images` lists what is there\n",
		refusedWith(t, exitSome, home, "image", "inspect", "oci:/nope"))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "a failed save leaves nothing")
	require.Equal(t, one+"\n"+two+"\n", must(t, t.TempDir(), "image", "load", "-i", file))
	c := self(t, t.TempDir(), "image", "load")
	c.Stdin = strings.NewReader(piped)
	require.Equal(t, one+"\n"+two+"\n", runProgram(t, c).stdout)
	require.NoError(t, os.Truncate(file, 3000))
	require.NotEmpty(t, refusedWith(t, exitSome, t.TempDir(), "image", "load", "-i", file))
	require.Contains(t, refusedWith(t, exitSome, home, "image", "load"), "archive") // standard input is empty

	// A pull that moves a tag leaves the old image without a name.
	must(t, home, "rmi", two)
	require.Contains(t, refusedWith(t, exitSome, home, "rmi", two), "no such image")
	require.Contains(t, refused(t, home, "prune"), "-f")
	require.Contains(t, refused(t, home, "image", "prune", "-a"), "-f")
	require.Contains(t, must(t, home, "system", "df"), "Images      1")
	require.Contains(t, must(t, home, "system", "df", "-v"), one)
	var row usageRow
	require.NoError(t, json.Unmarshal([]byte(strings.SplitN(must(t, home, "system", "df", "--format", "json"), "\n", 2)[0]), &row))
	require.Equal(t, row.Size, row.Reclaimable)
	require.Greater(t, row.Size, int64(400_000))
	out := must(t, home, "system", "prune", "-a", "-f")
	require.Contains(t, out, "Untagged: "+one)
	require.Contains(t, out, "Deleted: "+d1)
	require.Regexp(t, `Freed: [4-9]\d\d\.\d kB`, out)
	require.Empty(t, must(t, home, "images", "-a", "-q"))
}

// On a terminal prune asks, and takes nothing but a yes for one.
func TestPruneAsks(t *testing.T) {
	host := serveImages(t, nil, "app:one")
	home := t.TempDir()
	must(t, home, "pull", host+"/app:one")
	for _, answer := range []string{"n\n", "\n", "\x04"} {
		require.Equal(t, exitSome, ask(t, home, answer))
		require.NotEmpty(t, must(t, home, "images", "-q"))
	}
	require.Zero(t, ask(t, home, "yes\n"))
	require.Empty(t, must(t, home, "images", "-q"))
}

func ask(t *testing.T, home, answer string) (code int) {
	ptmx, tty, err := pty.Open()
	require.NoError(t, err)
	defer ptmx.Close()
	c := self(t, home, "image", "prune", "-a")
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	require.NoError(t, c.Start())
	require.NoError(t, tty.Close())
	var got bytes.Buffer
	buf := make([]byte, 4096)
	asked := false
	for {
		n, err := ptmx.Read(buf)
		got.Write(buf[:n])
		if !asked && strings.Contains(got.String(), "[y/N]") {
			asked = true
			_, err := ptmx.WriteString(answer)
			require.NoError(t, err)
		}
		if err != nil {
			break
		}
	}
	require.True(t, asked, got.String())
	require.Contains(t, got.String(), "all images that no box is made from")
	_ = c.Wait() // the exit code tells
	return c.ProcessState.ExitCode()
}

func TestReferenceFilter(t *testing.T) {
	for ref, patterns := range map[string]map[string]bool{
		"docker.io/library/alpine:latest": {"alpine": true, "alpine:*": true, "docker.io/*/*": true, "library/alpine": false, "alp": false, "alpine:3": false},
		"docker.io/team/app:v1":           {"team/app": true, "team/*:v1": true, "app": false},
		"host:5000/a/b":                   {"host:5000/a/b": true, "*/a/b": true, "host": false},
		"oci:/srv/images:web":             {"oci:/srv/images": true},
	} {
		for p, want := range patterns {
			require.Equal(t, want, matchesReference(p, ref), "%s %s", p, ref)
		}
	}
}

func TestKernelCommands(t *testing.T) {
	host := serveImages(t, nil)
	home := t.TempDir()
	builtIn := strings.Contains(must(t, home, "kernel", "ls"), "built in")
	if !builtIn { // a tree that was not built
		require.Contains(t, refusedWith(t, exitSome, home, "kernel", "push", host+"/kernel:v1"), "built into")
		return
	}
	digest := must(t, home, "kernel", "push", host+"/kernel:v1")
	require.Regexp(t, digestLine, digest)
	require.Equal(t, digest, must(t, home, "kernel", "push", host+"/kernel:v2"), "the same every time")
	r := runProgram(t, self(t, home, "kernel", "install", host+"/kernel:v1"))
	require.Zero(t, r.code, r.stderr)
	require.Equal(t, digest, r.stdout)
	require.Contains(t, r.stderr, "kernel ls", "the built-in one is used")
	require.Contains(t, must(t, home, "kernel", "ls"), strings.TrimSpace(digest))
	require.Contains(t, refusedWith(t, exitSome, home, "kernel", "install", host+"/nope"), "nope")
	require.Contains(t, refusedWith(t, exitSome, home, "kernel", "push", "oci:"+home), "registries")
}

// TestImageWithoutName loads an archive that gives its image no name.
func TestImageWithoutName(t *testing.T) {
	host := serveImages(t, nil, "app:one")
	home, file := t.TempDir(), filepath.Join(t.TempDir(), "a.tar")
	digest := strings.TrimSpace(must(t, home, "pull", host+"/app:one"))
	must(t, home, "image", "save", "--format", "docker-archive", "-o", file, digest)
	saved, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, withoutNames(t, saved), 0o600))
	other := t.TempDir()
	loaded := strings.TrimSpace(must(t, other, "image", "load", "-i", file))
	require.Contains(t, loaded, "sha256:")
	require.Regexp(t, `(?m)^<none> +`+loaded[7:19], must(t, other, "images"))
	require.Equal(t, must(t, other, "images"), must(t, other, "images", "-a"))
	require.Equal(t, "<none>:<none>\n", must(t, other, "images", "--format", "{{.Repository}}:{{.Tag}}"))
	require.Equal(t, loaded+"\n", must(t, other, "images", "-q", "--filter", "dangling=true"))
	require.Empty(t, must(t, other, "images", "-q", "--filter", "dangling=false"))
	require.Equal(t, host+"/app one "+digest+"\n", must(t, home, "images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}"))
	require.Contains(t, must(t, home, "images", "--format", "json"), `"Platform":{"OS":"linux"`)
}

// withoutNames makes an archive in docker's form one that names nothing.
func withoutNames(t *testing.T, archive []byte) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		if h.Name == "manifest.json" {
			data = regexp.MustCompile(`"RepoTags":\[[^]]*\]`).ReplaceAll(data, []byte(`"RepoTags":null`))
			h.Size = int64(len(data))
		}
		if h.Name == "repositories" || h.Name == "index.json" {
			continue
		}
		require.NoError(t, w.WriteHeader(h))
		_, err = w.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}
