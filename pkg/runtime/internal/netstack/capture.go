package netstack

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// Capture is where captured frames go.
type Capture = io.WriteCloser

// pcap's file format (draft-ietf-opsawg-pcap): nanoseconds, Ethernet.
const (
	pcapMagic    = 0xa1b23c4d
	pcapEthernet = 1
	pcapSnap     = 256 << 10
)

// recorder writes frames in pcap format. What it writes is complete up to a frame
// after at most a second, also when the process is killed.
type recorder struct {
	mu      sync.Mutex
	to      io.WriteCloser
	w       *bufio.Writer
	flushed time.Time
	err     error
}

func newRecorder(to io.WriteCloser) *recorder {
	r := &recorder{to: to, w: bufio.NewWriterSize(to, 256<<10)}
	h := binary.LittleEndian.AppendUint32(nil, pcapMagic)
	h = binary.LittleEndian.AppendUint16(h, 2) // version
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...)
	h = binary.LittleEndian.AppendUint32(h, pcapSnap)
	h = binary.LittleEndian.AppendUint32(h, pcapEthernet)
	_, r.err = r.w.Write(h)
	return r
}

// frame writes one. After an error, a full disk for one, nothing more is written.
func (r *recorder) frame(at time.Time, v [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	size := queue.Len(v)
	var h [16]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(at.Unix()))
	binary.LittleEndian.PutUint32(h[4:], uint32(at.Nanosecond()))
	binary.LittleEndian.PutUint32(h[8:], uint32(size))
	binary.LittleEndian.PutUint32(h[12:], uint32(size))
	if _, r.err = r.w.Write(h[:]); r.err != nil {
		return
	}
	for _, b := range v {
		if _, r.err = r.w.Write(b); r.err != nil {
			return
		}
	}
	if at.Sub(r.flushed) > time.Second {
		r.err, r.flushed = r.w.Flush(), at
	}
}

func (r *recorder) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = r.w.Flush()
	}
	if err := r.to.Close(); r.err == nil {
		r.err = err
	}
	return r.err
}
