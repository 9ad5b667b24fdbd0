package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReferences(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	t.Chdir(t.TempDir())
	cwd, err := os.Getwd()
	require.NoError(t, err)
	for in, want := range map[string]string{
		"alpine":                       "docker.io/library/alpine:latest",
		"alpine:3.20":                  "docker.io/library/alpine:3.20",
		"user/app":                     "docker.io/user/app:latest",
		"docker.io/alpine":             "docker.io/library/alpine:latest",
		"index.docker.io/library/a":    "docker.io/library/a:latest",
		"ghcr.io/o/n/deep:t":           "ghcr.io/o/n/deep:t",
		"localhost/app":                "localhost/app:latest",
		"localhost:5000/app:v1":        "localhost:5000/app:v1",
		"127.0.0.1:5000/app":           "127.0.0.1:5000/app:latest",
		"[::1]:5000/app":               "[::1]:5000/app:latest",
		"alpine@sha256:" + hex:         "docker.io/library/alpine@sha256:" + hex,
		"alpine:3@sha256:" + hex:       "docker.io/library/alpine@sha256:" + hex,
		"oci:dir":                      "oci:" + filepath.Join(cwd, "dir"),
		"oci:/srv/x/../img:a:b":        "oci:/srv/img:a:b",
		"docker-archive:/f.tar:app:v1": "docker-archive:/f.tar:app:v1",
		"oci-archive:/f.tar":           "oci-archive:/f.tar",
		"archive:/f.tar":               "archive:/f.tar",
		"dir:/root:with:colons":        "dir:/root:with:colons",
		"/path":                        "/path",
		"./path":                       filepath.Join(cwd, "path"),
		"..":                           filepath.Dir(cwd),
	} {
		got, err := parseReference(in, nil, nil)
		require.NoError(t, err, in)
		require.Len(t, got, 1)
		require.Equal(t, want, got[0].String(), in)
		again, err := parseReference(got[0].String(), nil, nil)
		require.NoError(t, err, in)
		require.Equal(t, want, again[0].String(), "normalising is stable")
	}
	for _, in := range []string{
		"", " ", "Alpine", "a b", "alpine:", ":tag", "alpine:t/x", "a//b", "../../etc:x/y\x00", "x/../y", "localhost:5000/../x",
		"host.example/./x", "alpine@sha256:abc", "alpine@md5:d41d8cd98f00b204e9800998ecf8427e", "http://example.com/x",
		"oci:", "dir:", "docker-archive::x", strings.Repeat("a", 300), strings.Repeat("/a", 4000), "alpine\n", "a/-b", "-x",
	} {
		_, err := parseReference(in, nil, nil)
		require.Error(t, err, "%q", in)
		require.NotContains(t, err.Error(), "\n")
		require.Less(t, len(err.Error()), 600)
	}
}

func TestSearchList(t *testing.T) {
	got, err := parseReference("tool:1", []string{"one.example/team/", "docker.io", "localhost:5000"}, nil)
	require.NoError(t, err)
	var names []string
	for _, g := range got {
		names = append(names, g.String())
	}
	require.Equal(t, []string{"one.example/team/tool:1", "docker.io/library/tool:1", "localhost:5000/tool:1"}, names)
	got, err = parseReference("quay.io/x", []string{"one.example"}, nil)
	require.NoError(t, err)
	require.Len(t, got, 1, "a full name is not searched for")
	_, err = parseReference("x", []string{"nohost"}, nil)
	require.ErrorIs(t, err, ErrReference)
}

func TestSchemes(t *testing.T) {
	insecure := func(h string) bool { return h == "lan.example:5000" }
	for in, want := range map[string]bool{
		"localhost/x": true, "localhost:1/x": true, "127.0.0.1/x": true, "127.8.8.8:80/x": true, "[::1]:5000/x": true,
		"a.localhost:1/x": true, "lan.example:5000/x": true,
		"lan.example/x": false, "docker.io/x": false, "10.0.0.1:5000/x": false, "192.168.1.1/x": false, "localhost.evil.example/x": false,
	} {
		got, err := parseReference(in, nil, insecure)
		require.NoError(t, err, in)
		host := got[0].ref.Context().RegistryStr()
		g := newGuard(host, insecure(host))
		require.Equal(t, want, g.plain, in)
		if want {
			require.Equal(t, "http", got[0].ref.Context().Scheme(), in)
		}
	}
}

// A folder of the same name never stands in for an image, but is pointed out.
func TestBareWordIsNoPath(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, os.Mkdir("alpine", 0o755))
	s := newStore(t, func(o *Options) { o.Registries = []string{"127.0.0.1:1"} })
	_, err := s.Pull(t.Context(), "alpine", PullOptions{})
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "write ./alpine")
}

func TestResolveIsCheap(t *testing.T) {
	srv := newServer(t)
	s := newStore(t)
	ref := srv.push("app", "x", imageOf(t, nil, tarOf(t, "a", "1"), tarOf(t, "b", "2"), tarOf(t, "c", "3")))
	_, err := s.Pull(t.Context(), ref, PullOptions{})
	require.NoError(t, err)
	// Time depends on the machine; what it is spent on does not.
	n := testing.AllocsPerRun(10, func() {
		s2, err := Open(s.root, Options{})
		require.NoError(t, err)
		img, err := s2.Resolve(t.Context(), ref)
		require.NoError(t, err)
		_, err = s2.Rootfs(t.Context(), img, nil)
		require.NoError(t, err)
	})
	require.Less(t, n, 700.0)
}

func BenchmarkOpenResolveRootfs(b *testing.B) {
	srv := newServer(b)
	s := newStore(b)
	var tars [][]byte
	for i := range 8 {
		tars = append(tars, tarOf(b, "f", noise(uint64(i), 1000)))
	}
	ref := srv.push("app", "x", imageOf(b, nil, tars...))
	if _, err := s.Pull(b.Context(), ref, PullOptions{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s2, err := Open(s.root, Options{})
		if err != nil {
			b.Fatal(err)
		}
		img, err := s2.Resolve(b.Context(), ref)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s2.Rootfs(b.Context(), img, nil); err != nil {
			b.Fatal(err)
		}
	}
}
