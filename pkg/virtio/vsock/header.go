package vsock

import "encoding/binary"

// headerSize is the length of struct virtio_vsock_hdr (§5.10.6).
const headerSize = 44

// header is a private copy of struct virtio_vsock_hdr: the guest's is copied
// once, and the copy is judged.
type header [headerSize]byte

const ( // §5.10.6: offsets in struct virtio_vsock_hdr
	offSrcCID   = 0
	offDstCID   = 8
	offSrcPort  = 16
	offDstPort  = 20
	offLen      = 24
	offType     = 28
	offOp       = 30
	offFlags    = 32
	offBufAlloc = 36
	offFwdCnt   = 40
)

func (h *header) srcCID() uint64   { return binary.LittleEndian.Uint64(h[offSrcCID:]) }
func (h *header) dstCID() uint64   { return binary.LittleEndian.Uint64(h[offDstCID:]) }
func (h *header) srcPort() uint32  { return binary.LittleEndian.Uint32(h[offSrcPort:]) }
func (h *header) dstPort() uint32  { return binary.LittleEndian.Uint32(h[offDstPort:]) }
func (h *header) len() uint32      { return binary.LittleEndian.Uint32(h[offLen:]) }
func (h *header) typ() uint16      { return binary.LittleEndian.Uint16(h[offType:]) }
func (h *header) op() op           { return op(binary.LittleEndian.Uint16(h[offOp:])) }
func (h *header) flags() uint32    { return binary.LittleEndian.Uint32(h[offFlags:]) }
func (h *header) bufAlloc() uint32 { return binary.LittleEndian.Uint32(h[offBufAlloc:]) }
func (h *header) fwdCnt() uint32   { return binary.LittleEndian.Uint32(h[offFwdCnt:]) }

func (h *header) setAddrs(srcCID, dstCID uint64, srcPort, dstPort uint32) {
	binary.LittleEndian.PutUint64(h[offSrcCID:], srcCID)
	binary.LittleEndian.PutUint64(h[offDstCID:], dstCID)
	binary.LittleEndian.PutUint32(h[offSrcPort:], srcPort)
	binary.LittleEndian.PutUint32(h[offDstPort:], dstPort)
}

func (h *header) setOp(typ uint16, o op, flags, length uint32) {
	binary.LittleEndian.PutUint32(h[offLen:], length)
	binary.LittleEndian.PutUint16(h[offType:], typ)
	binary.LittleEndian.PutUint16(h[offOp:], uint16(o))
	binary.LittleEndian.PutUint32(h[offFlags:], flags)
}

func (h *header) setCredit(bufAlloc, fwdCnt uint32) {
	binary.LittleEndian.PutUint32(h[offBufAlloc:], bufAlloc)
	binary.LittleEndian.PutUint32(h[offFwdCnt:], fwdCnt)
}

// typeStream is the only socket type of this device (§5.10.6).
const typeStream = 1

// op says what a packet is for.
type op uint16

const ( // §5.10.6
	opRequest       op = 1 // connect
	opResponse      op = 2 // connected
	opReset         op = 3
	opShutdown      op = 4
	opData          op = 5 // VIRTIO_VSOCK_OP_RW
	opCreditUpdate  op = 6
	opCreditRequest op = 7
)

const ( // §5.10.6.5: flags of opShutdown
	shutReceive = 1 // the sender of the flag will not receive any more
	shutSend    = 2 // the sender of the flag will not send any more
	shutBoth    = shutReceive | shutSend
)
