package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mainBox makes a box that is kept and runs a shell script of its own.
func mainBox(t testing.TB, rt *Runtime, name, script string, change ...func(*BoxOptions)) *LiteBox {
	t.Helper()
	opts := smallBox(t)
	opts.KeepOnStop, opts.Detach = true, true
	opts.Main = &MainCommand{Args: []string{"sh", "-c", script}}
	for _, f := range change {
		f(&opts)
	}
	box, err := rt.Create(testContext(t), opts, name)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := rt.Remove(context.Background(), string(box.ID()), true); err != nil && opts.KeepOnStop {
			t.Error(err)
		}
	})
	return box
}

// logged joins what a log has of each stream.
func logged(t testing.TB, b *LiteBox, o LogOptions) (stdout, stderr string) {
	t.Helper()
	for e, err := range b.Logs(testContext(t), o) {
		require.NoError(t, err)
		if e.Stream == StreamStderr {
			stderr += string(e.Bytes())
		} else {
			stdout += string(e.Bytes())
		}
	}
	return stdout, stderr
}

// collect reads an attachment's outputs to their end.
func collect(t testing.TB, a *Attachment) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	var wait sync.WaitGroup
	wait.Go(func() { io.Copy(&out, a.Stdout()) })
	if e := a.Stderr(); e != nil {
		wait.Go(func() { io.Copy(&errs, e) })
	}
	wait.Wait()
	return out.String(), errs.String()
}

// TestGuestMain runs a box with a command of its own through its whole life, as
// seen by the process that started it and by another.
func TestGuestMain(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box := mainBox(t, rt, "job", `echo out; echo err >&2; printf 'no newline'; read line </etc/go; echo " $line"; exit 42`)
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"sh", "-c"}, i.Command[:2])
	require.Nil(t, i.ExitCode)
	require.True(t, i.StartedAt.IsZero())
	_, err = box.Run(ctx, Command("true"))
	require.ErrorIs(t, err, ErrInvalidState, "it was not started")
	_, err = box.Attach(ctx, AttachOptions{})
	require.ErrorIs(t, err, ErrInvalidState)
	_, err = box.Wait(ctx)
	require.ErrorIs(t, err, ErrInvalidState)
	require.ErrorIs(t, box.Signal(ctx, 15), ErrInvalidState)

	require.NoError(t, box.Start(ctx))
	require.NoError(t, box.Start(ctx), "starting twice")
	other, err := New(Options{HomeDir: rt.HomeDir()})
	require.NoError(t, err)
	defer other.Close()
	elsewhere, err := other.Get(ctx, "job")
	require.NoError(t, err)
	r, err := elsewhere.Wait(ctx)
	require.NoError(t, err)
	require.NotZero(t, r.ExitCode, "there is no /etc/go")
	i, err = elsewhere.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, StatusStopped, i.Status)
	require.Empty(t, i.Reason)
	require.NotNil(t, i.ExitCode)
	require.Equal(t, r.ExitCode, *i.ExitCode)
	require.False(t, i.FinishedAt.Before(i.StartedAt))
	again, err := box.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, r.ExitCode, again.ExitCode, "of a box that stopped before")
	_, err = box.Run(ctx, Command("true"))
	require.ErrorIs(t, err, ErrInvalidState, "running it would repeat the job")
	stdout, stderr := logged(t, elsewhere, LogOptions{})
	require.Equal(t, "out\nno newline", strings.TrimSuffix(stdout, " \n"))
	require.Contains(t, stderr, "err\n")

	// The disk can be worked on without the command's running again.
	booted, err := box.startWithoutMain(ctx)
	require.NoError(t, err)
	require.True(t, booted)
	_, _, res := output(t, box, sh("mkfifo /etc/go"))
	require.Zero(t, res.ExitCode)
	require.NoError(t, box.Stop(ctx))
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, r.ExitCode, *i.ExitCode, "of the last run of the command")
	again, err = box.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, r.ExitCode, again.ExitCode)

	require.NoError(t, elsewhere.Start(ctx))
	two := []*Attachment{}
	for range 2 {
		a, err := box.Attach(ctx, AttachOptions{Backlog: true})
		require.NoError(t, err)
		two = append(two, a)
	}
	gone, err := box.Attach(ctx, AttachOptions{Backlog: true})
	require.NoError(t, err)
	require.NoError(t, gone.Detach())
	_, err = gone.Wait(ctx)
	require.Error(t, err)
	_, _, res = output(t, box, sh("echo done > /etc/go"))
	require.Zero(t, res.ExitCode)
	for _, a := range two {
		out, errs := collect(t, a)
		require.Equal(t, "out\nno newline done\n", out)
		require.Equal(t, "err\n", errs)
		r, err := a.Wait(ctx)
		require.NoError(t, err)
		require.Equal(t, 42, r.ExitCode)
	}
	r, err = box.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 42, r.ExitCode)
	i, err = box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, 42, *i.ExitCode)
	stdout, _ = logged(t, box, LogOptions{Follow: true})
	require.True(t, strings.HasSuffix(stdout, "out\nno newline done\n"), "%q", stdout)
	require.Equal(t, 2, strings.Count(stdout, "out\n"), "the log survives a restart")
	stdout, _ = logged(t, box, LogOptions{Tail: 1})
	require.Equal(t, "no newline done\n", stdout)
}

// TestGuestMainEnds ends main commands from outside in all ways there are.
func TestGuestMainEnds(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	ready := `trap 'echo term; exit 7' TERM; trap 'echo int; exit 8' INT; trap 'echo usr' USR1; echo ready; while :; do sleep 0.05; done`
	deaf := `trap 'echo heard' TERM INT; echo ready; while :; do sleep 0.05; done`
	for name, c := range map[string]struct {
		script string
		end    func(*LiteBox) error
		code   int
		log    string
	}{
		"stop":         {ready, func(b *LiteBox) error { return b.Stop(ctx) }, 7, "ready\nterm\n"},
		"signal":       {ready, func(b *LiteBox) error { return b.Signal(ctx, 2) }, 8, "ready\nint\n"},
		"kill":         {ready, func(b *LiteBox) error { return b.Signal(ctx, 9) }, -9, "ready\n"},
		"stop a deaf":  {deaf, func(b *LiteBox) error { return b.StopWith(ctx, 300*time.Millisecond) }, -9, "ready\nheard\n"},
		"stop at once": {deaf, func(b *LiteBox) error { return b.StopWith(ctx, 0) }, -9, ""},
	} {
		t.Run(name, func(t *testing.T) {
			box := mainBox(t, rt, "", c.script)
			require.NoError(t, box.Start(ctx))
			a, err := box.Attach(ctx, AttachOptions{Backlog: true})
			require.NoError(t, err)
			line := make([]byte, 6)
			_, err = io.ReadFull(a.Stdout(), line)
			require.NoError(t, err)
			require.NoError(t, c.end(box))
			r, err := box.Wait(ctx)
			require.NoError(t, err)
			require.Equal(t, c.code, r.ExitCode)
			i, err := box.Info(ctx)
			require.NoError(t, err)
			require.Equal(t, StatusStopped, i.Status)
			require.Equal(t, c.code, *i.ExitCode)
			if c.log != "" {
				stdout, _ := logged(t, box, LogOptions{})
				require.Equal(t, c.log, stdout)
			}
		})
	}
	t.Run("started while it ends", func(t *testing.T) {
		box := mainBox(t, rt, "", `echo run >> /runs; cat /runs | wc -l`)
		for n := 1; n <= 3; n++ {
			a, err := box.Attach(ctx, AttachOptions{Start: true})
			require.NoError(t, err)
			stdout, _ := collect(t, a)
			require.Equal(t, fmt.Sprintf("%d\n", n), stdout)
			_, err = a.Wait(ctx) // the command has ended, the box not yet
			require.NoError(t, err)
		}
	})
	t.Run("left over", func(t *testing.T) {
		box := mainBox(t, rt, "", `trap '' TERM; (trap '' TERM; exec sleep 1000) >/dev/null 2>&1 & echo first`)
		require.NoError(t, box.Start(ctx))
		_, err := box.Wait(ctx)
		require.NoError(t, err)
		require.Empty(t, vmmProcesses(t))
	})
	t.Run("kill -9 of the VMM", func(t *testing.T) {
		box := mainBox(t, rt, "", ready)
		require.NoError(t, box.Start(ctx))
		a, err := box.Attach(ctx, AttachOptions{Backlog: true})
		require.NoError(t, err)
		_, err = io.ReadFull(a.Stdout(), make([]byte, 6))
		require.NoError(t, err)
		i, err := box.Info(ctx)
		require.NoError(t, err)
		require.NoError(t, unix.Kill(i.PID, unix.SIGKILL))
		_, err = a.Wait(ctx)
		require.ErrorIs(t, err, ErrEngine)
		_, err = box.Wait(ctx)
		require.ErrorIs(t, err, ErrEngine)
		i, err = box.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, StatusStopped, i.Status)
		require.Nil(t, i.ExitCode, "nobody knows")
		require.NotEmpty(t, i.Reason)
		stdout, _ := logged(t, box, LogOptions{})
		require.Equal(t, "ready\n", stdout, "what was written before is kept")
	})
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"not found":      {[]string{"no-such-program"}, 127},
		"not executable": {[]string{"/etc/passwd"}, 126},
	} {
		t.Run(name, func(t *testing.T) {
			for _, start := range []func(*LiteBox) error{
				func(b *LiteBox) error { return b.Start(ctx) },
				func(b *LiteBox) error { _, err := b.Attach(ctx, AttachOptions{Start: true}); return err },
			} {
				box := mainBox(t, rt, "", "", func(o *BoxOptions) { o.Main.Args = c.args })
				err := start(box)
				var cerr *CommandError
				require.ErrorAs(t, err, &cerr)
				require.ErrorIs(t, err, ErrRun)
				require.Equal(t, c.code, cerr.ExitCode)
				require.ErrorContains(t, err, c.args[0])
				r, err := box.Wait(ctx)
				require.NoError(t, err)
				require.Equal(t, c.code, r.ExitCode)
				i, err := box.Info(ctx)
				require.NoError(t, err)
				require.Equal(t, c.code, *i.ExitCode)
			}
		})
	}
}

// TestGuestAttachInput feeds a main command, by several clients one after the other.
func TestGuestAttachInput(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box := mainBox(t, rt, "", "cat; echo end", func(o *BoxOptions) { o.Main.Stdin = true; o.KeepOnStop = false })
	first, err := box.Attach(ctx, AttachOptions{Start: true, Stdin: true})
	require.NoError(t, err)
	_, err = first.Stdin().Write([]byte("one\n"))
	require.NoError(t, err)
	_, err = io.ReadFull(first.Stdout(), make([]byte, 4))
	require.NoError(t, err)
	require.NoError(t, first.Detach(), "which does not close the command's input")
	second, err := box.Attach(ctx, AttachOptions{Stdin: true, Backlog: true})
	require.NoError(t, err)
	in := second.Stdin()
	_, err = in.Write([]byte("two\n"))
	require.NoError(t, err)
	require.NoError(t, in.Close())
	out, _ := collect(t, second)
	require.Equal(t, "one\ntwo\nend\n", out)
	r, err := second.Wait(ctx)
	require.NoError(t, err)
	require.True(t, r.Success())
	_, err = box.Wait(ctx)
	if err != nil { // it may be gone already
		require.ErrorIs(t, err, ErrNotFound)
	}
}

// TestGuestMainExact has a slow reader compare every byte of a long output.
func TestGuestMainExact(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	const mib = 20
	box := mainBox(t, rt, "", fmt.Sprintf("dd if=/dev/urandom of=/tmp/data bs=1M count=%d 2>/dev/null; cat /tmp/data; sha256sum </tmp/data >&2", mib),
		func(o *BoxOptions) { o.Detach = false })
	a, err := box.Attach(ctx, AttachOptions{Start: true})
	require.NoError(t, err)
	vanished, err := box.Attach(ctx, AttachOptions{}) // reads nothing, and goes
	require.NoError(t, err)
	time.AfterFunc(time.Second, func() { vanished.Detach() })
	var errs bytes.Buffer
	var wait sync.WaitGroup
	wait.Go(func() { io.Copy(&errs, a.Stderr()) })
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	out := a.Stdout()
	for n, pieces := 0, 0; ; pieces++ {
		m, err := out.Read(buf)
		sum.Write(buf[:m])
		n += m
		if err == io.EOF {
			require.Equal(t, mib<<20, n)
			break
		}
		require.NoError(t, err)
		if pieces%40 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	wait.Wait()
	require.Equal(t, fmt.Sprintf("%x  -\n", sum.Sum(nil)), errs.String())
	_, err = box.Wait(ctx)
	require.NoError(t, err)
	var size int64
	for _, f := range []string{"log", "log.1", "log.2", "log.3"} {
		if fi, err := os.Stat(box.dir() + "/" + f); err == nil {
			size += fi.Size()
			require.NotEqual(t, "log.3", f)
		}
	}
	require.Greater(t, size, int64(mib<<20), "all of it fits")
	log := sha256.New()
	for e, err := range box.Logs(ctx, LogOptions{}) {
		require.NoError(t, err)
		if e.Stream == StreamStdout {
			log.Write(e.Bytes())
		}
	}
	require.Equal(t, sum.Sum(nil), log.Sum(nil), "the log has every byte")
}

// TestGuestStopSignal runs an image that wants to be stopped by another signal.
func TestGuestStopSignal(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	from, err := layout.ImageIndexFromPath(machinetest.Image(t, "busybox"))
	require.NoError(t, err)
	index, err := from.IndexManifest()
	require.NoError(t, err)
	img, err := from.Image(index.Manifests[0].Digest)
	require.NoError(t, err)
	cfg, err := img.ConfigFile()
	require.NoError(t, err)
	cfg = cfg.DeepCopy()
	cfg.Config.StopSignal = "SIGUSR2"
	cfg.Config.Entrypoint = []string{"sh", "-c"}
	cfg.Config.Cmd = []string{"trap 'exit 5' TERM; trap 'exit 6' USR2; echo ready; while :; do sleep 0.05; done"}
	img, err = mutate.ConfigFile(img, cfg)
	require.NoError(t, err)
	dir := t.TempDir()
	out, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, out.AppendImage(img, layout.WithPlatform(v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture})))

	box := mainBox(t, rt, "", "", func(o *BoxOptions) { o.Rootfs, o.Main = Image(dir), &MainCommand{} })
	require.NoError(t, box.Start(ctx))
	a, err := box.Attach(ctx, AttachOptions{Backlog: true})
	require.NoError(t, err)
	_, err = io.ReadFull(a.Stdout(), make([]byte, 6))
	require.NoError(t, err)
	i, err := box.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, append([]string{"sh", "-c"}, cfg.Config.Cmd...), i.Command)
	require.NoError(t, box.Stop(ctx))
	r, err := box.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 6, r.ExitCode)
}

// TestGuestExecutionCloses looks at what is open after executions that nobody closes.
func TestGuestExecutionCloses(t *testing.T) {
	rt := newGuestRuntime(t)
	box, err := rt.Create(testContext(t), smallBox(t), "")
	require.NoError(t, err)
	defer box.Stop(context.Background())
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close them, too
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(list)
	}
	output(t, box, sh("true"))
	before := open()
	for range 5 {
		output(t, box, sh("echo x"))
		ex, err := box.Run(testContext(t), Command("cat")) // nobody takes anything
		require.NoError(t, err)
		require.NoError(t, ex.Kill(testContext(t)))
		_, err = ex.Wait(testContext(t))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return open() <= before }, time.Minute, time.Millisecond, "descriptors: %d before", before)
}
