package vsock

// state is where a connection stands (§5.10.6.5).
type state uint8

const (
	stateConnecting state = iota // we asked for it and wait for the guest's answer
	stateOpen
	stateClosing // we said that we neither send nor receive any more; the guest's reset is due
	stateDead    // over: no packet belongs to it
)

// owe is a set of control packets that are to be sent. Each kind is sent at most
// once however often it falls due, so that what a connection owes never grows.
type owe uint8

const (
	oweRequest owe = 1 << iota
	oweResponse
	oweCredit
	oweShutdown // after the last data
)

// outcome is what a packet meant for the connection it came in on.
type outcome uint16

const (
	gotOpened   outcome = 1 << iota // the guest accepted
	gotData                         // the payload counts; deliver it
	gotDiscard                      // the payload counts, but nobody wants it
	gotCredit                       // we may send more than before
	gotShutdown                     // peerShut changed
	gotReset                        // the guest ended the connection; it is dead
	gotBreach                       // the guest broke the protocol; dead, reset is due
	gotFinished                     // both sides are done; dead, reset is due (§5.10.6.5)
)

// endpoint is our end of one stream: the protocol of §5.10.6 without any I/O.
// Counters are free-running and wrap at 2^32 (§5.10.6.3).
type endpoint struct {
	state state
	owes  owe

	bufAlloc uint32 // what we advertise: bytes we are willing to hold
	rxCnt    uint32 // bytes received
	fwdCnt   uint32 // bytes of them passed on
	toldFwd  uint32 // fwdCnt in our latest packet

	txCnt     uint32 // bytes sent
	peerAlloc uint32 // what the guest advertises
	peerFwd   uint32 // how many of txCnt it says it passed on

	ourShut  uint8 // shutReceive, shutSend: what we decided; sent when oweShutdown is paid
	toldShut uint8 // what of it the guest was told
	peerShut uint8 // what the guest said
}

// dial starts a connection from our side.
func (e *endpoint) dial(bufAlloc uint32) {
	*e = endpoint{state: stateConnecting, owes: oweRequest, bufAlloc: bufAlloc}
}

// accept starts a connection that the guest's request h asked for.
func (e *endpoint) accept(bufAlloc uint32, h *header) {
	*e = endpoint{state: stateOpen, owes: oweResponse, bufAlloc: bufAlloc}
	e.credit(h)
}

// receive takes a packet of this connection. Its payload is known to be there.
func (e *endpoint) receive(h *header) (got outcome) {
	if h.op() == opReset {
		e.state, e.owes = stateDead, 0
		return gotReset
	}
	if e.credit(h) {
		got = gotCredit
	}
	switch e.state {
	case stateConnecting:
		if h.op() != opResponse || e.owes&oweRequest != 0 {
			return e.breach()
		}
		e.state = stateOpen
		return got | gotOpened
	case stateOpen, stateClosing:
		return got | e.receiveOpen(h)
	}
	return e.breach()
}

func (e *endpoint) receiveOpen(h *header) outcome {
	switch h.op() {
	case opData:
		// A guest that sends more than we advertised, or after it said that it would not, is lying somewhere:
		// nothing of the stream can be trusted.
		if e.peerShut&shutSend != 0 || h.len() > e.bufAlloc-(e.rxCnt-e.fwdCnt) {
			return e.breach()
		}
		e.rxCnt += h.len()
		if e.ourShut&shutReceive != 0 {
			return gotDiscard
		}
		return gotData
	case opCreditUpdate:
		return 0
	case opCreditRequest:
		e.owes |= oweCredit
		return 0
	case opShutdown:
		// Hints are permanent: bits are added only (§5.10.6.5).
		old := e.peerShut
		e.peerShut |= uint8(h.flags()) & shutBoth
		if e.peerShut == shutBoth {
			e.state, e.owes = stateDead, 0
			return gotShutdown | gotFinished
		}
		if e.peerShut != old {
			return gotShutdown
		}
		return 0
	}
	return e.breach()
}

func (e *endpoint) breach() outcome {
	e.state, e.owes = stateDead, 0
	return gotBreach
}

// credit takes over what every packet says of the guest's buffer (§5.10.6.3),
// and reports whether the window opened from nothing. A count that claims more
// than was sent, or less than was claimed before, is ignored: the one is a lie,
// the other a packet that was overtaken on the guest's other CPU.
func (e *endpoint) credit(h *header) bool {
	shut := e.window() == 0
	e.peerAlloc = h.bufAlloc()
	if fwd := h.fwdCnt(); fwd-e.peerFwd <= e.txCnt-e.peerFwd {
		e.peerFwd = fwd
	}
	return shut && e.window() != 0
}

// window is the number of bytes we may send now (§5.10.6.3).
func (e *endpoint) window() uint32 {
	flying := e.txCnt - e.peerFwd
	if flying >= e.peerAlloc {
		return 0 // the guest may shrink its buffer under what is on its way
	}
	return e.peerAlloc - flying
}

// maySend reports whether data could leave now.
func (e *endpoint) maySend() bool {
	return e.state == stateOpen && (e.ourShut|e.toldShut)&shutSend == 0 && e.peerShut&shutReceive == 0 &&
		e.window() > 0
}

// passedOn says that n received bytes left our buffer.
func (e *endpoint) passedOn(n int) {
	e.fwdCnt += uint32(n)
	// Half of the buffer keeps the guest sending without a packet per read.
	if e.fwdCnt-e.toldFwd >= e.bufAlloc/2 && e.state == stateOpen && e.peerShut&shutSend == 0 {
		e.owes |= oweCredit
	}
}

// shutdown adds to what we will not do any more.
func (e *endpoint) shutdown(flags uint8) {
	if e.state != stateOpen {
		return
	}
	e.ourShut |= flags
	if e.ourShut == shutBoth {
		e.state = stateClosing
	}
	if e.ourShut != e.toldShut {
		e.owes |= oweShutdown
	}
}

// next takes the next control packet due.
func (e *endpoint) next() (o op, flags uint32, ok bool) {
	switch {
	case e.owes == 0:
		return 0, 0, false
	case e.owes&oweRequest != 0:
		e.owes &^= oweRequest
		o = opRequest
	case e.owes&oweResponse != 0:
		e.owes &^= oweResponse
		o = opResponse
	case e.owes&oweShutdown != 0:
		e.owes &^= oweShutdown
		e.toldShut = e.ourShut
		o, flags = opShutdown, uint32(e.ourShut)
	default:
		o = opCreditUpdate
	}
	return o, flags, true
}

// stamp completes the header of any packet that leaves: each carries credit.
func (e *endpoint) stamp(h *header) {
	e.toldFwd = e.fwdCnt
	e.owes &^= oweCredit
	h.setCredit(e.bufAlloc, e.fwdCnt)
}
