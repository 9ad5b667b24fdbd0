package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// TestGuestImages saves the image of a box, boots what was saved elsewhere, and
// removes image and box in either order.
func TestGuestImages(t *testing.T) {
	machinetest.Need(t)
	home, dir := t.TempDir(), t.TempDir()
	busybox := machinetest.Image(t, "busybox")
	must := func(home string, args ...string) string {
		t.Helper()
		r := runProgram(t, program(t, home, args...))
		require.Zero(t, r.code, "%v: %s", args, r.stderr)
		return r.stdout
	}
	tree := func(home, image string, more ...string) string {
		t.Helper()
		args := append([]string{"run", "--cpus", "1", "--memory", "256"}, more...)
		// Names, owners, modes and times, and what is in the files.
		return must(home, append(args, image, "sh", "-c",
			"cd / && find bin etc/* sbin usr -xdev | grep -v -e etc/host -e etc/resolv | sort >/tmp/l;"+
				"wc -l </tmp/l; xargs ls -dln </tmp/l | md5sum; xargs md5sum </tmp/l 2>/dev/null | md5sum")...)
	}
	want := tree(home, busybox, "--name", "kept")
	require.Regexp(t, `^\d\d\d`, want, "files")
	digest := strings.TrimSpace(must(home, "images", "-q"))

	for _, format := range []string{"oci-archive", "docker-archive"} {
		file, other := filepath.Join(dir, format), t.TempDir()
		must(home, "image", "save", "--format", format, "-o", file, digest)
		loaded := strings.TrimSpace(must(other, "image", "load", "-i", file))
		require.Equal(t, want, tree(other, loaded, "--rm"))
	}

	// The stopped box holds its image; by force only the name goes.
	r := runProgram(t, program(t, home, "rmi", digest))
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "box kept")
	require.Contains(t, must(home, "rmi", "-f", digest), "Kept")
	require.Empty(t, must(home, "images", "-aq"))
	require.Equal(t, "kept\n", must(home, "rm", "kept"))
	left, err := filepath.Glob(filepath.Join(home, "images", "*", "*.v1.*"))
	require.NoError(t, err)
	require.Empty(t, left, "the last box has taken the image along")

	// And the other way round.
	tree(home, busybox)
	out := must(home, "prune", "-a", "-f")
	require.Contains(t, out, "Box: ")
	require.Contains(t, out, "Deleted: "+digest)
	requireNothingLeft(t, home)
	require.Contains(t, must(home, "system", "df"), "Images      0")
}
