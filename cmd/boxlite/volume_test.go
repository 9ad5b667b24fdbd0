package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

// TestVolumeCommands is the life of volumes on the command line, without a guest.
func TestVolumeCommands(t *testing.T) {
	home := t.TempDir()
	do := func(args ...string) result {
		t.Helper()
		return output(t, append([]string{"--home", home}, args...)...)
	}
	ok := func(args ...string) string {
		t.Helper()
		r := do(args...)
		require.Zero(t, r.code, "%v: %s", args, r.stderr)
		return r.stdout
	}
	refused := func(code int, want string, args ...string) {
		t.Helper()
		r := do(args...)
		require.Equal(t, code, r.code, "%v: %s", args, r.stderr)
		require.Contains(t, r.stderr, want)
	}
	require.Equal(t, "data\n", ok("volume", "create", "--label", "job=x", "data"))
	require.Equal(t, "data\n", ok("volume", "create", "data"), "it is there")
	made := strings.TrimSpace(ok("volume", "create"))
	require.Len(t, made, 64)
	refused(exitFailed, "use letters", "volume", "create", "a/b")
	refused(exitFailed, "is empty", "volume", "create", "")
	refused(exitFailed, "one argument too many", "volume", "create", "a", "b")

	rt, err := runtime.New(runtime.Options{HomeDir: home})
	require.NoError(t, err)
	_, err = rt.Create(t.Context(), runtime.BoxOptions{KeepOnStop: true, Volumes: []runtime.VolumeSpec{{Name: "data", GuestPath: "/d"}, {HostPath: home, GuestPath: "/h", ReadOnly: true}}}, "web")
	require.NoError(t, err)
	require.NoError(t, rt.Close())

	table := ok("volume", "ls")
	require.Regexp(t, `(?m)^NAME +CREATED +BOXES$`, table)
	require.Regexp(t, `(?m)^data +just now +web$`, table)
	require.Regexp(t, `(?m)^`+made+` +just now`, table)
	require.ElementsMatch(t, []string{"data", made}, strings.Fields(ok("volume", "ls", "-q")))
	require.Equal(t, made+"\n", ok("volume", "ls", "-q", "--filter", "dangling=true"))
	require.Equal(t, "data\n", ok("volume", "ls", "-q", "--filter", "dangling=0", "--filter", "label=job=x", "--filter", "name=at"))
	require.Empty(t, ok("volume", "ls", "-q", "--filter", "label=job=y"))
	require.Equal(t, "data web\n", ok("volume", "ls", "--filter", "name=data", "--format", `{{.Name}} {{join .Boxes ","}}`))
	refused(exitFailed, "want true or false", "volume", "ls", "--filter", "dangling=maybe")
	refused(exitFailed, "want name=TEXT", "volume", "ls", "--filter", "size=1")

	var shown []runtime.VolumeInfo
	require.NoError(t, json.Unmarshal([]byte(ok("volume", "inspect", "data")), &shown))
	require.Equal(t, filepath.Join(home, "volumes", "data", "data"), shown[0].Mountpoint)
	require.Equal(t, map[string]string{"job": "x"}, shown[0].Labels)
	require.Equal(t, shown[0].Mountpoint+"\n", ok("volume", "inspect", "-f", "{{.Mountpoint}}", "data"))
	refused(exitSome, `there is no volume "gone": boxlite volume ls lists them`, "volume", "inspect", "gone")
	require.Equal(t, "volume:/d:true bind:/h:false \n", ok("inspect", "-f", `{{range .Mounts}}{{.Type}}:{{.Destination}}:{{.RW}} {{end}}`, "web"))

	require.NoError(t, os.WriteFile(filepath.Join(shown[0].Mountpoint, "f"), make([]byte, 8192), 0o644))
	require.Regexp(t, `(?m)^Volumes +2 +1 +`, ok("system", "df"))
	require.Regexp(t, `(?m)^data +.*kB +web$`, ok("system", "df", "-v"))
	refused(exitSome, "boxlite: volume \"data\" is in use by web: remove that box first", "volume", "rm", "data")
	refused(exitSome, `there is no volume "gone": boxlite volume ls lists them`, "volume", "rm", "gone")
	require.Equal(t, "gone\n", ok("volume", "rm", "-f", "gone"))
	refused(exitFailed, "add -f", "volume", "prune")
	require.Regexp(t, "^Volume: "+made+"\nFreed: ", ok("volume", "prune", "-f"))
	ok("rm", "web")
	require.Regexp(t, "^Freed: 0 B", ok("volume", "prune", "-f"), "it has a name of its own")
	require.Regexp(t, "^Freed: 0 B", ok("volume", "prune", "-a", "-f", "--filter", "label=job=y"))
	require.Equal(t, "data\n", ok("volume", "rm", "data"))
	require.Empty(t, ok("volume", "ls", "-q"))

	one := strings.TrimSpace(ok("volume", "create"))
	require.Contains(t, ok("prune", "--volumes", "-f"), "Volume: "+one)
}

// TestFailedCreateLeavesNoVolume has boxes whose image is not to be had, or that this
// host does not boot.
func TestFailedCreateLeavesNoVolume(t *testing.T) {
	home := t.TempDir()
	must(t, home, "volume", "create", "there")
	for _, args := range [][]string{
		{"create", "-v", "leak:/x", "-v", "there:/y", "-v", "/z", "localhost:1/nope"},
		{"run", "-v", "leak:/x", "-v", "there:/y", "localhost:1/nope"},
		{"run", "--rm", "-v", "leak:/x", "-v", "there:/y", "localhost:1/nope"},
		{"run", "-d", "-v", "leak:/x", "-v", "there:/y", "oci:/nope"},
	} {
		refused(t, home, args...)
		require.Equal(t, "there\n", must(t, home, "volume", "ls", "-q"), args)
		require.Empty(t, must(t, home, "ls", "-aq"), args)
	}
}
