package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// testTimeout ends a test that hangs. It says nothing about speed: the rig is slow.
const testTimeout = 5 * time.Minute

// program prepares a run of the boxlite program on a home of the test's own.
func program(t testing.TB, home string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, machinetest.Boxlite(t), args...)
	c.Env = append(os.Environ(), "BOXLITE_HOME="+home, "PASSED=from here")
	return c
}

type result struct {
	stdout, stderr string
	code           int
}

func runProgram(t testing.TB, c *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), c.ProcessState.ExitCode()}
}

// requireNothingLeft checks that no box and no VM process remains.
func requireNothingLeft(t testing.TB, home string) {
	t.Helper()
	require.Eventually(t, func() bool {
		boxes, _ := filepath.Glob(filepath.Join(home, "boxes", "*"))
		return len(boxes) == 0 && len(vmProcesses()) == 0
	}, time.Minute, 20*time.Millisecond, "a box or a VM process is left")
}

func vmProcesses() (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); bytes.HasPrefix(b, []byte("boxlite-vmm:")) {
			pids = append(pids, strings.Split(f, "/")[2])
		}
	}
	return pids
}

// TestGuestRun runs the program as a user does.
func TestGuestRun(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	busybox := machinetest.Image(t, "busybox")
	small := []string{"run", "--rm", "--cpus", "1", "--memory", "256"}
	for name, c := range map[string]struct {
		args  []string
		stdin string
		want  result
	}{
		"output and code": {[]string{busybox, "sh", "-c", "echo out; echo err >&2; exit 7"}, "", result{"out\n", "err\n", 7}},
		"signal":          {[]string{busybox, "sh", "-c", "kill -TERM $$"}, "", result{"", "", 143}},
		"environment":     {[]string{"-e", "A=1", "-e", "PASSED", "-e", "ABSENT_HERE", busybox, "sh", "-c", "echo $A $PASSED ${ABSENT_HERE-unset}"}, "", result{"1 from here unset\n", "", 0}},
		"user, directory": {[]string{"-u", "app", "-w", "/srv/new", busybox, "sh", "-c", "id -un; pwd"}, "", result{"app\n/srv/new\n", "", 0}},
		"standard input":  {[]string{"-i", busybox, "wc", "-c"}, strings.Repeat("x", 100_000), result{"100000\n", "", 0}},
		"no input":        {[]string{busybox, "wc", "-c"}, "not sent", result{"0\n", "", 0}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := program(t, home, append(append([]string(nil), small...), c.args...)...)
			cmd.Stdin = strings.NewReader(c.stdin)
			require.Equal(t, c.want, runProgram(t, cmd))
			requireNothingLeft(t, home)
		})
	}
}

// TestGuestRunTerminal gives the program a terminal and resizes it.
func TestGuestRunTerminal(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	cmd := program(t, home, "run", "-it", "--rm", "--cpus", "1", "--memory", "256", machinetest.Image(t, "busybox"),
		"sh", "-c", "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.1; done")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 90})
	require.NoError(t, err)
	defer tty.Close()
	var out bytes.Buffer
	for !strings.Contains(out.String(), "ready") {
		b := make([]byte, 256)
		n, err := tty.Read(b)
		require.NoError(t, err, out.String())
		out.Write(b[:n])
	}
	require.NoError(t, pty.Setsize(tty, &pty.Winsize{Rows: 40, Cols: 100}))
	_, _ = io.Copy(&out, tty) // ends with EIO when the program has
	_ = cmd.Wait()
	require.Contains(t, out.String(), "30 90\r\n")
	require.Contains(t, out.String(), "40 100\r\n")
	require.Equal(t, 5, cmd.ProcessState.ExitCode())
	requireNothingLeft(t, home)
}

// TestGuestRunEnds ends a running box from outside in every way there is.
func TestGuestRunEnds(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	killVMM := func(*exec.Cmd) {
		for _, pid := range vmProcesses() {
			_ = exec.Command("kill", "-KILL", pid).Run()
		}
	}
	for name, c := range map[string]struct {
		end  func(*exec.Cmd)
		code int // -1: of a signal
		want string
	}{
		"interrupt":   {func(c *exec.Cmd) { c.Process.Signal(unix.SIGINT) }, 130, ""},
		"terminate":   {func(c *exec.Cmd) { c.Process.Signal(unix.SIGTERM) }, 143, ""},
		"kill -9":     {func(c *exec.Cmd) { c.Process.Kill() }, -1, ""},
		"kill -9 VMM": {killVMM, 125, "VMM process died"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := program(t, home, "run", "--rm", "--cpus", "1", "--memory", "256", machinetest.Image(t, "busybox"), "sh", "-c", "echo up; sleep 1000")
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			_, err = io.ReadFull(out, make([]byte, 3))
			require.NoError(t, err, "%s", &errs)
			c.end(cmd)
			_ = cmd.Wait()
			require.Equal(t, c.code, cmd.ProcessState.ExitCode(), "%s", &errs)
			require.Contains(t, errs.String(), c.want)
			requireNothingLeft(t, home)
		})
	}
}

// TestGuestKept keeps a box, lists it and removes it.
func TestGuestKept(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	require.Zero(t, runProgram(t, program(t, home, "run", "--name", "kept", "--cpus", "1", "--memory", "256", machinetest.Image(t, "busybox"), "true")).code)
	r := runProgram(t, program(t, home, "ls", "-a"))
	require.Contains(t, r.stdout, "kept")
	require.Contains(t, r.stdout, "stopped")
	r = runProgram(t, program(t, home, "run", "--name", "kept", machinetest.Image(t, "busybox"), "true"))
	require.Equal(t, 125, r.code)
	require.Contains(t, r.stderr, "there is a box kept already, and it is stopped")
	require.Equal(t, result{"kept\n", "", 0}, runProgram(t, program(t, home, "rm", "kept")))
	requireNothingLeft(t, home)
}

// TestGuestOutputClosed has nobody read what a command writes without end.
func TestGuestOutputClosed(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	cmd := program(t, home, "run", "--rm", "--cpus", "1", "--memory", "256", machinetest.Image(t, "busybox"), "yes")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	_ = cmd.Wait()
	require.NotZero(t, cmd.ProcessState.ExitCode())
	requireNothingLeft(t, home)
}

// TestGuestDebian runs the README's main job.
func TestGuestDebian(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	r := runProgram(t, program(t, home, "run", "--rm", machinetest.Image(t, "debian-python"),
		"python3", "-c", "import platform; print(platform.uname().system, platform.uname().machine, platform.freedesktop_os_release()['ID'])"))
	require.Equal(t, result{"Linux x86_64 debian\n", "", 0}, r)
	requireNothingLeft(t, home)
}

// TestGuestVM boots kernels alone, to their serial console: ours, and a
// distribution's by the bzImage protocol.
func TestGuestVM(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(disk, make([]byte, 1<<20), 0o600))
	for name, c := range map[string]struct {
		kernel string
		want   []string
	}{
		"ours":    {machinetest.Kernel(t), []string{"Linux version 6.12", "[vda]"}},
		"bzImage": {machinetest.BzImage(t), []string{"Linux version 6", "debian-kernel@lists.debian.org"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := program(t, t.TempDir(), "vm", "--kernel", c.kernel, "--disk", disk+":ro", "--stats", "--memory", "512",
				"--cmdline", "console=ttyS0 loglevel=7 reboot=t panic=-1")
			cmd.Stdin = strings.NewReader("")
			r := runProgram(t, cmd)
			require.Zero(t, r.code, r.stderr)
			for _, w := range append(c.want, "Kernel panic - not syncing: VFS") {
				require.Contains(t, r.stdout, w)
			}
			require.Contains(t, r.stderr, "exits shutdown 1")
		})
	}
}

// TestGuestDoctor asks a host that can run boxes whether it can.
func TestGuestDoctor(t *testing.T) {
	machinetest.Need(t)
	r := runProgram(t, program(t, t.TempDir(), "doctor"))
	require.Zero(t, r.code, r.stderr)
	require.Regexp(t, `(?s)instruction.*exit`, r.stdout)
	require.Equal(t, result{}, runProgram(t, program(t, t.TempDir(), "doctor", "--probe")))
}
