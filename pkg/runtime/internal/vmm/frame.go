package vmm

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// Parent and child talk in frames: a 32-bit little-endian length, then JSON.

const frameLimit = 16 << 20 // bytes; both ends are ours, this only keeps a mix-up from eating memory

func writeFrame(w io.Writer, v any) error {
	b, err := appendFrame(nil, v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func appendFrame(to []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return to, err
	}
	return append(binary.LittleEndian.AppendUint32(to, uint32(len(b))), b...), nil
}

func readFrame(r io.Reader, v any) error { return readFrameLimit(r, v, frameLimit) }

func readFrameLimit(r io.Reader, v any, limit uint32) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > limit {
		return fmt.Errorf("vmm: frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
