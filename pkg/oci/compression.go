package oci

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxZstdWindow is the memory a zstd layer may make its reader use; it is what
// the zstd program itself accepts without a flag (RFC 8878 §3.1.1.1.2).
const maxZstdWindow = 128 << 20

var (
	gzipMagic  = []byte{0x1f, 0x8b}
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	xzMagic    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	bzip2Magic = []byte("BZh")
)

// decompress returns the plain bytes of r, whichever of gzip, zstd and nothing
// it is compressed with. Close releases the decoder, not r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, err
		}
		return zr, nil
	case bytes.HasPrefix(head, zstdMagic) || isSkippableFrame(head):
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return zr.IOReadCloser(), nil
	case bytes.HasPrefix(head, xzMagic):
		return nil, fail(ErrUnsupported, "compressed with xz; gzip, zstd and none are supported")
	case bytes.HasPrefix(head, bzip2Magic):
		return nil, fail(ErrUnsupported, "compressed with bzip2; gzip, zstd and none are supported")
	}
	return io.NopCloser(br), nil
}

// isSkippableFrame: zstd:chunked and eStargz-like layers may begin with one
// (RFC 8878 §3.1.2).
func isSkippableFrame(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}

func isCompressed(head []byte) bool {
	for _, m := range [][]byte{gzipMagic, zstdMagic, xzMagic, bzip2Magic} {
		if bytes.HasPrefix(head, m) {
			return true
		}
	}
	return false
}
