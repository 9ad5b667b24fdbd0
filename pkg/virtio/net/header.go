package net

import "encoding/binary"

// Header is struct virtio_net_hdr without num_buffers (§5.1.6): what is left to
// do to a frame. The zero value is a plain frame.
type Header struct {
	Flags      uint8  // [NeedsCsum] or [DataValid]
	GSOType    uint8  // one of the GSO constants
	HdrLen     uint16 // bytes of all headers of the frame; a hint only
	GSOSize    uint16 // bytes of payload of each segment
	CsumStart  uint16 // where the checksum begins, from the start of the frame
	CsumOffset uint16 // where it is to be stored, from CsumStart
}

const ( // §5.1.6: Header.Flags
	// NeedsCsum says that the checksum field holds that of the pseudo header, and
	// the rest from CsumStart on is still to be added.
	NeedsCsum = 1
	// DataValid says that the checksums were checked. Only frames to the guest carry it.
	DataValid = 2
)

const ( // §5.1.6: Header.GSOType
	GSONone = 0
	GSOTCP4 = 1 // TCP over IPv4
	GSOTCP6 = 4 // TCP over IPv6
	GSOUDP  = 5 // UDP datagrams, all but the last of GSOSize bytes (VIRTIO_NET_HDR_GSO_UDP_L4)
)

const (
	headerSize = 12 // with num_buffers, which is there whatever was agreed (§5.1.6.1)
	ethSize    = 14
	maxGSO     = 1<<16 - 1 + ethSize // an IP packet of any size
)

// wireHeader is struct virtio_net_hdr as it is in a buffer (§5.1.6).
type wireHeader [headerSize]byte

func (w *wireHeader) decode(h *Header) {
	le := binary.LittleEndian
	*h = Header{w[0], w[1], le.Uint16(w[2:]), le.Uint16(w[4:]), le.Uint16(w[6:]), le.Uint16(w[8:])}
}

func (w *wireHeader) encode(h *Header, buffers int) {
	le := binary.LittleEndian
	w[0], w[1] = h.Flags, h.GSOType
	le.PutUint16(w[2:], h.HdrLen)
	le.PutUint16(w[4:], h.GSOSize)
	le.PutUint16(w[6:], h.CsumStart)
	le.PutUint16(w[8:], h.CsumOffset)
	le.PutUint16(w[10:], uint16(buffers))
}

// segments says which offload a type of GSO is.
func segments(gsoType uint8) (Offloads, bool) {
	switch gsoType {
	case GSONone:
		return 0, true
	case GSOTCP4:
		return OffloadTSO4, true
	case GSOTCP6:
		return OffloadTSO6, true
	case GSOUDP:
		return OffloadUSO, true
	}
	return 0, false
}
