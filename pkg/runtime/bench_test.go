package runtime

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/vmm"
	"github.com/stretchr/testify/require"
)

// The benchmarks report "vms": milliseconds of the clock they run under, which
// in the rig counts instructions, a million to the millisecond. `make bench`
// runs them there. ns/op says the same for whole iterations, set-up included.

func vms(b *testing.B, total time.Duration, name string) {
	b.ReportMetric(total.Seconds()*1e3/float64(b.N), name)
}

// phases adds up how long each phase of a list of timings took.
type phases map[string]time.Duration

func (p phases) add(list []Timing) {
	for i, t := range list[1:] {
		p[t.Phase] += time.Duration(t.At - list[i].At)
	}
}

func (p phases) report(b *testing.B) {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		vms(b, p[name], name+"-vms")
	}
}

// BenchmarkBootReady is from the start of the VMM process to the agent's being
// ready, for a guest of one CPU and 256 MiB.
func BenchmarkBootReady(b *testing.B) {
	rt := newGuestRuntime(b)
	ctx := b.Context()
	var total time.Duration
	var private float64
	p, exits := phases{}, map[string]uint64{}
	for range b.N {
		box, err := rt.Create(ctx, smallBox(b), "")
		require.NoError(b, err)
		require.NoError(b, box.Start(ctx))
		private += vmmPrivate(b, box)
		list := box.Timings()
		at := make(map[string]int64)
		for _, t := range list {
			at[t.Phase] = t.At
		}
		total += time.Duration(at[PhaseReady] - at[PhaseSpawned])
		p.add(list)
		require.NoError(b, box.Stop(ctx))
		for k, n := range box.lastReport().Exits {
			exits[k] += n
		}
	}
	vms(b, total, "vms")
	b.ReportMetric(private/float64(b.N), "vmm-MiB")
	p.report(b)
	for _, k := range slices.Sorted(maps.Keys(exits)) {
		b.ReportMetric(float64(exits[k])/float64(b.N), k+"-exits")
	}
}

// BenchmarkRunTrue is `boxlite run IMAGE true`, from the start of the process to
// its end.
func BenchmarkRunTrue(b *testing.B) { runTrue(b) }

// BenchmarkRunTrueVolume is BenchmarkRunTrue with a folder of the host mounted.
func BenchmarkRunTrueVolume(b *testing.B) { runTrue(b, "-v", b.TempDir()+":/v") }

// BenchmarkRunTrueVolumes is BenchmarkRunTrue with sixteen of them.
func BenchmarkRunTrueVolumes(b *testing.B) {
	var flags []string
	for i := range 16 {
		flags = append(flags, "-v", fmt.Sprintf("%s:/v/%d", b.TempDir(), i))
	}
	runTrue(b, flags...)
}

func runTrue(b *testing.B, flags ...string) {
	program := machinetest.Boxlite(b)
	image := machinetest.Image(b, "busybox")
	var total time.Duration
	p := phases{}
	run := func(measured bool) {
		args := slices.Concat([]string{"run", "--rm", "--timings", "--cpus", "1", "--memory", "256"}, flags, []string{image, "true"})
		cmd := exec.Command(program, args...)
		cmd.Env = append(os.Environ(), "BOXLITE_HOME="+sharedHome(b))
		var errs bytes.Buffer
		cmd.Stderr = &errs
		start := vmm.Now()
		err := cmd.Run()
		end := vmm.Now()
		require.NoError(b, err, "%s", &errs)
		if measured {
			total += time.Duration(end - start)
			p.add(append(append([]Timing{{"", start}}, parseTimings(b, errs.String())...), Timing{"exit", end}))
		}
	}
	run(false) // the image and the built-in kernel are unpacked once
	b.ResetTimer()
	for range b.N {
		run(true)
	}
	vms(b, total, "vms")
	p.report(b)
}

func parseTimings(b *testing.B, text string) (out []Timing) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "timing" {
			at, err := strconv.ParseInt(f[2], 10, 64)
			require.NoError(b, err)
			out = append(out, Timing{f[1], at})
		}
	}
	require.NotEmpty(b, out, text)
	return out
}

// BenchmarkExecTrue is one command in a running box, from the call to its result.
func BenchmarkExecTrue(b *testing.B) {
	rt := newGuestRuntime(b)
	ctx := b.Context()
	box, err := rt.Create(ctx, smallBox(b), "")
	require.NoError(b, err)
	require.NoError(b, box.Start(ctx))
	once := func() {
		ex, err := box.Run(ctx, Command("true").WithStdin(false))
		require.NoError(b, err)
		r, err := ex.Wait(ctx)
		require.NoError(b, err)
		require.True(b, r.Success())
	}
	once()
	b.ResetTimer()
	start := time.Now()
	for range b.N {
		once()
	}
	vms(b, time.Since(start), "vms")
	b.StopTimer()
	require.NoError(b, box.Stop(ctx))
}

// BenchmarkStream is a megabyte out of a box.
func BenchmarkStream(b *testing.B) {
	rt := newGuestRuntime(b)
	ctx := b.Context()
	box, err := rt.Create(ctx, smallBox(b), "")
	require.NoError(b, err)
	const size = 1 << 20
	b.SetBytes(size)
	ex, err := box.Run(ctx, Command("cat", "/dev/zero").WithStdin(false))
	require.NoError(b, err)
	out := ex.Stdout()
	_, err = io.CopyN(io.Discard, out, size)
	require.NoError(b, err)
	b.ResetTimer()
	start := time.Now()
	_, err = io.CopyN(io.Discard, out, int64(b.N)*size)
	require.NoError(b, err)
	vms(b, time.Since(start), "vms")
	b.StopTimer()
	require.NoError(b, box.Stop(ctx))
}

// vmmPrivate is the private memory of a box's VMM without the guest's RAM, in MiB.
func vmmPrivate(t testing.TB, b *LiteBox) float64 {
	i, err := b.Info(t.Context())
	require.NoError(t, err)
	text, err := os.ReadFile("/proc/" + strconv.Itoa(i.PID) + "/smaps")
	require.NoError(t, err)
	var private, area int64
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Size:":
			area = kib
		case "Private_Clean:", "Private_Dirty:":
			if area != int64(b.opts.MemoryMiB)<<10 { // the guest's RAM is one mapping
				private += kib
			}
		}
	}
	require.Positive(t, private)
	return float64(private) / 1024
}

// TestGuestVMMMemory holds the VMM to its bound on memory beside the guest's.
func TestGuestVMMMemory(t *testing.T) {
	rt := newGuestRuntime(t)
	ctx := testContext(t)
	box, err := rt.Create(ctx, smallBox(t), "")
	require.NoError(t, err)
	out, _, _ := output(t, box, sh("dd if=/dev/zero bs=1M count=32 2>/dev/null | wc -c; find / -xdev > /dev/null"))
	require.Equal(t, "33554432\n", out)
	require.Less(t, vmmPrivate(t, box), 20.0, "MiB")
	require.NoError(t, box.Stop(ctx))
}
