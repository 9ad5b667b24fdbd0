package virtiotest

import (
	"encoding/binary"
	"testing"

	"github.com/anthropics/boxlite/pkg/guestmem"
)

// FuzzDevice lets the fuzzer be the driver: its bytes are a program of register
// accesses, descriptors, buffer contents and ring indices against a started
// device. The device must survive it, and work after a reset. Seeds, if given,
// are contents of readable buffers that get far.
func FuzzDevice(f *testing.F, s Suite, seeds ...[]byte) {
	for _, p := range append(seeds, nil, []byte("virtio")) {
		f.Add(script(p))
	}
	dev := s.New(f)
	d := Attach(f, dev)
	f.Fuzz(func(t *testing.T, program []byte) {
		d.T = t
		defer func() { d.T = f }()
		features := allRing | dev.Features()
		if len(program) > 0 && program[0]&1 != 0 {
			features = 0
		}
		d.Up(features)
		in := d.Put(program) // what readable buffers say
		out := d.Alloc(1 << 16)
		i := interpreter{d: d, p: program, in: in, out: out, stimulate: s.stimulate}
		for n := 0; n < 200 && i.step(); n++ {
		}
		// The device may be at any point now. It must stop, start and work.
		d.Up(allRing)
		s.exercise(d)
	})
}

// opcodes of the fuzzer's language; the operands follow in the program.
const (
	opChain    = iota // make a well-formed chain of buffers with fuzzed lengths and contents
	opIndirect        // the same in an indirect table
	opDesc            // write a raw descriptor
	opSubmit          // make any head available
	opIndex           // move avail.idx
	opNotify
	opWrite // a register write of any width
	opRead
	opScribble // overwrite the contents of the readable buffers
	opReap
	opStimulate
	opCount
)

// script is a seed program: one request with this content on each of the first queues.
func script(p []byte) []byte {
	var out []byte
	for q := range byte(3) {
		out = append(out, opScribble, q, 0)
		out = append(out, opChain, q, byte(min(len(p), 255)), 16, 1)
		out = append(out, opNotify, q, opReap, q, opStimulate, q)
	}
	return append(p, out...)
}

type interpreter struct {
	d       *Driver
	p       []byte
	in, out guestmem.GPA

	stimulate func(*Driver)
}

func (i *interpreter) u8() byte {
	if len(i.p) == 0 {
		return 0
	}
	v := i.p[0]
	i.p = i.p[1:]
	return v
}

func (i *interpreter) u64() uint64 {
	var b [8]byte
	i.p = i.p[copy(b[:], i.p):]
	return binary.LittleEndian.Uint64(b[:])
}

// step carries out one instruction; false at the end of the program.
func (i *interpreter) step() bool {
	if len(i.p) == 0 {
		return false
	}
	op, sel := i.u8()%opCount, i.u8()
	q := int(sel) % len(i.d.Rings)
	r := i.d.Rings[q]
	switch op {
	case opChain, opIndirect:
		readable, writable, pieces := uint32(i.u8()), uint32(i.u8())<<4, uint32(i.u8())%4+1
		var bufs []Buf
		for k := range pieces {
			bufs = append(bufs, Buf{i.in + guestmem.GPA(k*readable/pieces), readable / pieces, false})
		}
		bufs = append(bufs, Buf{i.out, writable, true}, Buf{i.out + 0x8000, 1, true})
		switch {
		case op == opIndirect && r.Free() > 0:
			r.AddIndirect(i.d.Mem, i.out+0x9000, bufs...)
		case r.Free() >= len(bufs):
			r.Add(bufs...)
		}
	case opDesc:
		v := i.u64()
		r.SetDesc(uint16(i.u8())%r.Size, Desc{i.in + guestmem.GPA(v>>48), uint32(v) >> 8 & 0xfffff, uint16(v & 7), uint16(v>>4) & 0xf})
	case opSubmit:
		r.Submit(uint16(i.u8()))
	case opIndex:
		r.SetAvailIdx(r.AvailIdx() + uint16(int8(i.u8())))
	case opNotify:
		i.d.Write(RegQueueNotify, uint32(q))
	case opWrite:
		v := i.u64()
		i.d.Regs.WriteMMIO(v&0x1ff, binary.LittleEndian.AppendUint64(nil, v>>16)[:sel%9])
	case opRead:
		i.d.Regs.ReadMMIO(i.u64()&0x1ff, make([]byte, sel%9))
	case opScribble:
		copy(i.d.Bytes(i.in, 256), i.p)
	case opReap:
		for range r.Size {
			if _, ok := r.Reap(); !ok {
				break
			}
		}
	case opStimulate:
		i.stimulate(i.d)
	}
	return true
}

// stimulate makes happen what queues wait for.
func (s Suite) stimulate(d *Driver) {
	if s.Stimulate == nil {
		return
	}
	for _, q := range s.Waits {
		s.Stimulate(d, q)
	}
}
