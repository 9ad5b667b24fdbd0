package runtime

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// soakEnv makes this test binary a program that works on a home until it is
// killed; machinetest.SoakEnv says how often the test kills, and soakSeed repeats the
// choices of an earlier run: what is killed and when, and what the program does.
const (
	soakEnv  = "BOXLITE_TEST_SOAK_HOME"
	soakSeed = "BOXLITE_SOAK_SEED"
)

// soakBox is the box whose disk must keep what was acknowledged.
const soakBox = "soak"

// soakWork is the program: it writes numbers into the box, and makes and removes
// other boxes, for ever. A line on standard output says what is done and must
// last from then on; one that ends in "…" what is about to be done.
func soakWork(home string) error {
	ctx := context.Background()
	rt, err := New(Options{HomeDir: home, StopGrace: time.Second})
	if err != nil {
		return err
	}
	opts := BoxOptions{CPUs: 1, MemoryMiB: 128, Rootfs: Image(os.Getenv("BOXLITE_TEST_IMAGES") + "/busybox"), KeepOnStop: true}
	box, err := rt.Get(ctx, soakBox)
	if errors.Is(err, ErrNotFound) {
		box, err = rt.Create(ctx, opts, soakBox)
	}
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(os.Getenv(soakSeed), 10, 64)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; ; i++ {
		n := fmt.Sprintf("%d.%d", os.Getpid(), i)
		ex, err := box.Run(ctx, sh("echo "+n+" >> /data && sync /data").WithStdin(false))
		if err != nil {
			return err
		}
		if res, err := ex.Wait(ctx); err != nil || !res.Success() {
			return fmt.Errorf("write %s: %v %w", n, res, err)
		}
		fmt.Println("wrote", n)
		switch r.IntN(4) {
		case 0:
			name := "other-" + strings.ReplaceAll(n, ".", "-")
			if _, err := rt.Create(ctx, opts, name); err != nil {
				return err
			}
			fmt.Println("created", name)
			if r.IntN(2) == 0 {
				fmt.Println("removing…", name)
				if err := rt.Remove(ctx, name, true); err != nil {
					return err
				}
				fmt.Println("removed", name)
			}
		case 1:
			if err := box.Stop(ctx); err != nil {
				return err
			}
		}
	}
}

// soakSeen is what was acknowledged so far.
type soakSeen struct {
	mu    sync.Mutex
	wrote []string
	boxes map[string]string // name to "created", "removing…" or "removed"
	lines int
}

func (s *soakSeen) read(r io.Reader) {
	for in := bufio.NewScanner(r); in.Scan(); {
		what, name, _ := strings.Cut(in.Text(), " ")
		s.mu.Lock()
		s.lines++
		if what == "wrote" {
			s.wrote = append(s.wrote, name)
		} else {
			s.boxes[name] = what
		}
		s.mu.Unlock()
	}
}

// TestGuestSoak kills a program that uses boxes, its VM process, or both, at
// random moments, and looks each time whether what is left is the truth, nothing
// is orphaned, and all that was acknowledged is there.
func TestGuestSoak(t *testing.T) {
	machinetest.Need(t)
	rounds := 6
	if s := os.Getenv(machinetest.SoakEnv); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(soakSeed); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("%s=%d", soakSeed, seed)
	random := rand.New(rand.NewPCG(seed, 2))
	home := t.TempDir()
	seen := &soakSeen{boxes: map[string]string{}}
	for round := range rounds {
		soakKill(t, home, seen, random)
		soakCheck(t, home, seen, round%4 == 3 || round == rounds-1)
		if testing.Verbose() {
			t.Logf("round %d: %d writes, %d boxes", round, len(seen.wrote), len(seen.boxes))
		}
	}
	rt, err := New(Options{HomeDir: home})
	require.NoError(t, err)
	defer rt.Close()
	boxes, err := rt.ListInfo(testContext(t))
	require.NoError(t, err)
	for _, b := range boxes {
		require.NoError(t, rt.Remove(testContext(t), string(b.ID), true))
	}
	requireClean(t, home)
	t.Logf("%d rounds, %d writes, %d boxes", rounds, len(seen.wrote), len(seen.boxes))
}

// soakKill runs the program for a while and ends it by force.
func soakKill(t *testing.T, home string, seen *soakSeen, random *rand.Rand) {
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), soakEnv+"="+home, fmt.Sprintf("%s=%d", soakSeed, random.Uint64()))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	seen.mu.Lock()
	before := seen.lines
	seen.mu.Unlock()
	require.NoError(t, cmd.Start())
	read := make(chan struct{})
	go func() { defer close(read); seen.read(out) }()
	// Half of the times in the middle of a boot, else once it is at work.
	if random.IntN(2) == 0 {
		require.Eventually(t, func() bool {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			return seen.lines > before
		}, testTimeout, time.Millisecond, "%s", &errs)
	}
	time.Sleep(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
	victim := random.IntN(3)
	if victim != 0 {
		killVMs(t)
	}
	if victim != 1 {
		cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
		return
	}
	// Only the VM: the program ends with an error of its own. It goes on where there
	// was no VM at the moment, or the one it was stopping.
	for ended := false; !ended; {
		select {
		case <-read:
			ended = true
		case <-time.After(200 * time.Millisecond):
			killVMs(t)
		}
	}
	require.Error(t, cmd.Wait())
	require.NotRegexp(t, `(?m)^(panic|fatal error): `, errs.String())
}

func killVMs(t testing.TB) {
	for pid := range vmmProcesses(t) {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// soakCheck looks at the home as the next user of it does.
func soakCheck(t *testing.T, home string, seen *soakSeen, data bool) {
	require.Eventually(t, func() bool { return len(vmmProcesses(t)) == 0 }, testTimeout, 10*time.Millisecond, "a VM outlives its caller")
	ctx := testContext(t)
	rt, err := New(Options{HomeDir: home, StopGrace: time.Second})
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.Close()) }()
	boxes, err := rt.ListInfo(ctx)
	require.NoError(t, err)
	var names []string
	for _, b := range boxes {
		names = append(names, b.Name)
		require.True(t, b.Status.IsStopped() || b.Status.IsConfigured(), "%s is %s", b.Name, b.Status)
		require.Zero(t, b.PID)
	}
	for name, state := range seen.boxes {
		if state != "removing…" {
			require.Equal(t, state == "created", slices.Contains(names, name), "%s was %s", name, state)
		}
	}
	folders, err := filepath.Glob(filepath.Join(home, "boxes", "*"))
	require.NoError(t, err)
	for _, f := range folders {
		require.True(t, slices.ContainsFunc(boxes, func(b BoxInfo) bool { return string(b.ID) == filepath.Base(f) }), "%s belongs to no box", f)
	}
	if !data || len(seen.wrote) == 0 {
		return
	}
	box, err := rt.Get(ctx, soakBox)
	require.NoError(t, err)
	out, _, _ := output(t, box, sh("cat /data"))
	have := strings.Fields(out)
	for _, n := range seen.wrote {
		require.Contains(t, have, n, "written, acknowledged and lost")
	}
	require.NoError(t, box.Stop(ctx))
}
