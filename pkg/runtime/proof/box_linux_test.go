package proof

import (
	"bufio"
	"bytes"
	"context"
	"embed"
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
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

//go:embed testdata/*.py
var scripts embed.FS

// guard ends a test that hangs. It says nothing about speed: the rig is slow.
const guard = 30 * time.Minute

func guarded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), guard)
	t.Cleanup(cancel)
	return ctx
}

// box starts a box of an image, and checks at the end of the test that nothing of
// it is left.
func box(t *testing.T, image string, change func(*runtime.BoxOptions)) *runtime.LiteBox {
	t.Helper()
	ctx := guarded(t)
	home := machinetest.Home(t)
	rt, err := runtime.New(runtime.Options{HomeDir: home})
	require.NoError(t, err)
	opts := runtime.BoxOptions{CPUs: 1, MemoryMiB: 512, Rootfs: runtime.Image(machinetest.LargeImage(t, image))}
	if change != nil {
		change(&opts)
	}
	b, err := rt.Create(ctx, opts, "")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, rt.Remove(ctx, string(b.ID()), true))
		require.NoError(t, rt.Close())
		left, err := filepath.Glob(filepath.Join(home, "boxes", "*"))
		require.NoError(t, err)
		require.Empty(t, left, "box folders left")
	})
	require.NoError(t, b.Start(ctx))
	return b
}

// output runs a command in a box, which must succeed, and returns what it printed.
func output(t *testing.T, b *runtime.LiteBox, cmd runtime.BoxCommand) string {
	t.Helper()
	ctx := guarded(t)
	ex, err := b.Run(ctx, cmd.WithStdin(false))
	require.NoError(t, err)
	var stdout, stderr bytes.Buffer
	var wait sync.WaitGroup
	wait.Go(func() { io.Copy(&stdout, ex.Stdout()) })
	wait.Go(func() { io.Copy(&stderr, ex.Stderr()) })
	wait.Wait()
	r, err := ex.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, r.ExitCode, "%q: %s%s", cmd.Args(), stdout.String(), stderr.String())
	return stdout.String()
}

// talk is a command that runs, with which a test speaks line by line.
type talk struct {
	ex    *runtime.Execution
	stdin io.WriteCloser
	lines *bufio.Reader
	errs  bytes.Buffer
	wait  sync.WaitGroup
}

func start(t *testing.T, b *runtime.LiteBox, cmd runtime.BoxCommand) *talk {
	t.Helper()
	ex, err := b.Run(guarded(t), cmd.WithStdin(true))
	require.NoError(t, err)
	k := &talk{ex: ex, stdin: ex.Stdin(), lines: bufio.NewReader(ex.Stdout())}
	k.wait.Go(func() { io.Copy(&k.errs, ex.Stderr()) })
	return k
}

// line is the next line that the command prints.
func (k *talk) line(t *testing.T) string {
	t.Helper()
	line, err := k.lines.ReadString('\n')
	if err != nil {
		k.wait.Wait()
		require.NoError(t, err, k.errs.String())
	}
	return strings.TrimSuffix(line, "\n")
}

// end waits for the command, which must succeed and print no more.
func (k *talk) end(t *testing.T) {
	t.Helper()
	k.stdin.Close()
	rest, err := io.ReadAll(k.lines)
	require.NoError(t, err)
	require.Empty(t, string(rest))
	k.wait.Wait()
	r, err := k.ex.Wait(guarded(t))
	require.NoError(t, err)
	require.Zero(t, r.ExitCode, k.errs.String())
}

// sh is a script in a box that ends at the first failure.
func sh(format string, args ...any) runtime.BoxCommand {
	return runtime.Command("sh", "-ec", fmt.Sprintf(format, args...))
}

// python is a script of testdata with its arguments.
func python(t *testing.T, script string, args ...any) runtime.BoxCommand {
	t.Helper()
	text, err := scripts.ReadFile("testdata/" + script)
	require.NoError(t, err)
	cmd := runtime.Command("python3", "-c", string(text))
	for _, a := range args {
		cmd = cmd.Arg(fmt.Sprint(a))
	}
	return cmd
}

// vmm is the process of a box's VM.
func vmm(t *testing.T, b *runtime.LiteBox) int {
	t.Helper()
	i, err := b.Info(guarded(t))
	require.NoError(t, err)
	require.NotZero(t, i.PID)
	return i.PID
}

// descriptors counts the open files of a process.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// ownMemory is what a VMM uses besides its guest's RAM, which is one mapping, in MiB.
func ownMemory(t *testing.T, b *runtime.LiteBox) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", vmm(t, b)))
	require.NoError(t, err)
	ram, area, private := b.Options().MemoryMiB<<10, 0, 0
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "Size:":
			area = kib
		case "Private_Clean:", "Private_Dirty:":
			if area != ram {
				private += kib
			}
		}
	}
	require.Positive(t, private)
	return private >> 10
}
