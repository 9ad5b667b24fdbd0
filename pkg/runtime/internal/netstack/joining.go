package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	// burst bounds the datagrams of a flow that are read before others get their turn,
	// and so those in a frame: as many as Linux's own receive offload joins.
	burst = 64
	// joinedMost bounds what is joined into one frame: an IP packet has 65535 bytes.
	joinedMost = 65535 - header.IPv6MinimumSize - header.UDPMinimumSize
)

// joinBuffers are for what comes from the host: room for a datagram after all
// that is joined. One is taken when there is something to read, so that idle flows
// hold none.
var joinBuffers = sync.Pool{New: func() any { return new([joinedMost + maxDatagram]byte) }}

// joining are datagrams on their way to the guest, at the beginning of buf one after
// the other: all of one size, but the last may be shorter.
type joining struct {
	f     *udpFlow
	buf   *[joinedMost + maxDatagram]byte
	most  int // bytes of a datagram that can be joined with others; -1 for none
	n     int // bytes
	each  int // bytes of the first
	count int
	full  bool // nothing can follow
	queue int  // that needs to be flushed, or -1
}

// next is where to read the next datagram. It sends first what nothing can follow.
func (j *joining) next() []byte {
	if j.full {
		j.send()
	}
	return j.buf[j.n:]
}

// add takes the datagram of n bytes that is at next.
func (j *joining) add(n int) {
	if j.count > 0 && (n > j.each || n == 0 || j.n+n > joinedMost) {
		at := j.n
		j.send()
		copy(j.buf[:], j.buf[at:at+n])
	}
	if j.count == 0 {
		j.each = n
	}
	j.n += n
	j.count++
	j.full = n < j.each || n == 0 || n > j.most
}

func (j *joining) send() {
	if j.count > 0 {
		j.queue = j.f.table.net.link.sendDatagrams(j.f.key.dst, j.f.key.src, j.buf[:j.n], j.each)
	}
	j.n, j.each, j.count, j.full = 0, 0, 0, false
}
