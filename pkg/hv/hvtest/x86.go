package hvtest

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/guestmem"
	"github.com/anthropics/boxlite/pkg/hv"
)

var x86Tests = []test{
	{"Entry32", testEntry32},
	{"Entry64", testEntry64},
	{"Ports", testPorts},
	{"PortStrings", testPortStrings},
	{"MMIO", testMMIO},
	{"Straddle", testStraddle},
	{"MapUnmap", testMapUnmap},
	{"MapReadOnly", testMapReadOnly},
	{"MapReadOnlyIOEvent", testMapReadOnlyIOEvent},
	{"Halt", testHalt},
	{"Shutdown", testShutdown},
	{"RunDoesNotAllocate", testAllocations},
	{"TwoVMs", testTwoVMs},
	{"IRQEdge", testIRQEdge},
	{"IRQLevel", testIRQLevel},
	{"IRQByPIC", testIRQByPIC},
	{"IOEvent", testIOEvent},
	{"StartCPUs", testStartCPUs},
}

// Control register bits that an entry must and must not set.
const (
	cr0PE, cr0PG       = 1 << 0, 1 << 31
	cr4PAE             = 1 << 5
	eferLME, eferLMA   = 1 << 8, 1 << 10
	flagsReset         = 2 // interrupts off, everything else clear
	highestLowHalf     = 0xffff_ffff
	portLow, portSplit = 0x510, 0x511
)

func testEntry32(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.load(codeAddr, x86Entry32)
	require.NoError(t, m.cpu.SetEntry(hv.Entry{X86: &hv.X86Entry{RIP: codeAddr, RSP: 0xabcd0, RBX: 0x1234_5678, RSI: 0x9abc_def0}}))
	m.wantOut(0x80, 4, 0x1234_5678)
	m.wantOut(0x80, 4, 0x9abc_def0)
	m.wantOut(0x80, 4, 0xabcd0)
	m.wantAccess(hv.ExitPIO, true, 0x80, 4)
	require.EqualValues(t, cr0PE, m.value()&(cr0PE|cr0PG), "CR0 %#x: protection, no paging", m.value())
	m.wantOut(0x80, 4, 0) // CR4
	m.wantOut(0x80, 4, flagsReset)
	for range 4 { // DS, CS, SS, ES are flat
		m.wantOut(0x80, 4, uint64(le.Uint32(x86Entry32)))
	}
	m.wantAccess(hv.ExitPIO, true, 0x80, 4)
	require.NotZero(t, m.value(), "the task register has a selector")
}

func testEntry64(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start64(x86Entry64, hv.X86Entry{RBX: 0x1122_3344_5566_7788, RSI: 0x99aa_bbcc_ddee_ff00, RSP: 0x1_0000_fff8})
	for _, v := range []uint64{0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00, 0x1_0000_fff8} {
		m.wantOut(0x80, 4, v&highestLowHalf)
		m.wantOut(0x80, 4, v>>32)
	}
	m.wantAccess(hv.ExitPIO, true, 0x80, 4)
	require.EqualValues(t, cr0PE|cr0PG, m.value()&(cr0PE|cr0PG), "CR0 %#x", m.value())
	m.wantOut(0x80, 4, tablesAddr)
	m.wantOut(0x80, 4, cr4PAE)
	m.wantAccess(hv.ExitPIO, true, 0x80, 4)
	require.EqualValues(t, eferLME|eferLMA, m.value()&(eferLME|eferLMA), "EFER %#x", m.value())
	m.wantOut(0x80, 4, flagsReset)
	m.wantAccess(hv.ExitPIO, true, 0x80, 4)
	require.Greater(t, m.value(), uint64(codeAddr))
	require.Less(t, m.value(), uint64(codeAddr+len(x86Entry64)))
}

func testPorts(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start32(x86Ports, 0)
	m.wantOut(portLow, 1, 0x11)
	m.wantOut(portLow, 2, 0x2211)
	m.wantOut(portLow, 4, 0x44332211)
	want := uint64(0)
	for _, width := range []int{1, 2, 4} {
		m.wantAccess(hv.ExitPIO, false, portLow, width)
		m.answer(0xd4c3b2a1 + uint64(width))
		mask := uint64(1)<<(8*width) - 1
		want = want&^mask | (0xd4c3b2a1+uint64(width))&mask
		m.wantOut(portSplit, 4, want)
	}
	m.wantAccess(hv.ExitPIO, true, 0x80, 1)
}

// testPortStrings does not care how the backend splits a string, as long as
// every access is whole and in order.
func testPortStrings(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	source := make([]byte, 600)
	for i := range source {
		source[i] = byte(i*7 + i>>8)
	}
	m.load(dataAddr, source)
	m.start32(x86PortStrings, 0)
	for i, c := range []struct{ width, bytes int }{{1, 600}, {2, 64}, {4, 128}} {
		var sent []byte
		for len(sent) < c.bytes {
			e := m.run()
			require.True(t, e.Reason == hv.ExitPIO && e.Write && e.Addr == portLow && e.Width == c.width, "%+v", *e)
			require.Zero(t, len(e.Data)%c.width)
			require.NotEmpty(t, e.Data)
			sent = append(sent, e.Data...)
		}
		require.Equal(t, source[:c.bytes], sent, "rep outs of width %d", c.width)

		reply := bytes.Repeat([]byte{0xa0, 0xb1, 0xc2, 0xd3, byte(i)}, 120)[:c.bytes]
		for n := 0; n < c.bytes; {
			e := m.run()
			require.True(t, e.Reason == hv.ExitPIO && !e.Write && e.Addr == portLow && e.Width == c.width, "%+v", *e)
			require.Zero(t, len(e.Data)%c.width)
			require.NotEmpty(t, e.Data)
			n += copy(e.Data, reply[n:])
		}
		defer func() {
			got := make([]byte, c.bytes)
			require.NoError(t, m.mem.Read(got, dataAddr+0x800*guestmem.GPA(i+1)))
			require.Equal(t, reply, got, "rep ins of width %d", c.width)
		}()
	}
	m.wantAccess(hv.ExitPIO, true, 0x80, 1)
}

func testMMIO(t *testing.T, s *suite) {
	const base = 0xd000_0000
	m := newMachine(t, s, 1)
	m.start64(x86MMIO, hv.X86Entry{})
	m.wantMMIOWrites(base)
	for _, r := range []struct {
		off   uint64
		width int
		want  []uint64
	}{
		{0x10, 1, []uint64{0xf8}},
		{0x12, 2, []uint64{0xf7f8}},
		{0x14, 4, []uint64{0xf5f6f7f8}},
		{0x18, 8, []uint64{0xf5f6f7f8, 0xf1f2f3f4}},
		{0x20, 1, []uint64{0xf8}},       // zero extended
		{0x22, 2, []uint64{0xfffff7f8}}, // sign extended
	} {
		m.wantAccess(hv.ExitMMIO, false, base+r.off, r.width)
		m.answer(0xf1f2f3f4_f5f6f7f8)
		for _, v := range r.want {
			m.wantOut(portSplit, 4, v)
		}
	}
	m.wantAccess(hv.ExitMMIO, true, base+0x24, 4)
	require.EqualValues(t, 0x01020304, m.value())
}

// wantMMIOWrites runs through the first half of x86MMIO.
func (m *machine) wantMMIOWrites(base uint64) {
	m.t.Helper()
	for _, w := range []struct {
		off   uint64
		width int
		value uint64
	}{{0, 1, 0x11}, {2, 2, 0x2211}, {4, 4, 0x44332211}, {8, 8, 0x8877665544332211}} {
		m.wantAccess(hv.ExitMMIO, true, base+w.off, w.width)
		require.Equal(m.t, w.value, m.value())
	}
}

// testStraddle: devices only ever see whole accesses of 1, 2, 4 or 8 bytes,
// whatever the guest tries at the border of a page.
func testStraddle(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start32(x86Straddle, 0)
	for {
		e := m.run()
		switch {
		case e.Reason == hv.ExitMMIO:
			require.Contains(t, []int{1, 2, 4, 8}, e.Width)
			require.Len(t, e.Data, e.Width)
			require.GreaterOrEqual(t, e.Addr, uint64(ramSize))
		case e.Reason == hv.ExitPIO && e.Addr == 0x80:
			require.EqualValues(t, 0x332211, m.value()&0xffffff, "the bytes that are RAM")
		default:
			require.True(t, e.Reason == hv.ExitPIO && e.Addr == 0x81, "%+v", *e)
			return
		}
	}
}

func testHalt(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start32(x86Halt, 0)
	for range 3 {
		wait := later(t, m.cpu.Kick)
		for m.run().Reason == hv.ExitHalt { // a backend without interrupt controllers
		}
		require.Equal(t, hv.ExitKicked, m.exit.Reason)
		wait()
	}
}

func testShutdown(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	m.start32(x86TripleFault, 0)
	require.Equal(t, hv.ExitShutdown, m.run().Reason, "%+v\n%s", m.exit, m.registers())
}
