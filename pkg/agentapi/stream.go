package agentapi

import "encoding/binary"

// Stream names what a stream connection carries.
type Stream uint8

const (
	Stdin    Stream = 0 // host to guest
	Stdout   Stream = 1 // guest to host
	Stderr   Stream = 2 // guest to host
	Terminal Stream = 3 // both ways; an execution with a terminal has only this one
)

func (s Stream) String() string {
	switch s {
	case Stdin:
		return "stdin"
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	case Terminal:
		return "terminal"
	}
	return "stream " + utoa(uint64(s))
}

// StreamHeaderLen is the size of a [StreamHeader] on the wire, in bytes.
const StreamHeaderLen = 16

// streamMagic is "blxs" as it lies on the wire.
const streamMagic = 0x73786c62

// StreamHeader is the first thing the host writes on a stream connection.
type StreamHeader struct {
	Exec   uint64 // ExecSpec.ID
	Stream Stream
}

// Bytes returns the header as it goes on the wire.
func (h StreamHeader) Bytes() (b [StreamHeaderLen]byte) {
	binary.LittleEndian.PutUint32(b[0:], streamMagic)
	b[4] = Version
	b[5] = uint8(h.Stream)
	binary.LittleEndian.PutUint64(b[8:], h.Exec)
	return b
}

// ParseStreamHeader checks and decodes a header. Errors wrap [ErrFrame].
func ParseStreamHeader(b [StreamHeaderLen]byte) (StreamHeader, error) {
	h := StreamHeader{Exec: binary.LittleEndian.Uint64(b[8:]), Stream: Stream(b[5])}
	switch {
	case binary.LittleEndian.Uint32(b[0:]) != streamMagic:
		return h, &FrameError{"stream header without its mark"}
	case b[4] != Version:
		return h, &FrameError{"stream of protocol version " + utoa(uint64(b[4]))}
	case h.Stream > Terminal || b[6] != 0 || b[7] != 0:
		return h, &FrameError{"stream header of unknown kind " + utoa(uint64(b[5]))}
	}
	return h, nil
}
