package machine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/boot/x86"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestRunEnds(t *testing.T) {
	for _, reason := range []hv.Reason{hv.ExitShutdown, hv.ExitReset, hv.ExitHalt} {
		m, _ := newFake(t, Config{CPUs: 3}, func(cpu int, c *fakeCPU, e *hv.Exit) {
			if cpu != 1 {
				c.untilKicked(e)
				return
			}
			*e = hv.Exit{Reason: reason}
		})
		o, err := m.Run(context.Background())
		require.NoError(t, err)
		require.Equal(t, reason, o.Reason)
		require.Equal(t, 1, o.CPU)
		_, err = m.Run(context.Background())
		require.ErrorContains(t, err, "before")
	}
}

func TestRunFails(t *testing.T) {
	m, _ := newFake(t, Config{}, func(_ int, _ *fakeCPU, e *hv.Exit) {
		*e = hv.Exit{Reason: hv.ExitFailed, Raw: 17, Detail: 1}
	})
	o, err := m.Run(context.Background())
	require.ErrorContains(t, err, "code 17")
	require.Equal(t, hv.ExitFailed, o.Reason)
	require.Equal(t, []string{"cpu0 failed"}, m.LastExits())
	require.Equal(t, map[string]uint64{"failed": 1}, m.Stats().Exits)
}

func TestResetByKeyboardController(t *testing.T) {
	m, _ := newFake(t, Config{}, func(_ int, _ *fakeCPU, e *hv.Exit) {
		*e = hv.Exit{Reason: hv.ExitPIO, Write: true, Width: 1, Addr: 0x64, Data: []byte{0xfe}}
	})
	o, err := m.Run(context.Background())
	require.NoError(t, err)
	require.Equal(t, hv.ExitReset, o.Reason)
}

func TestSerial(t *testing.T) {
	var out bytes.Buffer
	m, _ := newFake(t, Config{Serial: &out}, func(_ int, c *fakeCPU, e *hv.Exit) {
		if c.step > 0 {
			*e = hv.Exit{Reason: hv.ExitShutdown}
			return
		}
		*e = hv.Exit{Reason: hv.ExitPIO, Write: true, Width: 1, Addr: 0x3f8, Data: []byte("hello")} // rep outsb
	})
	_, err := m.Run(context.Background())
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.Equal(t, "hello", out.String())
	require.EqualValues(t, 5, m.Stats().Serial)
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no CPU":      {Config{CPUs: 0, MemoryMiB: 64}, "0 CPUs: choose 1 to 64"},
		"many CPUs":   {Config{CPUs: 1000, MemoryMiB: 64}, "1000 CPUs: choose 1 to 64"},
		"tiny memory": {Config{CPUs: 1, MemoryMiB: 1}, "1 MiB of memory: choose"},
		"huge memory": {Config{CPUs: 1, MemoryMiB: 1 << 20}, "1048576 MiB of memory: choose"},
		"no kernel":   {Config{CPUs: 1, MemoryMiB: 64}, "no kernel"},
	} {
		_, err := New(c.cfg)
		require.ErrorContains(t, err, c.want, name)
	}
}

// TestNewUndoesItself lets each step of building a machine fail in turn.
func TestNewUndoesItself(t *testing.T) {
	defer goleak.VerifyNone(t)
	boom := errors.New("boom")
	f := &fakeHV{}
	_, err := New(Config{CPUs: 1, MemoryMiB: 64, Kernel: tinyKernel(t), Open: func() (hv.Hypervisor, error) { return nil, boom }})
	require.ErrorIs(t, err, boom)
	_, err = New(Config{
		CPUs: 2, MemoryMiB: 64, Kernel: tinyKernel(t), Cmdline: string(make([]byte, 1<<16)),
		Open: func() (hv.Hypervisor, error) { return fakeRoot{f}, nil },
	})
	require.Error(t, err)
	require.Zero(t, f.open)
}

func TestStopBeforeRun(t *testing.T) {
	m, _ := newFake(t, Config{}, func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) })
	m.Stop()
	o, err := m.Run(context.Background())
	require.NoError(t, err)
	require.Equal(t, hv.ExitKicked, o.Reason)
}

// TestHostile18AccessWidths touches every register of every slot, and what lies
// around them, with every width and alignment.
func TestHostile18AccessWidths(t *testing.T) {
	m, _ := newFake(t, Config{}, func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) })
	for width := 1; width <= 8; width++ {
		for port := uint64(0); port < 0x500; port++ {
			p := make([]byte, width)
			m.bus.port(&hv.Exit{Reason: hv.ExitPIO, Width: width, Addr: port, Data: p})
			if port < 0x60 || port > 0x400 {
				require.Equal(t, bytes.Repeat([]byte{0xff}, width), p, "port %#x", port)
			}
			if port != portI8042Status {
				m.bus.port(&hv.Exit{Reason: hv.ExitPIO, Write: true, Width: width, Addr: port, Data: p})
			}
		}
		for off := uint64(0); off < 2*x86.VirtioSize; off++ {
			p := make([]byte, width)
			m.bus.readMMIO(x86.VirtioBase+off, p)
			require.Equal(t, bytes.Repeat([]byte{0xff}, width), p)
			m.bus.writeMMIO(x86.VirtioBase+off, p)
		}
	}
}

// TestHostile19UnassignedAddresses reads and writes every page of the hole below
// 4 GiB, and looks at the log afterwards.
func TestHostile19UnassignedAddresses(t *testing.T) {
	var log bytes.Buffer
	m, _ := newFake(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) })
	var p [8]byte
	for addr := uint64(x86.HoleBase); addr < x86.HighBase; addr += 0x1000 {
		clear(p[:])
		m.bus.readMMIO(addr, p[:])
		require.Equal(t, [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, p)
		m.bus.writeMMIO(addr, p[:])
	}
	m.bus.readMMIO(^uint64(0)-3, p[:]) // wraps
	require.LessOrEqual(t, bytes.Count(log.Bytes(), []byte("\n")), warnings, "the guest must not fill the log")
}

// TestHostile24StuckGuest stops guests that do nothing and guests that never
// stop exiting.
func TestHostile24StuckGuest(t *testing.T) {
	defer goleak.VerifyNone(t)
	for name, script := range map[string]func(int, *fakeCPU, *hv.Exit){
		"halted": func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) },
		"endless I/O": func(_ int, _ *fakeCPU, e *hv.Exit) {
			*e = hv.Exit{Reason: hv.ExitPIO, Write: true, Width: 1, Addr: 0x80, Data: []byte{0}}
		},
		"endless MMIO": func(_ int, _ *fakeCPU, e *hv.Exit) {
			*e = hv.Exit{Reason: hv.ExitMMIO, Addr: 1 << 40, Data: make([]byte, 4)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := newFake(t, Config{CPUs: 4}, script)
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan Outcome)
			go func() {
				o, _ := m.Run(ctx)
				ended <- o
			}()
			cancel()
			select {
			case o := <-ended:
				require.Equal(t, hv.ExitKicked, o.Reason)
			case <-time.After(30 * time.Second):
				t.Fatal("the machine does not stop")
			}
			require.NoError(t, m.Close())
		})
	}
}

func TestExitsDoNotAllocate(t *testing.T) {
	m, _ := newFake(t, Config{}, func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) })
	e := &hv.Exit{Reason: hv.ExitPIO, Write: true, Width: 1, Addr: 0x80, Data: []byte{1}}
	p := make([]byte, 4)
	c := m.cpus[0]
	require.Zero(t, testing.AllocsPerRun(100, func() {
		c.stats.count(e.Reason)
		c.trace.add(e)
		m.bus.port(e)
		m.bus.readMMIO(1<<40, p)
	}))
}

func BenchmarkExitPIO(b *testing.B) {
	m, _ := newFake(b, Config{}, func(_ int, c *fakeCPU, e *hv.Exit) { c.untilKicked(e) })
	e := &hv.Exit{Reason: hv.ExitPIO, Write: true, Width: 1, Addr: 0x80, Data: []byte{1}}
	b.ReportAllocs()
	for b.Loop() {
		m.cpus[0].stats.count(e.Reason)
		m.cpus[0].trace.add(e)
		m.bus.port(e)
	}
}
