package hvtest

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/anthropics/boxlite/pkg/hv"
)

const (
	irqLine    = 5
	irqVector  = 0x35
	levelBit   = 1 << 15 // IOREDTBL: level triggered
	doorbell   = 0xd000_0050
	deviceByte = 0x80 // port
)

// startIRQ loads a guest that waits for interrupts, and runs it until it says so.
func startIRQ(t *testing.T, s *suite, code, handler []byte, redirection uint64) *machine {
	m := newMachine(t, s, 1)
	m.load(handlerAddr, handler)
	gdt := make([]byte, 0x20)
	le.PutUint64(gdt[0x10:], 0x00af_9b00_0000_ffff) // 64-bit code
	le.PutUint64(gdt[0x18:], 0x00cf_9300_0000_ffff) // data
	m.load(gdtAddr, gdt)
	m.load(gdtAddr+0x100, tablePointer(len(gdt), gdtAddr))
	idt := make([]byte, 256*16)
	// 64-bit interrupt gate, selector 0x10.
	le.PutUint64(idt[irqVector*16:], 0x0000_8e00_0010_0000|handlerAddr)
	m.load(idtAddr, idt)
	m.load(gdtAddr+0x110, tablePointer(len(idt), idtAddr))
	m.start64(code, hv.X86Entry{RBX: redirection, RSP: stackAddr})
	m.wantOut(deviceByte, 1, 1)
	return m
}

// tablePointer is the operand of LGDT and LIDT.
func tablePointer(size int, base uint64) []byte {
	p := make([]byte, 10)
	le.PutUint16(p, uint16(size-1))
	le.PutUint64(p[2:], base)
	return p
}

// later does what another thread does to a vCPU that is probably halted by
// then, and returns how to wait until it is done.
func later(t *testing.T, do func() error) (wait func()) {
	done := make(chan error, 1)
	time.AfterFunc(2*time.Millisecond, func() { done <- do() })
	return func() {
		t.Helper()
		require.NoError(t, <-done)
	}
}

// wantQuiet checks that no interrupt is left: the guest stays where it is until kicked.
func (m *machine) wantQuiet() {
	m.t.Helper()
	wait := later(m.t, m.cpu.Kick)
	require.Equal(m.t, hv.ExitKicked, m.run().Reason, "%+v", m.exit)
	wait()
}

func testIRQEdge(t *testing.T, s *suite) {
	m := startIRQ(t, s, x86IRQ, x86IRQHandler, 0)
	for range 20 {
		wait := later(t, func() error { return pulse(m.vm) })
		m.wantOut(deviceByte, 1, irqVector)
		wait()
		m.wantQuiet()
	}
}

func pulse(vm hv.VM) error {
	if err := vm.SetIRQ(irqLine, true); err != nil {
		return err
	}
	return vm.SetIRQ(irqLine, false)
}

func testIRQLevel(t *testing.T, s *suite) {
	m := startIRQ(t, s, x86IRQ, x86IRQHandler, levelBit)
	for range 5 {
		wait := later(t, func() error { return m.vm.SetIRQ(irqLine, true) })
		for range 4 { // again and again until the device is content
			m.wantOut(deviceByte, 1, irqVector)
		}
		wait()
		require.NoError(t, m.vm.SetIRQ(irqLine, false))
		wait = later(t, m.cpu.Kick)
		if m.run().Reason == hv.ExitPIO { // one may have been latched before
			m.run()
		}
		require.Equal(t, hv.ExitKicked, m.exit.Reason, "%+v", m.exit)
		wait()
	}
}

func testIRQByPIC(t *testing.T, s *suite) {
	m := startIRQ(t, s, x86PIC, x86PICHandler, 0)
	for range 5 {
		wait := later(t, func() error { return pulse(m.vm) })
		m.wantOut(deviceByte, 1, irqVector)
		wait()
		m.wantQuiet()
	}
}

func testIOEvent(t *testing.T, s *suite) {
	m := newMachine(t, s, 1)
	e, ok := m.vm.(hv.IOEventer)
	if !ok {
		return // optional; nil means that doorbells are exits
	}
	one, three := newEvent(t), newEvent(t)
	require.NoError(t, e.RegisterIOEvent(one.fd(), doorbell, 1))
	require.NoError(t, e.RegisterIOEvent(three.fd(), doorbell, 3))
	require.Error(t, e.RegisterIOEvent(three.fd(), doorbell, 3), "taken")
	require.Error(t, e.RegisterIOEvent(-1, doorbell, 4))
	m.start32(x86Doorbell, 0)
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	require.EqualValues(t, 1, one.count(t))
	m.wantAccess(hv.ExitMMIO, true, doorbell, 4) // 2 is nobody's
	require.EqualValues(t, 2, m.value())
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	require.Zero(t, one.count(t))
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	require.EqualValues(t, 1, one.count(t))
	require.Zero(t, three.count(t))
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	require.EqualValues(t, 1, three.count(t))
}

// testStartCPUs starts three more CPUs from the guest. Their Run blocks until then.
func testStartCPUs(t *testing.T, s *suite) {
	const others = 3
	m := newMachine(t, s, 1+others)
	m.load(secondAddr, x86Started)
	var wait sync.WaitGroup
	ready := make(chan hv.VCPU, others)
	stop := make(chan struct{})
	for id := 1; id <= others; id++ {
		wait.Go(func() {
			runtime.LockOSThread()
			c, err := m.vm.NewVCPU(id)
			if err != nil {
				t.Errorf("vCPU %d: %v", id, err)
				ready <- nil
				return
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Errorf("vCPU %d: %v", id, err)
				}
			}()
			ready <- c
			var e hv.Exit
			if err := c.Run(&e); err != nil || e.Reason != hv.ExitPIO || e.Addr != 0x82 {
				t.Errorf("vCPU %d: %+v, %v; want its write to port 0x82", id, e, err)
			}
			<-stop
		})
	}
	var cpus []hv.VCPU
	for range others {
		if c := <-ready; c != nil {
			cpus = append(cpus, c)
		}
	}
	guard := time.AfterFunc(patience, func() {
		for _, c := range cpus {
			_ = c.Kick()
		}
	})
	defer func() { guard.Stop(); close(stop); wait.Wait() }()
	require.Len(t, cpus, others)

	m.start32(x86StartCPUs, others)
	count := func() uint32 { return le.Uint32(m.mem.Regions()[0].Bytes[dataAddr:]) }
	require.Zero(t, count(), "nobody runs before INIT and SIPI")
	m.wantAccess(hv.ExitPIO, true, deviceByte, 1)
	m.wantOut(0x81, 4, others)
	require.EqualValues(t, others, count())
	_, err := m.vm.NewVCPU(1)
	require.Error(t, err, "vCPU 1 exists")
	_, err = m.vm.NewVCPU(1 + others)
	require.Error(t, err, "more than Config.CPUs")
	_, err = m.vm.NewVCPU(-1)
	require.Error(t, err)
}
