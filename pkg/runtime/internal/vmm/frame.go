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
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > frameLimit {
		return fmt.Errorf("vmm: frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
