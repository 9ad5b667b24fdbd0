package hvtest

import (
	"bytes"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

func testMapUnmap(t *testing.T, s *suite) {
	const at = 0x4000_0000
	m := newMachine(t, s, 1)
	extra, err := guestmem.New(guestmem.Range{Base: at, Size: 4 * guestmem.PageSize})
	require.NoError(t, err)
	defer func() {
		require.NoError(t, m.vm.Close())
		require.NoError(t, extra.Close())
	}()
	// Closed here, because the VM must not outlive its memory.
	defer func() { require.NoError(t, m.cpu.Close()) }()
	r := extra.Regions()[0]
	m.start32(x86Load, at+8)

	unmapped := func(answer uint64) {
		t.Helper()
		m.wantAccess(hv.ExitMMIO, false, at+8, 4)
		m.answer(answer)
		m.wantOut(0x80, 4, answer)
	}
	unmapped(0x1111)
	for i := range uint32(3) {
		le.PutUint32(r.Bytes[8:], 0xabc0+i)
		require.NoError(t, m.vm.Map(r))
		m.wantOut(0x80, 4, uint64(0xabc0+i))
		le.PutUint32(r.Bytes[8:], 0xdef0+i) // RAM is shared, not copied
		m.wantOut(0x80, 4, uint64(0xdef0+i))
		require.NoError(t, m.vm.Unmap(at))
		unmapped(0x2222)
	}

	require.NoError(t, m.vm.Map(r))
	for _, bad := range []guestmem.Region{
		r,
		{Base: at + 3*guestmem.PageSize, Bytes: r.Bytes},
		{Base: at - guestmem.PageSize, Bytes: r.Bytes[:2*guestmem.PageSize]},
		{Base: 1<<64 - guestmem.PageSize, Bytes: r.Bytes}, // wraps
		{Base: 0x5000_0000, Bytes: nil},
		{Base: 0x5000_0001, Bytes: r.Bytes},
	} {
		require.Error(t, m.vm.Map(bad), "%d bytes at %v", len(bad.Bytes), bad.Base)
	}
	require.Error(t, m.vm.Unmap(at+guestmem.PageSize), "not where the region begins")
	require.Error(t, m.vm.Unmap(0x7000_0000))
	m.wantOut(0x80, 4, 0xdef2)
	require.NoError(t, m.vm.Unmap(at))
	require.Error(t, m.vm.Unmap(at), "twice")

	// Slots are used again: many more times than a hypervisor has of them would take too long, so a few hundred.
	for i := range 300 {
		require.NoError(t, m.vm.Map(guestmem.Region{Base: at + guestmem.GPA(i)<<20, Bytes: r.Bytes}))
		require.NoError(t, m.vm.Unmap(at+guestmem.GPA(i)<<20))
	}
}

// mapReadOnly maps a page of the host's at 0xd0000000, or returns nil where the
// backend cannot. The second result ends VM and page.
func mapReadOnly(t *testing.T, m *machine) ([]byte, func()) {
	t.Helper()
	vm, ok := m.vm.(hv.ReadOnlyMapper)
	if !ok {
		return nil, nil // optional; nil means that reads are exits
	}
	page, err := guestmem.New(guestmem.Range{Base: 0xd000_0000, Size: guestmem.PageSize})
	require.NoError(t, err)
	r := page.Regions()[0]
	require.NoError(t, vm.MapReadOnly(r))
	require.Error(t, vm.MapReadOnly(r), "twice")
	require.Error(t, m.vm.Map(r), "over it")
	return r.Bytes, func() {
		require.NoError(t, m.cpu.Close())
		require.NoError(t, m.vm.Close())
		require.NoError(t, page.Close())
	}
}

// testMapReadOnly runs the guest of testMMIO over a page of memory: its writes are
// the same exits and change nothing, its reads are none.
func testMapReadOnly(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	page, end := mapReadOnly(t, m)
	if page == nil {
		return
	}
	defer end()
	for i := range page {
		page[i] = byte(i)
	}
	before := bytes.Clone(page)
	m.start64(x86MMIO, hv.X86Entry{})
	m.wantMMIOWrites(0xd000_0000)
	for _, want := range []uint64{0x10, 0x1312, 0x17161514, 0x1b1a1918, 0x1f1e1d1c, 0x20, 0x2322} {
		m.wantOut(portSplit, 4, want)
	}
	m.wantAccess(hv.ExitMMIO, true, 0xd000_0024, 4)
	require.Equal(t, before, page)

	m.start32(x86Load, 0xd000_0010)
	m.wantOut(0x80, 4, 0x13121110)
	le.PutUint32(page[0x10:], 0xabcdef) // the guest sees what the host writes
	m.wantOut(0x80, 4, 0xabcdef)
	require.NoError(t, m.vm.Unmap(0xd000_0000))
	m.wantAccess(hv.ExitMMIO, false, 0xd000_0010, 4)
}

// testMapReadOnlyIOEvent rings doorbells that lie in such a page.
func testMapReadOnlyIOEvent(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	e, ok := m.vm.(hv.IOEventer)
	page, end := mapReadOnly(t, m)
	if !ok || page == nil {
		return
	}
	defer end()
	one := newEvent(t)
	require.NoError(t, e.RegisterIOEvent(one.fd(), doorbell, 1))
	m.start32(x86Doorbell, 0)
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	m.wantAccess(hv.ExitMMIO, true, doorbell, 4)
	require.EqualValues(t, 2, m.value())
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	require.EqualValues(t, 2, one.count(t))
	m.wantAccess(hv.ExitMMIO, true, doorbell, 4)
	require.EqualValues(t, 3, m.value())
	require.Equal(t, make([]byte, len(page)), page)
}

func testAllocations(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start32(x86PortLoop, 0)
	n := testing.AllocsPerRun(200, func() {
		if m.cpu.Run(&m.exit) != nil || m.exit.Reason != hv.ExitPIO {
			t.Fatalf("%+v", m.exit)
		}
	})
	require.Zero(t, n, "allocations per port exit")

	m.start32(x86Load, 0xd000_0000)
	n = testing.AllocsPerRun(200, func() {
		if m.cpu.Run(&m.exit) != nil || m.exit.Reason != hv.ExitMMIO && m.exit.Reason != hv.ExitPIO {
			t.Fatalf("%+v", m.exit)
		}
	})
	require.Zero(t, n, "allocations per MMIO and port exit")

	m.start32(x86Spin, 0)
	n = testing.AllocsPerRun(200, func() {
		if m.cpu.Kick() != nil || m.cpu.Run(&m.exit) != nil || m.exit.Reason != hv.ExitKicked {
			t.Fatalf("%+v", m.exit)
		}
	})
	require.Zero(t, n, "allocations per kick")

	n = testing.AllocsPerRun(200, func() {
		if m.vm.SetIRQ(irqLine, true) != nil || m.vm.SetIRQ(irqLine, false) != nil {
			t.Fatal("the line cannot be set")
		}
	})
	require.Zero(t, n, "allocations per interrupt")
}

// testTwoVMs runs two guests at the same addresses at the same time.
func testTwoVMs(t *testing.T, s *suite) {
	var wait sync.WaitGroup
	for i := range uint64(2) {
		wait.Go(func() {
			t.Run(string('A'+rune(i)), func(t *testing.T) {
				runtime.LockOSThread()
				m := newMachine(t, s, 1)
				m.load(dataAddr, []byte{byte(i), 1, 2, 3})
				m.start32(x86Load, dataAddr)
				for range 200 {
					m.wantOut(0x80, 4, 0x03020100+i)
				}
				le.PutUint32(m.mem.Regions()[0].Bytes[dataAddr:], uint32(0xbeef00+i))
				m.wantOut(0x80, 4, 0xbeef00+i)
			})
		})
	}
	wait.Wait()
}
