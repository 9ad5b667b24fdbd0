package serial

// Registers by port offset (PC16550D table II). With DLAB set, 0 and 1 are the
// divisor latch.
const (
	regData = 0 // R RBR, W THR
	regIER  = 1 // RW interrupt enable
	regIIR  = 2 // R  interrupt identification
	regFCR  = 2 // W  FIFO control
	regLCR  = 3 // RW line control
	regMCR  = 4 // RW modem control
	regLSR  = 5 // R  line status
	regMSR  = 6 // R  modem status
	regSCR  = 7 // RW scratch
)

const (
	ierReceived = 1 << 0 // PC16550D §8.7
	ierEmpty    = 1 << 1
	ierLine     = 1 << 2
	ierModem    = 1 << 3
	ierMask     = 0x0f

	iirNone     = 0x01 // PC16550D §8.6, table IV
	iirModem    = 0x00
	iirEmpty    = 0x02
	iirReceived = 0x04
	iirLine     = 0x06
	iirFIFO     = 0xc0

	fcrEnable       = 1 << 0 // PC16550D §8.5
	fcrResetReceive = 1 << 1

	lcrDLAB = 1 << 7 // PC16550D §8.1

	mcrDTR  = 1 << 0 // PC16550D §8.8
	mcrRTS  = 1 << 1
	mcrOUT1 = 1 << 2
	mcrOUT2 = 1 << 3 // gates the interrupt line on a PC
	mcrLoop = 1 << 4
	mcrMask = 0x1f

	lsrReady   = 1 << 0 // PC16550D §8.4
	lsrOverrun = 1 << 1
	lsrEmpty   = 1<<5 | 1<<6 // THRE and TEMT: the transmitter is never busy

	msrDeltas = 0x0f // PC16550D §8.9
	msrCTS    = 1 << 4
	msrDSR    = 1 << 5
	msrRI     = 1 << 6
	msrDCD    = 1 << 7
	msrReady  = msrCTS | msrDSR | msrDCD // what the terminal at the other end shows
)

// registers is the guest-visible state. The zero value is that after reset.
type registers struct {
	ier, lcr, mcr, scr byte
	divisor            [2]byte
	fifo               bool // FIFOs are enabled
	overrun            bool // a byte was lost in loopback
	empty              bool // the transmitter became empty, and IIR did not say so yet
	deltas             byte // of MSR, since it was last read

	received [fifoSize]byte
	from, n  int
}

// ReadPort returns the register at an offset from the first port; beyond the
// eight registers there is nothing, all ones.
func (u *UART) ReadPort(off uint16) byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.regs
	switch dlab := r.lcr&lcrDLAB != 0; {
	case off <= regIER && dlab:
		return r.divisor[off]
	case off == regData:
		c := r.take()
		u.receive()
		u.interrupt()
		return c
	case off == regIER:
		return r.ier
	case off == regIIR:
		id := r.pending()
		if id == iirEmpty { // reading its cause ends it
			r.empty = false
			u.interrupt()
		}
		if r.fifo {
			id |= iirFIFO
		}
		return id
	case off == regLCR:
		return r.lcr
	case off == regMCR:
		return r.mcr
	case off == regLSR:
		s := r.lineStatus()
		r.overrun = false
		u.interrupt()
		return s
	case off == regMSR:
		s := r.modemStatus() | r.deltas
		r.deltas = 0
		u.interrupt()
		return s
	case off == regSCR:
		return r.scr
	}
	return 0xff
}

// WritePort writes the register at an offset from the first port; beyond the
// eight registers nothing happens.
func (u *UART) WritePort(off uint16, v byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.regs
	switch dlab := r.lcr&lcrDLAB != 0; {
	case off <= regIER && dlab:
		r.divisor[off] = v
	case off == regData:
		if r.mcr&mcrLoop != 0 {
			r.loop(v)
		} else {
			u.send(v)
		}
		r.empty = true // again: the byte has left
	case off == regIER:
		// Enabling the interrupt while the transmitter is empty raises it
		// (Linux tests for that and mistrusts a UART that does not).
		if v&^r.ier&ierEmpty != 0 {
			r.empty = true
		}
		r.ier = v & ierMask
	case off == regFCR:
		fifo := v&fcrEnable != 0
		if fifo != r.fifo || fifo && v&fcrResetReceive != 0 {
			r.from, r.n = 0, 0
		}
		r.fifo = fifo
	case off == regLCR:
		r.lcr = v
	case off == regMCR:
		before := r.modemStatus()
		r.mcr = v & mcrMask
		r.noteModem(before)
	case off == regSCR:
		r.scr = v
	}
	u.receive()
	u.interrupt()
}

// receive moves input into the receiver FIFO while the guest is ready for it.
// Preconditions: u.mu held.
func (u *UART) receive() {
	r := &u.regs
	if r.mcr&mcrLoop != 0 || r.mcr&(mcrDTR|mcrRTS) == 0 {
		return
	}
	full := u.input.free() == 0
	for r.n < r.depth() && u.input.len() > 0 {
		var c [1]byte
		u.input.get(c[:])
		r.put(c[0])
	}
	if full && u.input.free() > 0 {
		u.room.Broadcast()
	}
}

// interrupt drives the line to what the registers say. Preconditions: u.mu held.
func (u *UART) interrupt() {
	level := u.regs.pending() != iirNone && u.regs.mcr&mcrOUT2 != 0 && u.regs.mcr&mcrLoop == 0
	if level != u.line {
		u.line = level
		u.irq(level)
	}
}

// pending is the interrupt of highest priority (PC16550D table IV).
func (r *registers) pending() byte {
	switch {
	case r.ier&ierLine != 0 && r.overrun:
		return iirLine
	case r.ier&ierReceived != 0 && r.n > 0:
		// The trigger level is 1 whatever FCR says: there is no line whose
		// idle time could raise the time-out interrupt for the rest.
		return iirReceived
	case r.ier&ierEmpty != 0 && r.empty:
		return iirEmpty
	case r.ier&ierModem != 0 && r.deltas != 0:
		return iirModem
	}
	return iirNone
}

func (r *registers) lineStatus() byte {
	s := byte(lsrEmpty)
	if r.n > 0 {
		s |= lsrReady
	}
	if r.overrun {
		s |= lsrOverrun
	}
	return s
}

// modemStatus is MSR without its deltas: in loopback the modem outputs, crossed
// over as by a null modem (PC16550D §8.8).
func (r *registers) modemStatus() byte {
	if r.mcr&mcrLoop == 0 {
		return msrReady
	}
	var s byte
	for _, w := range [...]struct{ out, in byte }{{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOUT1, msrRI}, {mcrOUT2, msrDCD}} {
		if r.mcr&w.out != 0 {
			s |= w.in
		}
	}
	return s
}

// noteModem records what changed; RI counts only when it falls.
func (r *registers) noteModem(before byte) {
	now := r.modemStatus()
	changed := (before ^ now) &^ msrRI
	changed |= before &^ now & msrRI
	r.deltas |= changed >> 4 & msrDeltas
}

// depth is the room of the receiver.
func (r *registers) depth() int {
	if r.fifo {
		return fifoSize
	}
	return 1
}

func (r *registers) put(c byte) {
	r.received[(r.from+r.n)%fifoSize] = c
	r.n++
}

// loop receives a byte that the guest itself sent.
func (r *registers) loop(c byte) {
	if r.n >= r.depth() {
		r.overrun = true
		return
	}
	r.put(c)
}

func (r *registers) take() byte {
	if r.n == 0 {
		return 0
	}
	c := r.received[r.from]
	r.from = (r.from + 1) % fifoSize
	r.n--
	return c
}
