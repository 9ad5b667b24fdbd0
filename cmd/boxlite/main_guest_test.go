package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// small is what tests' boxes have.
var small = []string{"--cpus", "1", "--memory", "256"}

func with(args ...any) (out []string) {
	for _, a := range args {
		switch a := a.(type) {
		case string:
			out = append(out, a)
		case []string:
			out = append(out, a...)
		}
	}
	return out
}

// TestGuestCodes looks at the exit codes of commands that do not start, and at a
// separator that people type.
func TestGuestCodes(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	busybox := machinetest.Image(t, "busybox")
	for name, c := range map[string]struct {
		args []string
		code int
		out  string
		want string
	}{
		"not found":      {with(busybox, "no-such-program"), 127, "", "no-such-program"},
		"not executable": {with(busybox, "/etc/passwd"), 126, "", "/etc/passwd"},
		"no such user":   {with("-u", "nobody-here", busybox, "true"), 125, "", "nobody-here"},
		"separator":      {with(busybox, "--", "echo", "--", "x"), 0, "-- x\n", ""},
		"entrypoint":     {with("--entrypoint", "echo", busybox, "-n", "x"), 0, "x", ""},
		"no command":     {with("--entrypoint", "", busybox), 125, "", "no command of its own"},
		"terminal only":  {with("-t", busybox, "sh", "-c", "test -t 0 && test -t 1 && echo terminal"), 0, "terminal\r\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := runProgram(t, program(t, home, with("run", "--rm", small, c.args)...))
			require.Equal(t, c.code, r.code, r.stderr)
			require.Equal(t, c.out, r.stdout)
			require.Contains(t, r.stderr, c.want)
			require.LessOrEqual(t, strings.Count(r.stderr, "\n"), 1, r.stderr)
			requireNothingLeft(t, home)
		})
	}
}

// TestGuestDetached runs a box in the background, and all that can be done to it.
func TestGuestDetached(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	call := func(args ...string) result {
		t.Helper()
		return runProgram(t, program(t, home, args...))
	}
	script := `echo start; echo err >&2; trap 'echo bye; exit 3' TERM; while ! test -e /go; do sleep 0.1; done; rm /go; cat; echo end`
	r := call(with("run", "-d", "-i", "--name", "job", "-l", "k=v", small, machinetest.Image(t, "busybox"), "sh", "-c", script)...)
	require.Zero(t, r.code, r.stderr)
	require.Empty(t, r.stderr)
	require.Len(t, r.stdout, 27)
	id := strings.TrimSpace(r.stdout)
	require.Equal(t, 0, call("start", "job").code, "of a box that runs already")

	attached := program(t, home, "attach", "job")
	attached.Stdin = strings.NewReader("for cat\n") // its end is not the end of the command's input
	out, err := attached.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, attached.Start())
	text := make([]byte, 6)
	_, err = io.ReadFull(out, text)
	require.NoError(t, err)
	require.Equal(t, "start\n", string(text), "what was written before comes first")
	require.Equal(t, result{"no\n", "", 0}, call("exec", "-e", "X=no", "job", "sh", "-c", "test -e /go && echo yes || echo $X"))
	require.Equal(t, result{"", "", 9}, call("exec", "job", "sh", "-c", "exit 9"))
	require.Equal(t, 127, call("exec", "job", "no-such-program").code)
	r = call("exec", "-d", "job", "sh", "-c", "sleep 0.5; touch /go; sleep 1000")
	require.Zero(t, r.code)
	require.Regexp(t, `^[0-9a-f]{16}\n$`, r.stdout)
	text = make([]byte, 8)
	_, err = io.ReadFull(out, text)
	require.NoError(t, err)
	require.Equal(t, "for cat\n", string(text))
	require.NoError(t, attached.Process.Kill())
	_ = attached.Wait()

	waiting := program(t, home, "wait", "job", id[:12])
	var waited bytes.Buffer
	waiting.Stdout = &waited
	require.NoError(t, waiting.Start())
	console := program(t, home, "logs", "--console", "-f", "job")
	require.NoError(t, console.Start())
	following := program(t, home, "logs", "-f", "job")
	var followed, followedErr bytes.Buffer
	following.Stdout, following.Stderr = &followed, &followedErr
	require.NoError(t, following.Start())
	again := program(t, home, "attach", "job")
	in, err := again.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, again.Start())
	_, err = io.WriteString(in, "more\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(call("logs", "-n", "1", "job").stdout, "more") }, time.Minute, 10*time.Millisecond)
	require.NoError(t, again.Process.Signal(unix.SIGTERM), "which it passes on")
	_ = again.Wait()
	require.NoError(t, waiting.Wait())
	require.NoError(t, following.Wait())
	require.NoError(t, console.Wait(), "which ends with the box")
	code := strconv.Itoa(again.ProcessState.ExitCode())
	require.Equal(t, code+"\n"+code+"\n", waited.String())
	require.True(t, strings.HasPrefix(followedErr.String(), "err\n"), followedErr.String()) // the shell may tell of the signal, too
	require.True(t, strings.HasPrefix(followed.String(), "start\nfor cat\nmore\n"), followed.String())
	require.Equal(t, followed.String(), call("logs", "job").stdout)
	r = call("logs", "-t", "-n", "2", "job")
	require.Regexp(t, `^20\d\d-\d\d-\d\dT\S+Z `, r.stdout)
	require.Zero(t, call("logs", "--console", "job").code)
	require.Equal(t, call("logs", "--console", "job"), call("logs", "--console", "-f", "job"), "of a box that has stopped")
	require.Equal(t, call("logs", "--console", "-n", "2", "job"), call("logs", "--console", "-f", "-n", "2", "job"))
	require.Equal(t, result{code + "\n", "", 0}, call("wait", "job"), "of a box that has stopped")
	r = call("exec", "job", "true")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "start it")
	r = call("attach", "job")
	require.Equal(t, exitSome, r.code)
	require.Contains(t, r.stderr, "start it")

	// Once more, in the foreground.
	started := program(t, home, "start", "-a", "-i", "job")
	started.Stdin = strings.NewReader("to the end\n")
	done := make(chan result)
	go func() { done <- runProgram(t, started) }()
	require.Eventually(t, func() bool { return call("exec", "job", "touch", "/go").code == 0 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, result{"start\nto the end\nend\n", "err\n", 0}, <-done)
	require.True(t, strings.HasSuffix(call("logs", "job").stdout, "start\nto the end\nend\n"), "the log goes on over restarts")
	require.Equal(t, result{"job\n", "", 0}, call("rm", "job"))
	requireNothingLeft(t, home)

	require.Equal(t, 0, call(with("create", "--name", "made", "--rm", small, machinetest.Image(t, "busybox"), "sh", "-c", "echo made; exit 4")...).code)
	require.Equal(t, result{"made\n", "", 4}, call("start", "-a", "made"))
	requireNothingLeft(t, home)
}

// TestGuestDetachKeys leaves a box that was run in the foreground, and comes back.
func TestGuestDetachKeys(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	start := func(args ...string) (*exec.Cmd, *os.File) {
		t.Helper()
		cmd := program(t, home, args...)
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 20, Cols: 70})
		require.NoError(t, err)
		return cmd, tty
	}
	until := func(tty *os.File, want string) {
		t.Helper()
		var out bytes.Buffer
		for b := make([]byte, 256); !strings.Contains(out.String(), want); {
			n, err := tty.Read(b)
			require.NoError(t, err, "%q of %q", want, out.String())
			out.Write(b[:n])
		}
	}
	cmd, tty := start(with("run", "-it", "--name", "shell", small, machinetest.Image(t, "busybox"), "sh", "-c",
		"stty size; while read line; do echo got $line; test \"$line\" = quit && exit 6; done")...)
	until(tty, "20 70")
	_, err := tty.WriteString("a\x10b\r") // half of the keys is no reason to go
	require.NoError(t, err)
	until(tty, "got a\x10b")
	_, err = tty.WriteString("\x10\x11")
	require.NoError(t, err)
	until(tty, "runs on")
	_, _ = io.Copy(io.Discard, tty)
	require.NoError(t, cmd.Wait())
	tty.Close()
	require.Len(t, vmProcesses(), 1, "the box outlives its caller")

	cmd, tty = start("attach", "--detach-keys", "ctrl-a,x", "shell")
	until(tty, "got a\x10b")
	_, err = tty.WriteString("c\r")
	require.NoError(t, err)
	until(tty, "got c")
	_, err = tty.WriteString("\x01x")
	require.NoError(t, err)
	until(tty, "runs on")
	_, _ = io.Copy(io.Discard, tty)
	require.NoError(t, cmd.Wait())
	tty.Close()

	cmd, tty = start("attach", "shell")
	_, err = tty.WriteString("quit\r")
	require.NoError(t, err)
	until(tty, "got quit")
	_, _ = io.Copy(io.Discard, tty)
	_ = cmd.Wait()
	tty.Close()
	require.Equal(t, 6, cmd.ProcessState.ExitCode())
	require.Equal(t, "6\n", runProgram(t, program(t, home, "wait", "shell")).stdout)
	require.Zero(t, runProgram(t, program(t, home, "rm", "shell")).code)
	requireNothingLeft(t, home)
}

// TestGuestTerminalOnly types at a command that has a terminal and no input.
func TestGuestTerminalOnly(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	cmd := program(t, home, with("run", "-t", "--rm", small, machinetest.Image(t, "busybox"), "sh", "-c", `echo ready; read -t 2 x; echo "[$x]"`)...)
	tty, err := pty.Start(cmd)
	require.NoError(t, err)
	defer tty.Close()
	_, err = tty.WriteString("typed\n")
	require.NoError(t, err)
	var out bytes.Buffer
	_, _ = io.Copy(&out, tty)
	require.NoError(t, cmd.Wait(), out.String())
	require.Contains(t, out.String(), "[]")
}

// TestGuestInterrupted interrupts what does not answer, and what has not begun.
func TestGuestInterrupted(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	busybox := machinetest.Image(t, "busybox")
	t.Run("a box that hangs", func(t *testing.T) {
		cmd := program(t, home, with("run", "--rm", small, busybox, "sh", "-c", "echo up; sleep 1000")...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, 3))
		require.NoError(t, err, "%s", &errs)
		vms := vmProcesses()
		require.Len(t, vms, 1)
		require.NoError(t, exec.Command("kill", "-STOP", vms[0]).Run())
		for range maxInterrupts {
			require.NoError(t, cmd.Process.Signal(unix.SIGINT))
			time.Sleep(50 * time.Millisecond) // or two become one
		}
		_ = cmd.Wait()
		require.Equal(t, 130, cmd.ProcessState.ExitCode(), "%s", &errs)
		require.NoError(t, exec.Command("kill", "-CONT", vms[0]).Run())
		requireNothingLeft(t, home)
	})
	for sig, code := range map[unix.Signal]int{unix.SIGINT: 130, unix.SIGTERM: 143, unix.SIGHUP: 129, unix.SIGQUIT: 131} {
		t.Run("a boot, by "+unix.SignalName(sig), func(t *testing.T) {
			cmd := program(t, home, with("run", "--rm", small, busybox, "sleep", "1000")...)
			require.NoError(t, cmd.Start())
			require.Eventually(t, func() bool { return len(vmProcesses()) > 0 }, time.Minute, time.Millisecond)
			require.NoError(t, cmd.Process.Signal(sig))
			_ = cmd.Wait()
			require.Equal(t, code, cmd.ProcessState.ExitCode())
			requireNothingLeft(t, home)
		})
	}
}

// TestGuestRunExact has a slow reader take a long output of boxlite itself.
func TestGuestRunExact(t *testing.T) {
	machinetest.Need(t)
	home := t.TempDir()
	const mib = 20
	cmd := program(t, home, with("run", "--rm", small, machinetest.Image(t, "busybox"), "sh", "-c",
		fmt.Sprintf("dd if=/dev/urandom of=/tmp/data bs=1M count=%d 2>/dev/null; sha256sum </tmp/data >&2; exec cat /tmp/data", mib))...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	var total int
	for n := 0; ; n++ {
		m, err := out.Read(buf)
		sum.Write(buf[:m])
		total += m
		if err != nil {
			break
		}
		if n%50 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	require.NoError(t, cmd.Wait())
	require.Equal(t, mib<<20, total)
	require.Equal(t, fmt.Sprintf("%x  -\n", sum.Sum(nil)), errs.String())
	requireNothingLeft(t, home)
}
