package erofstest

import (
	"bytes"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzWalk: the reader fails on any bytes, it does not panic or hang. The
// checksum is made right, so that the rest is reached.
func FuzzWalk(f *testing.F) {
	b := make([]byte, block)
	le.PutUint32(b[1024:], 0xE0F5E1E2)
	b[1024+12] = 12
	le.PutUint32(b[1024+8:], 3)
	le.PutUint16(b[1024+14:], 36) // root at 1152
	le.PutUint64(b[1024+16:], 1)
	le.PutUint32(b[1024+36:], 1)
	root := b[1152:]
	le.PutUint16(root, 2<<1)
	le.PutUint16(root[4:], 0x41ed)
	le.PutUint16(root[6:], 2)
	le.PutUint32(root[8:], 27)
	data := root[32:]
	le.PutUint64(data, 36)
	le.PutUint16(data[8:], 24)
	data[10] = 2
	le.PutUint64(data[12:], 36)
	le.PutUint16(data[20:], 25)
	data[22] = 2
	copy(data[24:], "...")
	seal := func(b []byte) {
		le.PutUint32(b[1028:], 0)
		le.PutUint32(b[1028:], ^crc32.Checksum(b[1024:block], crc32.MakeTable(crc32.Castagnoli)))
	}
	seal(b)
	img, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(f, err)
	files, err := img.Walk()
	require.NoError(f, err)
	require.Len(f, files, 1)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < block || len(b) > 1<<20 {
			return
		}
		b = append([]byte(nil), b...)
		seal(b)
		img, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		img.MaxHash = 1 << 16
		_, _ = img.Walk()
	})
}
