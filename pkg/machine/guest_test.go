package machine

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/stretchr/testify/require"
)

// testTimeout ends a test that hangs. It says nothing about speed: the rig is slow.
const testTimeout = 5 * time.Minute

// output is a serial sink that tests can look at while the guest runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func openFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestGuestLinux boots the guest kernel with one and with several CPUs until it
// panics for want of a root.
func TestGuestLinux(t *testing.T) {
	for _, cpus := range []int{1, 2} {
		var out output
		m, err := New(Config{
			CPUs: cpus, MemoryMiB: 256, Kernel: openFile(t, machinetest.Kernel(t)), Serial: &out,
			Cmdline: "console=ttyS0 loglevel=7 reboot=t panic=-1",
		})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		o, err := m.Run(ctx)
		cancel()
		require.NoError(t, err, out.String())
		require.Equal(t, hv.ExitShutdown, o.Reason, out.String())
		require.NoError(t, m.Close())
		require.Contains(t, out.String(), "Kernel panic - not syncing: VFS: Unable to mount root fs")
		require.Regexp(t, regexp.MustCompile(`Brought up 1 node, `+string(rune('0'+cpus))+` CPU|smp: Brought up`), out.String())
		require.NotZero(t, m.Stats().Exits["pio"])
	}
}

// TestHostile24GuestKilledWithoutHelp runs guests that a VMM cannot wait for on
// real hardware: a CPU halted with interrupts off, one that faults three times,
// and one that spins.
func TestHostile24GuestKilledWithoutHelp(t *testing.T) {
	machinetest.Need(t)
	for name, c := range map[string]struct {
		code []byte
		want hv.Reason // how it ends by itself; ExitKicked if it does not
	}{
		"halted with interrupts off": {[]byte{0xfa, 0xf4, 0xeb, 0xfd}, hv.ExitKicked},   // cli; hlt; jmp -3
		"spinning":                   {[]byte{0xeb, 0xfe}, hv.ExitKicked},               // jmp self
		"endless port writes":        {[]byte{0xe6, 0x80, 0xeb, 0xfc}, hv.ExitKicked},   // out 0x80; jmp -4
		"triple fault":               {[]byte{0x0f, 0x0b, 0xeb, 0xfc}, hv.ExitShutdown}, // ud2 without an IDT
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "vmlinux")
			require.NoError(t, os.WriteFile(path, pvhELF(c.code), 0o600))
			m, err := New(Config{CPUs: 1, MemoryMiB: 32, Kernel: openFile(t, path)})
			require.NoError(t, err)
			defer m.Close()
			ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
			defer cancel()
			if c.want == hv.ExitKicked {
				time.AfterFunc(200*time.Millisecond, m.Stop)
			}
			o, err := m.Run(ctx)
			require.NoError(t, err)
			require.NoError(t, ctx.Err(), "it had to be ended by the test's limit")
			require.Equal(t, c.want, o.Reason)
		})
	}
}

// TestGuestOtherKernels boots from a kernel's command line what it prints first,
// which shows that the command line arrives whole.
func TestGuestCommandLine(t *testing.T) {
	var out output
	long := strings.Repeat("x", 1200)
	m, err := New(Config{
		CPUs: 1, MemoryMiB: 64, Kernel: openFile(t, machinetest.Kernel(t)), Serial: &out,
		Cmdline: "console=ttyS0 loglevel=7 reboot=t panic=-1 end=" + long,
	})
	require.NoError(t, err)
	defer m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	_, err = m.Run(ctx)
	require.NoError(t, err)
	require.Contains(t, strings.ReplaceAll(out.String(), "\r", ""), "end="+long[:100])
}
