package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// crashEnv makes this test binary a program that takes a box through its life until
// it crashes; see crashWork.
const crashEnv = "BOXLITE_TEST_CRASH"

// victim is what is killed at a step.
type victim string

const (
	victimCaller victim = "caller"
	victimVMM    victim = "VMM"
	victimBoth   victim = "both"
	victimHost   victim = "host" // both, and a later boot of the host has other processes with their numbers
)

// crashSteps are the steps of a box's life: whether one that is kept has them, and one
// that goes when it stops, and whether there is a VM process then.
var crashSteps = []struct {
	at             step
	kept, gone, vm bool
}{
	{stepInsert, true, false, false}, {stepCreated, true, true, false}, {stepLocked, true, true, false}, {stepFiles, true, true, false},
	{stepSpawned, true, true, true}, {stepStarted, true, true, true}, {stepReady, true, true, true}, {stepExecuting, true, false, true},
	{stepAsked, true, true, true}, {stepStopping, true, true, true}, {stepEnded, true, true, false},
	{stepKilling, true, false, true}, {stepTaken, false, true, false}, {stepEmptied, true, true, false}, {stepDeleted, true, true, false},
}

const crashBox = "crash"

// crashWork makes a box, starts it, runs a command, stops it, and (kept) starts it
// again and removes it by force. At the step that arg names it kills what arg names;
// if that is not itself, it goes on as well as it can. It says what is acknowledged.
func crashWork(arg string) error {
	part := strings.Split(arg, "|")
	home, at, who, keep := part[0], step(part[1]), victim(part[2]), part[3] == "keep"
	ctx := context.Background()
	rt, err := New(Options{HomeDir: home})
	if err != nil {
		return err
	}
	if at == stepKilling || at == stepEmptied || at == stepDeleted {
		fmt.Println("doomed") // removed, or about to be
	}
	rt.reached = func(s step) {
		if s != at {
			return
		}
		fmt.Println("reached")
		if who != victimCaller {
			list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range list {
				if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), "boxlite-vmm:") {
					var pid int
					fmt.Sscanf(f, "/proc/%d/", &pid)
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
		if who != victimVMM {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	opts := BoxOptions{CPUs: 1, MemoryMiB: 128, Rootfs: Image(os.Getenv("BOXLITE_TEST_IMAGES") + "/busybox"), KeepOnStop: keep}
	box, err := rt.Create(ctx, opts, crashBox)
	if err != nil {
		return err
	}
	fmt.Println("created")
	if err := box.Start(ctx); err != nil {
		return err
	}
	ex, err := box.Run(ctx, sh("echo kept > /data && sync /data"))
	if err != nil {
		return err
	}
	if r, err := ex.Wait(ctx); err != nil || !r.Success() {
		return fmt.Errorf("%v %w", r, err)
	}
	fmt.Println("wrote")
	if at == stepKilling || keep && (at == stepEmptied || at == stepDeleted) {
		return rt.Remove(ctx, crashBox, true)
	}
	return box.Stop(ctx)
}

// TestGuestCrashAtEachStep kills who made each step of a box's life, the box's VM, or
// both, or lets the host go down, and looks whether what is left is the truth: no
// process, folder or row too much, what was acknowledged is there, and the box can
// be used again.
func TestGuestCrashAtEachStep(t *testing.T) {
	machinetest.Need(t)
	home := sharedHome(t)
	for _, c := range crashSteps {
		for _, who := range []victim{victimCaller, victimVMM, victimBoth, victimHost} {
			if !c.vm && (who == victimVMM || who == victimHost) {
				continue // it is as with the caller alone
			}
			if c.kept {
				t.Run(fmt.Sprintf("%s/%s", c.at, who), func(t *testing.T) { crash(t, home, c.at, who, true) })
			}
			if c.gone && (who == victimCaller || who == victimBoth) {
				t.Run(fmt.Sprintf("%s/%s/ephemeral", c.at, who), func(t *testing.T) { crash(t, home, c.at, who, false) })
			}
		}
	}
}

// crash is one case.
func crash(t *testing.T, home string, at step, who victim, keep bool) {
	exe, err := os.Executable()
	require.NoError(t, err)
	kind := "ephemeral"
	if keep {
		kind = "keep"
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashEnv+"="+strings.Join([]string{home, string(at), string(who), kind}, "|"))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	said := strings.Fields(string(out))
	require.Contains(t, said, "reached", "%s", &errs)
	var exit *exec.ExitError
	if who == victimVMM {
		require.NotRegexp(t, `(?m)^(panic|fatal error): `, errs.String())
	} else {
		require.ErrorAs(t, err, &exit)
		require.Equal(t, unix.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
	}

	ctx := testContext(t)
	rt, err := New(Options{HomeDir: home})
	require.NoError(t, err)
	defer func() {
		require.NoError(t, rt.Close())
		requireClean(t, home)
	}()
	if who == victimHost {
		reboot(t, rt)
	}
	// A VM that was not killed ends with its caller; until then its box may be running.
	require.Eventually(t, func() bool {
		list, err := rt.ListInfo(ctx)
		return err == nil && !slices.ContainsFunc(list, func(i BoxInfo) bool { return i.Status.IsActive() }) && len(vmmProcesses(t)) == 0
	}, testTimeout, 10*time.Millisecond, "a VM outlives its caller")
	info, err := rt.GetInfo(ctx, crashBox)
	switch {
	case !keep, at == stepInsert, at == stepDeleted, who == victimVMM && slices.Contains(said, "doomed"):
		require.ErrorIs(t, err, ErrNotFound)
		require.NoError(t, rt.sweep(ctx))
		return
	}
	require.NoError(t, err, "acknowledged and lost")
	require.Zero(t, info.PID)
	if slices.Contains([]step{stepCreated, stepLocked, stepFiles, stepSpawned}, at) && who != victimVMM {
		require.Equal(t, StatusConfigured, info.Status, "it was never recorded as started")
	}
	if at == stepEmptied { // half removed: all that is left is the rest of the removal
		require.NoError(t, rt.Remove(ctx, crashBox, false))
		return
	}
	box, err := rt.Get(ctx, crashBox)
	require.NoError(t, err)
	if who == victimBoth { // that of the others is no different
		text, _, r := output(t, box, sh("cat /data"))
		if slices.Contains(said, "wrote") {
			require.Equal(t, "kept\n", text, "written, acknowledged and lost")
		} else if !r.Success() {
			require.Empty(t, text)
		}
		require.NoError(t, box.Stop(ctx))
	}
	require.NoError(t, rt.Remove(ctx, crashBox, false))
}

// reboot makes the rows those of an earlier boot of the host, whose processes' numbers
// have been given to others since.
func reboot(t testing.TB, rt *Runtime) {
	pid := child(t)
	db, err := rt.state(context.Background())
	require.NoError(t, err)
	rows, err := db.List(context.Background())
	require.NoError(t, err)
	for _, row := range rows {
		_, err := db.Update(context.Background(), row.ID, func(b *state.Box) error {
			if b.PID != 0 {
				b.PID, b.PIDStart, b.BootID = pid, vmm.StartTime(pid), "00000000-0000-0000-0000-000000000000"
			}
			return nil
		})
		if !errors.Is(err, state.ErrNotFound) {
			require.NoError(t, err)
		}
	}
}
