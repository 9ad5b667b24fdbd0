package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestGuestCopyCommand copies with the program, both ways, and looks at the box
// with top and stats.
func TestGuestCopyCommand(t *testing.T) {
	machinetest.Need(t)
	home, dir := t.TempDir(), t.TempDir()
	box := program(t, home, "run", "-i", "--rm", "--name", "live", "--cpus", "1", "--memory", "256", machinetest.Image(t, "busybox"),
		"sh", "-c", "mkdir /w; ln -s /etc /w/link; echo up; exec cat")
	stdin, err := box.StdinPipe()
	require.NoError(t, err)
	stdout, err := box.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, box.Start())
	_, err = io.ReadFull(stdout, make([]byte, 3))
	require.NoError(t, err)
	boxlite := func(stdin string, args ...string) result {
		c := program(t, home, args...)
		c.Dir, c.Stdin = dir, strings.NewReader(stdin)
		return runProgram(t, c)
	}
	copies := func(args ...string) {
		t.Helper()
		require.Equal(t, result{}, boxlite("", append([]string{"cp"}, args...)...), "%v", args)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		r := boxlite("", append([]string{"cp"}, args...)...)
		require.Equal(t, exitSome, r.code, "%v", args)
		require.Contains(t, r.stderr, want, "%v", args)
	}
	content := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		return string(b)
	}

	require.NoError(t, os.MkdirAll(dir+"/tree/sub", 0o755))
	require.NoError(t, os.WriteFile(dir+"/tree/sub/script", []byte("#!"), 0o755))
	require.NoError(t, os.Link(dir+"/tree/sub/script", dir+"/tree/hard"))
	require.NoError(t, os.Chown(dir+"/tree/hard", 1000, 1000))
	require.NoError(t, os.WriteFile(dir+"/one", []byte("one"), 0o640))
	copies("one", "live:/w")             // into a directory, under its name
	copies("one", "live:w/two")          // under a new name
	copies("tree/hard", "live:/w/two")   // over a file
	copies("tree", "live:/w")            // a directory into one
	copies("tree", "live:/w/new")        // as a new one
	copies("tree/.", "live:/w/new")      // its content
	copies("-a", "tree", "live:/w/kept") // with owners
	copies("one", "live:/w/link/")       // through a link, which is asked for
	refused("does not exist in the box", "one", "live:/w/none/")
	refused("no such file", "one", "live:/w/none/x")
	refused("is a file in the box", "tree", "live:/w/one")
	refused("no such file", "none", "live:/w")
	refused("no such file", "live:/none", ".")

	copies("live:/w/two", "back")
	require.Equal(t, "#!", content("back"))
	copies("live:/w/.", "all")
	require.Equal(t, "one", content("all/one"))
	require.Equal(t, "#!", content("all/tree/sub/script"))
	copies("live:/etc/one", "all")
	copies("live:/w/new", "all")
	require.Equal(t, "#!", content("all/new/hard"))
	copies("-a", "live:/w", "owned")
	owner := func(name string) (uint32, uint64) {
		t.Helper()
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(dir, name), &st))
		return st.Uid, uint64(st.Nlink)
	}
	for name, want := range map[string]uint32{"owned/kept/hard": 1000, "owned/tree/hard": 0} {
		uid, links := owner(name)
		require.Equal(t, want, uid, name)
		require.EqualValues(t, 2, links, name)
	}
	copies("live:/w/link", "link")
	target, err := os.Readlink(dir + "/link")
	require.NoError(t, err)
	require.Equal(t, "/etc", target)
	refused("is a symbolic link", "live:/w/one", "link")
	copies("-L", "live:/w/link", "followed")
	require.Equal(t, "one", content("followed/one"))

	// Archives on standard input and output.
	r := boxlite("", "cp", "live:/w/tree", "-")
	require.Zero(t, r.code, r.stderr)
	require.Equal(t, result{}, boxlite(r.stdout, "cp", "-", "live:/tmp"))
	again := boxlite("", "cp", "live:/tmp/tree", "-")
	names := func(archive string) (list []string) {
		tr := tar.NewReader(strings.NewReader(archive))
		for {
			h, err := tr.Next()
			if err == io.EOF {
				return list
			}
			require.NoError(t, err)
			list = append(list, h.Name+" "+strconv.Itoa(h.Uid)+" "+h.ModTime.String())
		}
	}
	require.ElementsMatch(t, names(r.stdout), names(again.stdout))
	r = boxlite("no archive", "cp", "-", "live:/tmp")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "archive")
	interruptCopy(t, program(t, home, "cp", "-", "live:/tmp"), func() string {
		return boxlite("", "exec", "live", "ls", "-A", "/tmp").stdout
	})

	r = boxlite("", "top", "live")
	require.Zero(t, r.code, r.stderr)
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	require.Len(t, lines, 2, r.stdout)
	require.Equal(t, []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, strings.Fields(lines[0]))
	require.Equal(t, "cat", strings.Fields(lines[1])[7])

	stats := func() (row boxStats) {
		t.Helper()
		r := boxlite("", "stats", "--no-stream", "--format", "json")
		require.Zero(t, r.code, r.stderr)
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &row))
		require.Equal(t, "live", row.Name)
		return row
	}
	row := stats()
	for range 50 { // a machine that is busy may be late now and then
		if row.Answers {
			break
		}
		row = stats()
	}
	require.True(t, row.Answers, "the box never answers")
	require.EqualValues(t, 256<<20, row.MemoryLimit)
	require.Equal(t, 1, row.PIDs)
	require.Positive(t, row.MemoryUsed)
	r = boxlite("", "stats", "--format", "prometheus")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "\nboxlite_boxes{status=\"running\"} 1\n")
	require.Contains(t, r.stdout, "\nboxlite_box_memory_limit_bytes{id=")

	// A box that hangs is shown, and is not waited for.
	for _, pid := range vmProcesses() {
		n, err := strconv.Atoi(pid)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(n, unix.SIGSTOP))
		defer unix.Kill(n, unix.SIGCONT)
	}
	require.False(t, stats().Answers)
	for _, pid := range vmProcesses() {
		n, err := strconv.Atoi(pid)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(n, unix.SIGCONT))
	}
	require.NoError(t, stdin.Close())
	rest, err := io.ReadAll(stdout)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.NoError(t, box.Wait())
	requireNothingLeft(t, home)
}

// interruptCopy begins to unpack an archive that has no end, and interrupts it. Nothing
// of it stays.
func interruptCopy(t *testing.T, cp *exec.Cmd, list func() string) {
	t.Helper()
	before := list()
	archive, err := cp.StdinPipe()
	require.NoError(t, err)
	var errs bytes.Buffer
	cp.Stderr = &errs
	require.NoError(t, cp.Start())
	tw := tar.NewWriter(archive)
	require.NoError(t, tw.WriteHeader(&tar.Header{Name: "half", Mode: 0o644, Size: 1 << 30}))
	_, err = tw.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return list() != before }, testTimeout, time.Millisecond)
	require.NoError(t, cp.Process.Signal(unix.SIGINT))
	_ = cp.Wait()
	require.Equal(t, 130, cp.ProcessState.ExitCode(), "%s", &errs)
	require.Equal(t, "boxlite: interrupted\n", errs.String())
	require.Eventually(t, func() bool { return list() == before }, testTimeout, 50*time.Millisecond)
}
