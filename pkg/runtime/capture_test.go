package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCaptureApart has files for frames whose place a box could choose, and others.
func TestCaptureApart(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"share/sub", "shared", "out/sub"} {
		require.NoError(t, os.MkdirAll(at(name), 0o755))
	}
	require.NoError(t, os.WriteFile(at("single"), nil, 0o644))
	require.NoError(t, os.Symlink(at("share/sub"), at("into")))
	require.NoError(t, os.Symlink(at("out"), at("share/leads")))
	require.NoError(t, os.Symlink(at("share"), at("alias")))
	require.NoError(t, os.Symlink(at("share/sub/x"), at("out/link")))
	require.NoError(t, os.WriteFile(at("share/sub/x"), nil, 0o644))
	shares := []string{at("missing"), at("alias"), at("single")}
	for _, name := range []string{"share/x", "share/sub/x", "into/x", "alias/x", "share/leads/x", "share/leads/sub/x", "share", "single", "out/link"} {
		err := captureApart(at(name), shares)
		require.ErrorIs(t, err, ErrInvalidArgument, name)
		require.ErrorContains(t, err, "the box may write to "+dir, name)
		require.ErrorContains(t, err, at(name))
	}
	for _, name := range []string{"shared/x", "x", "out/x", "out/sub/x", "missing/x", "none/x"} {
		require.NoError(t, captureApart(at(name), shares), name)
	}
	require.ErrorIs(t, captureApart(at("single/x"), []string{at("share")}), ErrInvalidArgument, "below a file")
}

// TestCaptureOfBox holds which of a box's mounts count, at create and at a start.
func TestCaptureOfBox(t *testing.T) {
	rt := newTestRuntime(t)
	dir := t.TempDir()
	options := func(v VolumeSpec) BoxOptions {
		v.GuestPath = "/v"
		return BoxOptions{KeepOnStop: true, Volumes: []VolumeSpec{v}, Network: NetworkSpec{Capture: filepath.Join(dir, "net.pcap")}}
	}
	_, err := rt.Create(t.Context(), options(VolumeSpec{HostPath: dir}), "")
	require.ErrorIs(t, err, ErrInvalidArgument)
	require.ErrorContains(t, err, "the box may write to "+dir)
	b, err := rt.Create(t.Context(), options(VolumeSpec{HostPath: dir, ReadOnly: true}), "")
	require.NoError(t, err)
	require.NoError(t, rt.checkCapture(&b.opts))

	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o755))
	b, err = rt.Create(t.Context(), options(VolumeSpec{HostPath: folder}), "")
	require.NoError(t, err)
	require.NoError(t, os.Remove(folder))
	require.NoError(t, os.Symlink(dir, folder)) // the host's user moved it
	require.ErrorIs(t, rt.checkCapture(&b.opts), ErrInvalidArgument)

	named := options(VolumeSpec{Name: "data"})
	named.Network.Capture = filepath.Join(rt.volumeDir("data"), volumeData, "net.pcap")
	b, err = rt.Create(t.Context(), named, "")
	require.NoError(t, err, "the volume is not there yet")
	_, err = b.vmmMounts(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, rt.checkCapture(&b.opts), ErrInvalidArgument)
}
