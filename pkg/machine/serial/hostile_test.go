package serial

import (
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Case 55: a guest floods the port while nobody takes the output. The vCPU must
// never wait, and what is kept is bounded; when the sink recovers, so does the port.
func TestHostile55OutputFloodWithBlockedSink(t *testing.T) {
	out := &sink{gate: make(chan struct{})}
	u, _ := newUART(t, out)
	const flood = 1 << 20
	for range flood { // would hang here, were the vCPU to wait
		u.WritePort(regData, 'x')
	}
	kept := flood - u.Dropped()
	// what is buffered, and one buffer that the sink is holding
	require.LessOrEqual(t, kept, uint64(2*outputSize))
	require.GreaterOrEqual(t, kept, uint64(outputSize))
	require.Zero(t, testing.AllocsPerRun(1000, func() { u.WritePort(regData, 'x') }))
	close(out.gate)
	drain(t, u)
	u.WritePort(regData, '!')
	drain(t, u)
	got := out.String()
	require.Len(t, got, int(kept)+1)
	require.Equal(t, byte('!'), got[len(got)-1])
}

// Case 55, the other way: a host program floods a guest that does not read.
func TestHostile55InputFlood(t *testing.T) {
	u, _ := newUART(t, io.Discard)
	ready(u)
	var wg sync.WaitGroup
	const flood = 4 * inputSize
	wg.Go(func() {
		n, err := u.Write(make([]byte, flood))
		if n != flood || err != nil {
			t.Errorf("wrote %d: %v", n, err)
		}
	})
	for got := 0; got < flood; {
		u.mu.Lock()
		size := len(u.input.buf) + len(u.regs.received)
		u.mu.Unlock()
		if size != inputSize+fifoSize {
			t.Fatalf("%d bytes of buffer", size)
		}
		if u.ReadPort(regLSR)&lsrReady != 0 {
			u.ReadPort(regData)
			got++
		}
	}
	wg.Wait()
	require.Zero(t, u.ReadPort(regLSR)&lsrReady)
}

func TestNoAllocations(t *testing.T) {
	u, _ := newUART(t, io.Discard)
	ready(u)
	in := []byte("0123456789abcdef")
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, _ = u.Write(in)
		for u.ReadPort(regLSR)&lsrReady != 0 {
			u.WritePort(regData, u.ReadPort(regData))
		}
		u.ReadPort(regIIR)
	}))
}

// FuzzRegisters plays any sequence of port accesses and input: nothing may
// panic or hang, and the interrupt line must say what the registers say.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte{0x82, 1, 0x84, 0x0b, 0x81, 0x0f, 0xf0, 'x', 0x00, 0x02})
	f.Add([]byte{0x84, 0x1f, 0x80, 'a', 0x80, 'b', 0x05, 0x00})
	f.Fuzz(func(t *testing.T, ops []byte) {
		l := new(line)
		u := New(io.Discard, l.set)
		defer u.Close()
		for len(ops) > 0 {
			op := ops[0]
			ops = ops[1:]
			off := uint16(op & 0x0f)
			switch {
			case op < 0x80:
				u.ReadPort(off)
			case len(ops) == 0:
			case op < 0xf0:
				u.WritePort(off, ops[0])
				ops = ops[1:]
			default:
				n := min(len(ops), int(op&0x0f)+1)
				u.mu.Lock()
				fits := u.input.free() >= n
				u.mu.Unlock()
				if fits {
					_, _ = u.Write(ops[:n])
				}
				ops = ops[n:]
			}
			u.mu.Lock()
			r := &u.regs
			want := r.pending() != iirNone && r.mcr&(mcrOUT2|mcrLoop) == mcrOUT2
			if l.get() != want || u.line != want {
				t.Fatalf("line %v, registers want %v: %+v", l.get(), want, *r)
			}
			if r.n < 0 || r.n > fifoSize || r.ier > ierMask {
				t.Fatalf("impossible state %+v", *r)
			}
			u.mu.Unlock()
		}
	})
}

func BenchmarkOutput(b *testing.B) {
	u := New(io.Discard, func(bool) {})
	defer u.Close()
	b.ReportAllocs()
	for b.Loop() {
		u.WritePort(regData, 'x')
	}
}
