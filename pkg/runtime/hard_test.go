package runtime

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// descriptors counts the open files of a process.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// resident is a process's memory in bytes without what it shares: guest RAM is
// private too, so callers look at what it grows by.
func resident(t testing.TB, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			require.NoError(t, err)
			return kb << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// startedBox is a running box with the pid of its VM process.
func startedBox(t testing.TB) (*LiteBox, int) {
	t.Helper()
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, box.Stop(testContext(t))) })
	require.NoError(t, box.Start(ctx))
	i, err := box.Info(ctx)
	require.NoError(t, err)
	return box, i.PID
}

// guestCounts is how many processes, cgroups and terminals the guest has, in sum.
func guestCounts(t testing.TB, box *LiteBox) int {
	out, _, _ := output(t, box, sh("ls -d /proc/[0-9]* /sys/fs/cgroup/exec-* /dev/pts/* 2>/dev/null | wc -l"))
	n, err := strconv.Atoi(strings.TrimSpace(out))
	require.NoError(t, err)
	return n
}

// TestGuestExecutionsLeak runs very many commands, one after the other and at
// once, and looks for what they left in the guest and on the host.
func TestGuestExecutionsLeak(t *testing.T) {
	box, pid := startedBox(t)
	run := func(n int) {
		for range n {
			_, _, r := output(t, box, Command("true"))
			require.True(t, r.Success())
		}
	}
	atOnce := func(n int) {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				ctx := testContext(t)
				ex, err := box.Run(ctx, sh(fmt.Sprintf("sleep 0.2; echo %d", i)))
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(ex.Stdout())
				if err != nil || string(b) != fmt.Sprintln(i) {
					t.Errorf("%q %v", b, err)
				}
				if r, err := ex.Wait(ctx); err != nil || !r.Success() {
					t.Errorf("%v %v", r, err)
				}
			})
		}
		all.Wait()
	}
	run(20) // until all that is made once is there
	atOnce(64)
	guest, host, vmm := guestCounts(t, box), descriptors(t, os.Getpid()), descriptors(t, pid)
	goroutines := pprof.Lookup("goroutine").Count
	routines := goroutines()
	run(executions(t))
	atOnce(64)
	// Cgroups of what has ended are removed when the guest is calm.
	require.Eventually(t, func() bool { return guestCounts(t, box) <= guest }, testTimeout, 200*time.Millisecond, "the guest had %d of processes, cgroups and terminals", guest)
	// What closes is not waited for by whoever closes it.
	require.Eventually(t, func() bool {
		return descriptors(t, os.Getpid()) <= host && descriptors(t, pid) <= vmm && goroutines() <= routines+2 // Eventually's own
	}, testTimeout, 10*time.Millisecond, "descriptors here %d, of the VM process %d; goroutines here %d", host, vmm, routines)
}

// executions is how many short commands the leak test runs: 1,000 with
// BOXLITE_SOAK, fewer in a quick run.
func executions(testing.TB) int {
	if machinetest.Soak() {
		return 1000
	}
	return 150
}

// TestGuestTimeoutTakesTheTree has a command start descendants that want to live
// on: in sessions of their own, deaf to SIGTERM, holding its output.
func TestGuestTimeoutTakesTheTree(t *testing.T) {
	box, _ := startedBox(t)
	out, _, r := output(t, box, sh(`trap '' TERM
setsid sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' &
(setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &)
while :; do sleep 1; done`).Timeout(time.Second))
	require.True(t, r.TimedOut)
	require.Equal(t, -9, r.ExitCode)
	require.NotEmpty(t, strings.TrimSpace(out))
	left, _, _ := output(t, box, sh("ps | grep -c '[s]leep 1'"))
	require.Equal(t, "0\n", left)
}

// TestGuestSlowReader reads a little of very much output, and sees the VM process
// wait instead of grow.
func TestGuestSlowReader(t *testing.T) {
	box, pid := startedBox(t)
	ctx := testContext(t)
	ex, err := box.Run(ctx, sh("dd if=/dev/zero bs=1M count=64 2>/dev/null; echo end >&2"))
	require.NoError(t, err)
	out := ex.Stdout()
	buf := make([]byte, 64<<10)
	n, err := io.ReadFull(out, buf)
	require.NoError(t, err)
	before := resident(t, pid)
	for range 20 { // the command could have written all of it by the end of this
		time.Sleep(50 * time.Millisecond)
		m, err := io.ReadFull(out, buf[:4096])
		require.NoError(t, err)
		n += m
	}
	require.Less(t, resident(t, pid)-before, int64(8<<20), "bytes that the VM process grew by")
	rest, err := io.Copy(io.Discard, out)
	require.NoError(t, err)
	require.EqualValues(t, 64<<20, int64(n)+rest)
	r, err := ex.Wait(ctx)
	require.NoError(t, err)
	require.True(t, r.Success())
}

// vanishEnv makes this test binary a program that runs a command in a box and
// waits to be killed.
const vanishEnv = "BOXLITE_TEST_VANISH"

func vanish(arg string) error {
	home, id, _ := strings.Cut(arg, "|")
	rt, err := New(Options{HomeDir: home})
	if err != nil {
		return err
	}
	ctx := context.Background()
	box, err := rt.Get(ctx, id)
	if err != nil {
		return err
	}
	ex, err := box.Run(ctx, sh("echo $$; while :; do sleep 1; done"))
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, ex.Stdout())
	return err
}

// TestGuestClientVanishes kills a program in the middle of a command that it runs
// in a box of ours: the command ends, the box goes on.
func TestGuestClientVanishes(t *testing.T) {
	box, _ := startedBox(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), vanishEnv+"="+box.rt.HomeDir()+"|"+string(box.ID()))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	b := make([]byte, 16)
	n, err := out.Read(b)
	require.NoError(t, err, "%s", &errs)
	pid := strings.TrimSpace(string(b[:n]))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		_, _, r := output(t, box, sh("test -d /proc/"+pid))
		return r.ExitCode == 1
	}, testTimeout, 20*time.Millisecond, "the command goes on")
}

// TestGuestAgentDies takes the guest's kernel away under several commands: each of
// them, and each later call, ends in an error that says so.
func TestGuestAgentDies(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	var waits []*Execution
	for range 8 {
		ex, err := box.Run(ctx, Command("sleep", "1000"))
		require.NoError(t, err)
		waits = append(waits, ex)
	}
	_, err = box.Run(ctx, sh("sleep 0.2; echo c > /proc/sysrq-trigger"))
	require.NoError(t, err)
	for _, ex := range waits {
		_, err := ex.Wait(ctx)
		require.ErrorIs(t, err, ErrEngine)
		require.ErrorContains(t, err, "panic")
		require.Error(t, ex.Signal(ctx, int(unix.SIGTERM)))
	}
}

// TestGuestDatabase kills the VM process under a program that commits to a
// database as quickly as it can, and looks whether every commit that was
// acknowledged is there. The kill comes some commits after the one that it is
// decided at, at a moment that nothing else decides.
func TestGuestDatabase(t *testing.T) {
	machinetest.Need(t)
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	opts := BoxOptions{CPUs: 1, MemoryMiB: 256, Rootfs: Image(machinetest.Image(t, "debian-python")), KeepOnStop: true}
	box, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, rt.Remove(testContext(t), string(box.ID()), true)) })
	const open = "import sqlite3, sys; db = sqlite3.connect('/var/lib/test.db'); "
	write := open + `
db.execute('pragma journal_mode=wal'); db.execute('pragma synchronous=full')
db.execute('create table if not exists t (n integer primary key, s text)')
n = (db.execute('select max(n) from t').fetchone()[0] or 0)
while True:
    n += 1
    db.execute('insert into t values (?, ?)', (n, 'x' * 500)); db.commit()
    print(n, flush=True)`
	last := 0
	for round := range 5 {
		ex, err := box.Run(ctx, Command("python3", "-c", write))
		require.NoError(t, err)
		goal := last + 20*(round+1)
		i, err := box.Info(ctx)
		require.NoError(t, err)
		for line, err := range Lines(ex.Stdout()) {
			if err != nil {
				break // the VM is gone
			}
			n, err := strconv.Atoi(line)
			if err != nil || n != last+1 {
				break // a line that the kill has cut: nothing was acknowledged by it
			}
			if last = n; n == goal {
				after := time.Duration(rand.Int64N(int64(50 * time.Millisecond)))
				time.AfterFunc(after, func() { unix.Kill(i.PID, unix.SIGKILL) })
			}
		}
		require.GreaterOrEqual(t, last, goal)
		require.Eventually(t, func() bool {
			i, err := box.Info(ctx)
			return err == nil && i.Status.IsStopped()
		}, testTimeout, 10*time.Millisecond)
		_, _, r := output(t, box, sh("test -s /var/lib/test.db-wal"))
		require.True(t, r.Success(), "there is nothing to recover: the program was not at work")
		out, errs, _ := output(t, box, Command("python3", "-c", open+
			"print(db.execute('pragma integrity_check').fetchone()[0], db.execute('select max(n), count(*) from t').fetchone())"))
		var most, count int
		_, err = fmt.Sscanf(out, "ok (%d, %d)", &most, &count)
		require.NoError(t, err, "%s%s", out, errs)
		require.GreaterOrEqual(t, most, last, "commits were acknowledged and lost")
		require.Equal(t, most, count)
		last = most
	}
}

// TestGuestDiskSpace has a box write and delete, and looks at the space its disk
// takes on the host.
func TestGuestDiskSpace(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	require.NoError(t, box.Start(ctx))
	blocks := func() int64 {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(filepath.Join(box.dir(), diskName), &st))
		return st.Blocks * 512
	}
	empty := blocks()
	_, errs, r := output(t, box, sh("dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null && sync"))
	require.True(t, r.Success(), errs)
	require.Greater(t, blocks(), empty+60<<20)
	_, errs, r = output(t, box, sh("rm /big && sync"))
	require.True(t, r.Success(), errs)
	require.Eventually(t, func() bool { return blocks() < empty+16<<20 }, testTimeout, 100*time.Millisecond, "space is returned while the box runs")
	require.NoError(t, box.Stop(ctx))
}
