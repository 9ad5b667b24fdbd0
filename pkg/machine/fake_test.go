package machine

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
	"github.com/stretchr/testify/require"
)

// fakeHV is a hypervisor whose vCPUs do what a script says. It takes the place
// of the hardware where a test is about the machine around it.
type fakeHV struct {
	script func(cpu int, c *fakeCPU, e *hv.Exit) // fills the next exit; may block until kicked
	mu     sync.Mutex
	open   int // VMs and vCPUs not yet closed
	mapped []guestmem.Region
	irqs   []uint32
}

func (f *fakeHV) Name() string                   { return "fake" }
func (f *fakeHV) Close() error                   { return nil }
func (f *fakeHV) NewVM(hv.Config) (hv.VM, error) { f.count(1); return f, nil }
func (f *fakeHV) Map(r guestmem.Region) error    { f.mapped = append(f.mapped, r); return nil }
func (f *fakeHV) Unmap(guestmem.GPA) error       { return nil }
func (f *fakeHV) NewVCPU(id int) (hv.VCPU, error) {
	f.count(1)
	return &fakeCPU{hv: f, id: id, kicked: make(chan struct{}, 1)}, nil
}

func (f *fakeHV) SetIRQ(line uint32, level bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if level {
		f.irqs = append(f.irqs, line)
	}
	return nil
}

func (f *fakeHV) count(n int) {
	f.mu.Lock()
	f.open += n
	f.mu.Unlock()
}

// fakeVM closes separately from the hypervisor in real backends; here both are
// one, and closing the VM is counted by the wrapper below.
type fakeVM struct{ *fakeHV }

func (v fakeVM) Close() error { v.count(-1); return nil }

type fakeRoot struct{ *fakeHV }

func (r fakeRoot) NewVM(c hv.Config) (hv.VM, error) {
	_, err := r.fakeHV.NewVM(c)
	return fakeVM(r), err
}

type fakeCPU struct {
	hv     *fakeHV
	id     int
	step   int
	kicked chan struct{}
	entry  hv.Entry
}

func (c *fakeCPU) SetEntry(e hv.Entry) error { c.entry = e; return nil }
func (c *fakeCPU) Close() error              { c.hv.count(-1); return nil }

func (c *fakeCPU) Kick() error {
	select {
	case c.kicked <- struct{}{}:
	default:
	}
	return nil
}

func (c *fakeCPU) Run(e *hv.Exit) error {
	select {
	case <-c.kicked:
		*e = hv.Exit{Reason: hv.ExitKicked}
		return nil
	default:
	}
	c.hv.script(c.id, c, e)
	c.step++
	return nil
}

// untilKicked is a guest that never leaves by itself.
func (c *fakeCPU) untilKicked(e *hv.Exit) {
	<-c.kicked
	*e = hv.Exit{Reason: hv.ExitKicked}
}

// newFake builds a machine around a script.
func newFake(t testing.TB, cfg Config, script func(int, *fakeCPU, *hv.Exit)) (*Machine, *fakeHV) {
	t.Helper()
	f := &fakeHV{script: script}
	cfg.Open = func() (hv.Hypervisor, error) { return fakeRoot{f}, nil }
	cfg.Kernel = tinyKernel(t)
	if cfg.CPUs == 0 {
		cfg.CPUs = 1
	}
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = 32
	}
	m, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, m.Close())
		require.Zero(t, f.open, "VMs and vCPUs left open")
	})
	return m, f
}

// tinyKernel is the smallest vmlinux with a PVH entry: one page of hlt.
func tinyKernel(t testing.TB) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	require.NoError(t, os.WriteFile(path, pvhELF([]byte{0xf4, 0xeb, 0xfd}), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}
