package netstack

import (
	"encoding/binary"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	flagFin = header.TCPFlagFin
	flagSyn = header.TCPFlagSyn
	flagRst = header.TCPFlagRst
	flagPsh = header.TCPFlagPsh
	flagAck = header.TCPFlagAck
)

const (
	leastMSS = 88 // below it Linux takes a guest's for a lie (TCP_MIN_MSS)
	// noScale is the shift of a SYN that offers none (RFC 7323 §2.2).
	noScale = -1
)

// segment is the header of a TCP segment (RFC 9293 §3.1).
type segment struct {
	seq, ack uint32
	flags    header.TCPFlags
	window   uint16
	mss      uint16 // of a SYN
	shift    int8   // of a SYN: [noScale], or 0 to 14
}

// decode reads a header, options included.
func (s *segment) decode(h header.TCP) {
	*s = segment{seq: h.SequenceNumber(), ack: h.AckNumber(), flags: h.Flags(), window: h.WindowSize(), shift: noScale}
	if s.flags&flagSyn != 0 {
		o := header.ParseSynOptions(h[header.TCPMinimumSize:], s.flags&flagAck != 0)
		s.mss, s.shift = max(o.MSS, leastMSS), int8(o.WS)
	}
}

// after reports whether a sequence number comes after another (RFC 9293 §3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }

// length is how much of the sequence a segment with n bytes takes.
func (s *segment) length(n int) uint32 {
	if s.flags&flagSyn != 0 {
		n++
	}
	if s.flags&flagFin != 0 {
		n++
	}
	return uint32(n)
}

// synOptions is the length of a SYN's to the guest.
const synOptions = header.TCPOptionMSSLength + header.TCPOptionWSLength + 1

// encode writes the headers of a segment to the guest, with so many bytes to follow, into
// head, which has room for them. The checksum is that of the pseudo-header.
func (s *segment) encode(head []byte, key *flowKey, size int) []byte {
	n := header.TCPMinimumSize
	if s.flags&flagSyn != 0 {
		n += header.TCPOptionMSSLength
		if s.shift != noScale {
			n = header.TCPMinimumSize + synOptions
		}
	}
	at := ethernetHeader + ipHeaderLen(key.dst.Addr())
	h := head[:at+n]
	sum := encodeIP(h[:at], key.dst.Addr(), key.src.Addr(), header.TCPProtocolNumber, n+size)
	tcp := header.TCP(h[at:])
	tcp.Encode(&header.TCPFields{
		SrcPort: key.dst.Port(), DstPort: key.src.Port(), SeqNum: s.seq, AckNum: s.ack,
		DataOffset: uint8(n), Flags: s.flags, WindowSize: s.window, Checksum: sum,
	})
	if s.flags&flagSyn != 0 {
		o := tcp[header.TCPMinimumSize:]
		o = o[header.EncodeMSSOption(uint32(s.mss), o):]
		if s.shift != noScale {
			header.EncodeWSOption(int(s.shift), o)
			o[header.TCPOptionWSLength] = header.TCPOptionNOP
		}
	}
	return h
}

// takesSegments reports whether the guest takes many segments in one frame.
func (l *link) takesSegments() bool {
	return l.nic != nil && l.nic.Offloads().Has(vnet.OffloadCsum|vnet.OffloadTSO4|vnet.OffloadTSO6)
}

// sendSegment hands a segment to the guest's card: two pieces of payload, and how many
// bytes of it go into one segment of a larger frame. The guest hears of it with the next
// flush of the queue. When there is no room in the guest's ring, the flow is told when
// there is again; without one, the segment waits as other packets do. Preconditions: the
// flow's mu; more than one segment is allowed by takesSegments; without a flow there is no
// payload.
func (l *link) sendSegment(f *tcpFlow, key *flowKey, s *segment, a, b []byte, each int) vnet.Status {
	q := l.pairOf(key.src.Port(), key.dst.Port())
	if l.nic == nil {
		return vnet.Down
	}
	out := &l.queues[q]
	out.mu.Lock()
	defer out.mu.Unlock()
	size := len(a) + len(b)
	head := s.encode(out.head[:], key, size)
	at := ethernetHeader + ipHeaderLen(key.dst.Addr())
	out.header = vnet.Header{}
	if l.offloadsChecksums() {
		out.header = vnet.Header{Flags: vnet.NeedsCsum, CsumStart: uint16(at), CsumOffset: header.TCPChecksumOffset}
	} else {
		var c checksum.Checksumer
		c.Add(head[at:])
		c.Add(a)
		c.Add(b)
		binary.BigEndian.PutUint16(head[at+header.TCPChecksumOffset:], ^c.Checksum())
	}
	if size > each {
		out.header.GSOType, out.header.GSOSize, out.header.HdrLen = vnet.GSOTCP4, uint16(each), uint16(len(head))
		if key.dst.Addr().Is6() {
			out.header.GSOType = vnet.GSOTCP6
		}
	}
	out.pieces = append(out.pieces[:0], head)
	if len(a) > 0 {
		out.pieces = append(out.pieces, a)
	}
	if len(b) > 0 {
		out.pieces = append(out.pieces, b)
	}
	status := vnet.Full // who waits goes first
	if len(out.backlog) == 0 {
		status = out.transmit(l, q)
	}
	switch {
	case status == vnet.Full && f == nil:
		out.keepFrame(l, head, nil, header.TCPChecksumOffset)
	case status == vnet.Full:
		if !f.blocked {
			f.blocked, f.blockedOn = true, q
			out.block(f)
		}
	case status != vnet.Sent:
		l.net.count.lost.Add(1)
	}
	return status
}
