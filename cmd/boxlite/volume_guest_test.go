package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// TestGuestVolumeFlags runs one box with a mount of each flag.
func TestGuestVolumeFlags(t *testing.T) {
	machinetest.Need(t)
	home, here := t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(here, "rel"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(here, "rel", "f"), []byte("host\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(here, "a:b"), []byte("file\n"), 0o644))
	call := func(args ...string) result {
		t.Helper()
		c := program(t, home, args...)
		c.Dir = here
		return runProgram(t, c)
	}
	busybox := machinetest.Image(t, "busybox")
	r := call(with("run", "--rm", small, "-u", "app", "-v", ".:/rw", "-v", "./rel:/ro:ro", "-v", "data:/data", "-v", "/anon",
		"--mount", "type=bind,src=a:b,dst=/one", "--tmpfs", "/t:size=1m,mode=0700", busybox, "sh", "-c",
		`cat /ro/f /one; echo box >/rw/made; touch /ro/x 2>/dev/null || echo refused; stat -c %u /rw/made
		cut -d' ' -f2,3 /proc/mounts | grep -E '^/(rw|ro|data|anon|one|t) ' | sort | tr '\n' ,`)...)
	require.Equal(t, result{"host\nfile\nrefused\n1000\n/anon virtiofs,/data virtiofs,/one virtiofs,/ro virtiofs,/rw virtiofs,/t tmpfs,", "", 0}, r)
	made, err := os.ReadFile(filepath.Join(here, "made"))
	require.NoError(t, err)
	require.Equal(t, "box\n", string(made))
	require.Equal(t, "data\n", call("volume", "ls", "-q").stdout, "the anonymous one went with the box")
	requireNothingLeft(t, home)

	for want, flag := range map[string]string{
		"there is no such file or folder on this host: make it first": "./missing:/v",
		"path \"v\" in the box is not absolute":                       ".:v",
		"nothing can be mounted at /proc/sys":                         ".:/proc/sys",
	} {
		r := call(with("run", "--rm", small, "-v", flag, busybox, "true")...)
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.stderr, want)
	}
}
