package oci

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzReference(f *testing.F) {
	for _, s := range []string{
		"alpine", "a/b:c", "localhost:5000/x@sha256:" + strings.Repeat("a", 64), "oci:d:t", "dir:/x", "docker-archive:f:a:b",
		"./x", "/", "..", "[::1]:5000/x", "x/../y", "oci:", "a@b@c", "\x00", "ghcr.io/a/b/c/d:e",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		targets, err := parseReference(s, []string{"docker.io", "one.example/x"}, nil)
		if err != nil {
			require.LessOrEqual(t, len(err.Error()), 1000)
			return
		}
		for _, tg := range targets {
			text := tg.String()
			again, err := parseReference(text, nil, nil)
			require.NoError(t, err, "%q of %q", text, s)
			require.Equal(t, text, again[0].String(), "of %q", s)
			if tg.kind == fromRegistry {
				require.NotContains(t, "/"+tg.ref.Context().RepositoryStr()+"/", "/../")
				continue
			}
			require.True(t, filepath.IsAbs(tg.path), tg.path)
			require.Equal(t, filepath.Clean(tg.path), tg.path)
		}
	})
}

func FuzzDocument(f *testing.F) {
	d := `"digest":"sha256:` + strings.Repeat("a", 64) + `"`
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"schemaVersion":2}`, `{"schemaVersion":2,"manifests":[{` + d + `,"size":1}]}`,
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json",` + d + `,"size":9},` +
			`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",` + d + `,"size":5}]}`,
	} {
		f.Add([]byte(s), typeOCIManifest)
		f.Add([]byte(s), "")
	}
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		doc, err := parseDocument(raw, mediaType)
		if err != nil {
			require.True(t, isKind(err))
			return
		}
		if doc.isIndex() {
			require.Empty(t, doc.Layers)
			return
		}
		require.NotEmpty(t, doc.Layers)
		require.LessOrEqual(t, len(doc.Layers), maxLayers)
		for _, l := range append(doc.Layers, *doc.Config) {
			_, err := ParseDigest(string(l.Digest))
			require.NoError(t, err)
			require.GreaterOrEqual(t, l.Size, int64(0))
			require.LessOrEqual(t, l.Size, int64(maxBlob))
		}
	})
}

func FuzzConfig(f *testing.F) {
	d := `"sha256:` + strings.Repeat("a", 64) + `"`
	for _, s := range []string{
		`{}`, `null`, `{"rootfs":{"type":"layers","diff_ids":[` + d + `]}}`,
		`{"created":"2024-01-01T00:00:00Z","config":{"Cmd":"x","Entrypoint":null,"Env":["a=b"],"ExposedPorts":{"1/tcp":{}}},"rootfs":{"diff_ids":[` + d + `]}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		cfg, err := parseConfig(raw, 1)
		if err != nil {
			require.True(t, isKind(err))
			return
		}
		require.Len(t, cfg.RootFS.DiffIDs, 1)
		_, err = ParseDigest(string(cfg.RootFS.DiffIDs[0]))
		require.NoError(t, err)
		cfg.created()
		for _, e := range cfg.public().Env {
			require.NotContains(t, e, "\x00")
		}
	})
}

func FuzzDockerManifest(f *testing.F) {
	for _, s := range []string{`[]`, `null`, `[{"Config":"c","Layers":["l"],"RepoTags":["a:b"]}]`, `[{"Config":"../c","Layers":["/l"]}]`, `{}`} {
		f.Add([]byte(s), "a:b")
	}
	f.Fuzz(func(t *testing.T, raw []byte, tag string) {
		entries, err := parseDockerManifest(raw)
		if err != nil {
			require.True(t, isKind(err))
			return
		}
		e, err := pickEntry(entries, tag)
		if err != nil {
			require.True(t, isKind(err))
			return
		}
		require.NotEmpty(t, e.Layers)
		require.False(t, strings.HasPrefix(cleanName(e.Config), "../"))
	})
}

// FuzzArchive reads whole files as far as the manifest of an image in them.
func FuzzArchive(f *testing.F) {
	img := imageOf(f, nil, tarOf(f, "f", "x"))
	p := filepath.Join(f.TempDir(), "a.tar")
	for _, files := range []map[string][]byte{dockerFiles(f, []string{"a:b"}, img), layoutOf(f, "", []string{"t"}, img)} {
		tarFile(f, p, files)
		b, err := os.ReadFile(p)
		require.NoError(f, err)
		f.Add(b)
		f.Add(gzipOf(f, b))
	}
	s := newStore(f, func(o *Options) { o.MaxLayer = 1 << 20 })
	f.Fuzz(func(t *testing.T, b []byte) {
		require.NoError(t, os.WriteFile(p, b, 0o600))
		keep, err := s.newLease()
		require.NoError(t, err)
		defer keep.drop()
		defer requireClean(t, s) // runs after src is closed
		if set, err := s.openTar(context.Background(), p); err == nil {
			if images, err := loadable(set); err == nil {
				require.NotEmpty(t, images)
			}
			set.Close()
		}
		src, err := s.openArchive(context.Background(), target{kind: fromArchive, path: p})
		if err != nil {
			return
		}
		defer src.Close()
		raw, mediaType, err := src.top(context.Background())
		if err != nil {
			return
		}
		c, err := s.choose(context.Background(), src, raw, mediaType, DefaultPlatform(), keep)
		if err == nil {
			require.NotEmpty(t, c.doc.Layers)
		}
	})
}
