package hvtest

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

var le = binary.LittleEndian

// Memory of every test guest: RAM from 0 to ramSize, nothing above.
const (
	ramSize     = 1 << 20
	codeAddr    = 0x1000
	handlerAddr = 0x1800
	gdtAddr     = 0x2000
	idtAddr     = 0x3000
	secondAddr  = 0x8000 // what SIPI starts
	stackAddr   = 0xf000
	dataAddr    = 0x10000
	tablesAddr  = 0x40000
)

// patience bounds a Run that ought to return by itself. It only ends tests that fail.
const patience = 60 * time.Second

// machine is a VM with RAM and its first vCPU on the calling thread.
type machine struct {
	t   *testing.T
	hv  hv.Hypervisor
	vm  hv.VM
	mem *guestmem.Memory
	cpu hv.VCPU

	exit    hv.Exit
	guard   *time.Timer
	expired atomic.Bool
}

func newMachine(t *testing.T, s *suite, cpus int) *machine {
	t.Helper()
	m := &machine{t: t, hv: s.open(t)}
	var err error
	m.vm, err = m.hv.NewVM(hv.Config{CPUs: cpus})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.vm.Close()) })
	m.mem, err = guestmem.New(guestmem.Range{Size: ramSize})
	require.NoError(t, err)
	// Cleanups run last to first: vCPU, then memory's VM, then memory.
	vmClose := m.vm
	t.Cleanup(func() {
		require.NoError(t, vmClose.Close())
		require.NoError(t, m.mem.Close())
	})
	for _, r := range m.mem.Regions() {
		require.NoError(t, m.vm.Map(r))
	}
	m.cpu, err = m.vm.NewVCPU(0)
	require.NoError(t, err)
	m.guard = time.AfterFunc(patience, func() {
		m.expired.Store(true)
		_ = m.cpu.Kick()
	})
	t.Cleanup(func() {
		m.guard.Stop()
		require.NoError(t, m.cpu.Close())
	})
	return m
}

// load puts bytes into RAM.
func (m *machine) load(at guestmem.GPA, p []byte) {
	m.t.Helper()
	require.NoError(m.t, m.mem.Write(p, at))
}

// start32 loads code and makes it the next thing to run, in 32-bit mode.
func (m *machine) start32(code []byte, ebx uint64) {
	m.t.Helper()
	m.load(codeAddr, code)
	require.NoError(m.t, m.cpu.SetEntry(hv.Entry{X86: &hv.X86Entry{RIP: codeAddr, RSP: stackAddr, RBX: ebx}}))
}

// start64 is start32 in 64-bit mode, with the first 4 GiB mapped to themselves.
func (m *machine) start64(code []byte, e hv.X86Entry) {
	m.t.Helper()
	m.load(codeAddr, code)
	m.load(tablesAddr, identityTables(tablesAddr))
	e.Long, e.CR3, e.RIP = true, tablesAddr, codeAddr
	require.NoError(m.t, m.cpu.SetEntry(hv.Entry{X86: &e}))
}

// identityTables are page tables, to be loaded at base, of 4 GiB in pages of 2 MiB.
func identityTables(base uint64) []byte {
	const present, large = 3, 1 << 7
	p := make([]byte, 6<<12)
	le.PutUint64(p, base+0x1000|present)
	for i := range uint64(4) {
		le.PutUint64(p[0x1000+8*i:], base+0x2000+i<<12|present)
	}
	for i := range uint64(4 * 512) {
		le.PutUint64(p[0x2000+8*i:], i<<21|present|large)
	}
	return p
}

// run runs the vCPU to its next exit.
func (m *machine) run() *hv.Exit {
	m.t.Helper()
	m.guard.Reset(patience)
	require.NoError(m.t, m.cpu.Run(&m.exit))
	if m.expired.Load() {
		m.t.Fatalf("no exit in %v\n%s", patience, m.registers())
	}
	return &m.exit
}

// value is the number in Exit.Data.
func (m *machine) value() uint64 {
	var p [8]byte
	copy(p[:], m.exit.Data)
	return le.Uint64(p[:])
}

// wantAccess runs to an exit for one access of this kind.
func (m *machine) wantAccess(reason hv.Reason, write bool, addr uint64, width int) {
	m.t.Helper()
	e := m.run()
	if e.Reason != reason || e.Write != write || e.Addr != addr || e.Width != width || len(e.Data) != width {
		m.t.Fatalf("got %+v, want %v write=%v of %d bytes at %#x\n%s", *e, reason, write, width, addr, m.registers())
	}
}

// wantOut runs to a port write of this value.
func (m *machine) wantOut(port uint64, width int, value uint64) {
	m.t.Helper()
	m.wantAccess(hv.ExitPIO, true, port, width)
	if got := m.value(); got != value {
		m.t.Fatalf("out to port %#x: got %#x, want %#x", port, got, value)
	}
}

// answer is what the guest's read, for which Run just returned, gets.
func (m *machine) answer(v uint64) {
	var p [8]byte
	le.PutUint64(p[:], v)
	copy(m.exit.Data, p[:])
}

func (m *machine) registers() string {
	d, ok := m.cpu.(hv.RegisterDumper)
	if !ok {
		return ""
	}
	s, err := d.DumpRegisters()
	if err != nil {
		return err.Error()
	}
	return s
}

// eventually waits for a condition that another thread brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
