package hvtest

import (
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
