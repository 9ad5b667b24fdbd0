package runtime

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// testTimeout ends a test that hangs. It says nothing about speed: the rig is slow.
const testTimeout = 5 * time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// newGuestRuntime opens a runtime on a home of its own, and checks at the end of
// the test that nothing of its boxes is left.
func newGuestRuntime(t testing.TB) *Runtime {
	t.Helper()
	machinetest.Need(t)
	home := sharedHome(t)
	rt, err := New(Options{HomeDir: home, StopGrace: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, rt.Close())
		requireClean(t, home)
	})
	return rt
}

var home struct {
	once sync.Once
	dir  string
}

// sharedHome keeps the image store from test to test; boxes do not last that long.
func sharedHome(t testing.TB) string {
	home.once.Do(func() {
		dir, err := os.MkdirTemp("", "boxlite-home")
		require.NoError(t, err)
		home.dir = dir
	})
	return home.dir
}

func TestMain(m *testing.M) {
	for env, program := range map[string]func(string) error{soakEnv: soakWork, vanishEnv: vanish, manyEnv: manyWork, crashEnv: crashWork, lockEnv: lockWork, volumeKillEnv: volumeKillWork} {
		if arg := os.Getenv(env); arg != "" {
			if err := program(arg); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	code := m.Run()
	if home.dir != "" {
		os.RemoveAll(home.dir)
	}
	os.Exit(code)
}

// requireClean checks that no box has left a folder, a process or a socket. What
// is left is told, and taken away: the next test is to fail by its own fault only.
func requireClean(t testing.TB, home string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(home, "boxes"))
	require.NoError(t, err)
	left := vmmProcesses(t)
	for _, e := range entries {
		dir := filepath.Join(home, "boxes", e.Name())
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		t.Errorf("box folder left: %s: %v", e.Name(), files)
		for _, name := range []string{"vmm.log", "console.log"} {
			b, _ := os.ReadFile(filepath.Join(dir, name))
			t.Logf("end of its %s:\n%s", name, vmm.Printable(b[max(0, len(b)-4096):]))
		}
	}
	for pid, name := range left {
		t.Errorf("VM process left: %d %s", pid, name)
		unix.Kill(pid, unix.SIGKILL)
	}
	if t.Failed() {
		rt, err := New(Options{HomeDir: home})
		require.NoError(t, err)
		defer rt.Close()
		boxes, err := rt.ListInfo(context.Background())
		require.NoError(t, err)
		for _, b := range boxes {
			_ = rt.Remove(context.Background(), string(b.ID), true) // of no use to anybody
		}
	}
}

// vmmProcesses lists the VM processes of this machine, by their ids.
func vmmProcesses(t testing.TB) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	out := map[int]string{}
	for _, f := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		require.NoError(t, err)
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), "boxlite-vmm:") {
			out[pid] = strings.TrimRight(string(b), "\x00")
		}
	}
	return out
}

func smallBox(t testing.TB) BoxOptions {
	return BoxOptions{CPUs: 1, MemoryMiB: 256, Rootfs: Image(machinetest.Image(t, "busybox"))}
}

// output runs a shell script in a box and returns what it printed.
func output(t testing.TB, b *LiteBox, cmd BoxCommand) (string, string, ExecResult) {
	t.Helper()
	ctx := testContext(t)
	ex, err := b.Run(ctx, cmd.WithStdin(false))
	require.NoError(t, err)
	var stdout, stderr bytes.Buffer
	var wait sync.WaitGroup
	wait.Go(func() { io.Copy(&stdout, ex.Stdout()) })
	if e := ex.Stderr(); e != nil {
		wait.Go(func() { io.Copy(&stderr, e) })
	}
	wait.Wait()
	r, err := ex.Wait(ctx)
	require.NoError(t, err)
	return stdout.String(), stderr.String(), r
}

func sh(script string) BoxCommand { return Command("sh", "-c", script) }

// TestGuestCommands runs many commands in one box.
func TestGuestCommands(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	opts := smallBox(t)
	opts.Env = []EnvVar{{"A", "box"}, {"B", "box"}}
	box, err := rt.Create(ctx, opts, "commands")
	require.NoError(t, err)
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusConfigured, i.Status)

	for name, c := range map[string]struct {
		cmd            BoxCommand
		stdout, stderr string
		result         int
	}{
		"output":         {sh("echo out; echo err >&2"), "out\n", "err\n", 0},
		"exit code":      {sh("exit 42"), "", "", 42},
		"signal":         {sh("kill -KILL $$"), "", "", -9},
		"environment":    {sh("echo $A $B $C; cd; pwd").Env("B", "command").Env("C", "x y"), "box command x y\n/root\n", "", 0},
		"hostname":       {sh("hostname; cat /etc/hostname"), "commands\ncommands\n", "", 0},
		"new directory":  {sh("pwd").WorkingDir("/made/for/it"), "/made/for/it\n", "", 0},
		"user":           {sh("id -u; id -g; echo $HOME").User("app"), "1000\n1000\n/home/app\n", "", 0},
		"numeric user":   {sh("id -u; id -g").User("77:88"), "77\n88\n", "", 0},
		"terminal":       {sh("test -t 0 && test -t 1 && stty size").WithTTY(11, 77), "11 77\r\n", "", 0},
		"no terminal":    {sh("test -t 0"), "", "", 1},
		"writable root":  {sh("echo data > /etc/new && cat /etc/new && df -T / | tail -1 | awk '{print $2}'"), "data\noverlay\n", "", 0},
		"orphans":        {sh("(sleep 0.1; echo late) & echo first"), "first\nlate\n", "", 0},
		"timeout":        {sh("sleep 1000 & sleep 1000").Timeout(time.Second), "", "", -15},
		"many arguments": {Command("printf", "%s\n", "", "a b", "*", "$x", "'"), "\na b\n*\n$x\n'\n", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, r := output(t, box, c.cmd)
			require.Equal(t, c.stdout, stdout)
			require.Equal(t, c.stderr, stderr)
			require.Equal(t, c.result, r.ExitCode)
			require.Equal(t, c.result == 0, r.Success())
			require.Equal(t, name == "timeout", r.TimedOut)
		})
	}
	for name, c := range map[string]struct {
		cmd  BoxCommand
		code int
		want string
	}{
		"not found":      {Command("no-such-program"), 127, "no-such-program"},
		"not executable": {Command("/etc/passwd"), 126, "/etc/passwd"},
		"a directory":    {Command("/etc"), 126, "/etc"},
		"unknown user":   {Command("true").User("nobody-here"), 125, "nobody-here"},
		"bad directory":  {Command("true").WorkingDir("/etc/passwd"), 125, "/etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := box.Run(ctx, c.cmd)
			var cerr *CommandError
			require.ErrorAs(t, err, &cerr)
			require.ErrorIs(t, err, ErrRun)
			require.Equal(t, c.code, cerr.ExitCode)
			require.ErrorContains(t, err, c.want)
		})
	}
	i, err = rt.GetInfo(ctx, "commands")
	require.NoError(t, err)
	require.Equal(t, StatusRunning, i.Status)
	require.NotZero(t, i.PID)
	require.ErrorIs(t, rt.Remove(ctx, "commands", false), ErrInvalidState)
	require.NoError(t, box.Stop(ctx))
	require.NoError(t, box.Stop(ctx), "stopping twice")
	_, err = rt.Get(ctx, "commands")
	require.ErrorIs(t, err, ErrNotFound, "a box goes when it stops, unless it is kept")
}

// TestGuestStreams sends random bytes through cat and compares them.
func TestGuestStreams(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	defer box.Stop(ctx)
	const size = 8 << 20
	for _, n := range []int{1, 4} {
		var all sync.WaitGroup
		for range n {
			all.Go(func() {
				ex, err := box.Run(ctx, Command("cat"))
				if err != nil {
					t.Error(err)
					return
				}
				sent, got := sha256.New(), sha256.New()
				in, out := ex.Stdin(), ex.Stdout()
				go func() {
					if _, err := io.Copy(io.MultiWriter(in, sent), io.LimitReader(rand.Reader, size)); err != nil {
						t.Error(err)
					}
					in.Close()
				}()
				m, err := io.Copy(got, out)
				if err != nil || m != size {
					t.Errorf("got %d bytes of %d: %v", m, size, err)
				}
				if r, err := ex.Wait(ctx); err != nil || !r.Success() {
					t.Errorf("cat: %v %v", r, err)
				}
				if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
					t.Error("the bytes are not those that were sent")
				}
			})
		}
		all.Wait()
	}
	ex, err := box.Run(ctx, sh("trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.1; done"))
	require.NoError(t, err)
	out := ex.Stdout()
	line := make([]byte, 6)
	_, err = io.ReadFull(out, line)
	require.NoError(t, err)
	require.NoError(t, ex.Signal(ctx, int(unix.SIGUSR1)))
	rest, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Equal(t, "got it\n", string(rest))
	r, err := ex.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 3, r.ExitCode)
	require.ErrorIs(t, ex.Signal(ctx, 15), ErrInvalidState)
	require.NoError(t, ex.Kill(ctx), "killing what has ended")
}

// TestGuestRestart stops a box and starts it again, in order and by force, and
// looks for what it had written.
func TestGuestRestart(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	opts := smallBox(t)
	opts.KeepOnStop = true
	opts.DiskSizeGB = 2 // grown by the guest
	box, err := rt.Create(ctx, opts, "kept")
	require.NoError(t, err)
	_, err = rt.Create(ctx, opts, "kept")
	require.ErrorIs(t, err, ErrAlreadyExists)

	size, _, _ := output(t, box, sh("echo one > /data; df -m / | tail -1 | awk '{print ($2 > 1800)}'"))
	require.Equal(t, "1\n", size, "the filesystem has the size of the disk")
	require.NoError(t, box.Stop(ctx))
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusStopped, i.Status)
	require.Zero(t, i.PID)
	require.Empty(t, i.Reason)

	out, _, _ := output(t, box, sh("cat /data; echo two >> /data; sync /data"))
	require.Equal(t, "one\n", out)
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(i.PID, unix.SIGKILL), "as a crash of the VMM")
	require.Eventually(t, func() bool {
		i, err = box.Info(ctx)
		return err == nil && i.Status == StatusStopped
	}, time.Minute, 10*time.Millisecond)
	require.NotEmpty(t, i.Reason)

	out, _, _ = output(t, box, sh("cat /data"))
	require.Equal(t, "one\ntwo\n", out, "what was synced survives")
	require.ErrorIs(t, rt.Remove(ctx, "kept", false), ErrInvalidState)
	require.NoError(t, rt.Remove(ctx, "kept", true))
}

// TestGuestDies lets the guest end in all its ways while a command runs.
func TestGuestDies(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		cause  vmm.Cause
	}{
		"panic":    {"echo c > /proc/sysrq-trigger", vmm.CausePanic},
		"poweroff": {"poweroff -f; kill -USR2 1; sleep 1000", vmm.CauseGuest},
	} {
		t.Run(name, func(t *testing.T) {
			rt := newGuestRuntime(t)
			ctx := testContext(t)
			box, err := rt.Create(ctx, smallBox(t), "")
			require.NoError(t, err)
			ex, err := box.Run(ctx, sh(c.script))
			require.NoError(t, err)
			_, err = ex.Wait(ctx)
			if err != nil { // an orderly end may also report the command's own
				require.ErrorContains(t, err, string(c.cause))
			} else {
				require.Equal(t, vmm.CauseGuest, c.cause)
			}
			require.Eventually(t, func() bool { return len(vmmProcesses(t)) == 0 }, time.Minute, 10*time.Millisecond)
		})
	}
}

// TestGuestBootFails looks at the reports of boots that cannot work.
func TestGuestBootFails(t *testing.T) {
	machinetest.Need(t)
	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, bytes.Repeat([]byte("not a kernel "), 1000), 0o600))
	for name, c := range map[string]struct {
		opts Options
		want []string
	}{
		"garbage kernel":    {Options{Kernel: garbage}, []string{"could not be built", "garbage"}},
		"garbage initramfs": {Options{Initramfs: garbage}, []string{"guest kernel panic", "console:", "exits:"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.opts.HomeDir = sharedHome(t)
			rt, err := New(c.opts)
			require.NoError(t, err)
			defer rt.Close()
			ctx := testContext(t)
			box, err := rt.Create(ctx, smallBox(t), "")
			require.NoError(t, err)
			err = box.Start(ctx)
			require.ErrorIs(t, err, ErrEngine)
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
			if name == "garbage kernel" {
				require.NotContains(t, err.Error(), "\n", "there is no more to say")
			}
			t.Log(err)
			requireClean(t, c.opts.HomeDir)
		})
	}
}

// TestGuestCancelled gives a boot up half-way.
func TestGuestCancelled(t *testing.T) {
	rt := newGuestRuntime(t)
	box, err := rt.Create(testContext(t), smallBox(t), "")
	require.NoError(t, err)
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 500 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		if err := box.Start(ctx); err != nil {
			require.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotFound), "%v", err)
		}
		cancel()
		if box, err = rt.Create(testContext(t), smallBox(t), ""); err != nil {
			t.Fatal(err)
		}
	}
	require.NoError(t, rt.Remove(testContext(t), string(box.ID()), true))
	all, err := rt.ListInfo(testContext(t))
	require.NoError(t, err)
	for _, i := range all {
		require.NoError(t, rt.Remove(testContext(t), string(i.ID), true))
	}
}
