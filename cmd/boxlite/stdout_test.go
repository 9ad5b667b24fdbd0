package main

import (
	"bytes"
	"os"
	"os/signal"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// printing are command lines that print something without a box that runs, on one
// home in this order.
var printing = [][]string{
	{"version"}, {"version", "--format", "json"}, {"--version"}, {"--help"}, {"help", "run"}, {"run", "--help"}, {"completion", "bash"}, {"completion", "powershell"},
	{"ls", "-a"}, {"ls", "-aq"}, {"ls", "-a", "--format", "json"}, {"ls", "-a", "--format", "{{.ID}}"}, {"inspect", "web"}, {"info"},
	{"events", "--since", "1h", "--until", "0s"}, {"system", "df"}, {"system", "df", "-v"}, {"kernel", "ls"}, {"images"}, {"image", "inspect", "nope"},
	{"stop", "web"}, {"create", "--rootfs", "internal", "true"}, {"volume", "create", "data"}, {"rm", "db"}, {"prune", "-f"}, {"stats", "--no-stream"}, {"stats", "--format", "prometheus"}, {"__complete", "rm", ""},
}

// into runs a command line with f for standard output.
func into(t *testing.T, f *os.File, args ...string) result {
	t.Helper()
	old := os.Stdout
	os.Stdout = f
	defer func() { os.Stdout = old }()
	code, stderr := callWith(t, &stdout, args...)
	return result{"", stderr, code}
}

// TestFullOutput has a disk under standard output that takes nothing.
func TestFullOutput(t *testing.T) {
	do, _ := madeBoxes(t)
	home := homeOf(do)
	for _, args := range printing {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil { // not Linux
			r, w, err := os.Pipe()
			require.NoError(t, err)
			require.NoError(t, w.Close())
			full = r // which cannot be written either
		}
		r := into(t, full, append([]string{"--home", home}, args...)...)
		full.Close()
		require.Equal(t, exitSome, r.code, args)
		require.Contains(t, r.stderr, "cannot write to standard output: ", args)
		require.Equal(t, 1, bytes.Count([]byte(r.stderr), []byte("standard output")), r.stderr)
	}
}

// TestReaderLeaves has a pipe whose other end is closed, and SIGPIPE ignored, as
// some programs have it: without that the system ends a program there.
func TestReaderLeaves(t *testing.T) {
	signal.Ignore(unix.SIGPIPE)
	defer signal.Reset(unix.SIGPIPE)
	do, _ := madeBoxes(t)
	home := homeOf(do)
	for _, args := range printing {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, r.Close())
		got := into(t, w, append([]string{"--home", home}, args...)...)
		w.Close()
		require.NotContains(t, got.stderr, "standard output", args)
		require.NotContains(t, got.stderr, "pipe", args)
		if got.stderr == "" {
			require.Zero(t, got.code, args)
		}
	}
}

// TestOutputOfTheProgram is the same with the program itself.
func TestOutputOfTheProgram(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	defer w.Close()
	c := self(t, t.TempDir(), "completion", "bash")
	c.Stdout = w
	var stderr bytes.Buffer
	c.Stderr = &stderr
	_ = c.Run() // SIGPIPE ends it, as every program in a pipeline
	require.Empty(t, stderr.String())
}
