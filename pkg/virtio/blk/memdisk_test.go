package blk_test

import (
	"sync"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

// memDisk is a disk that fails, dawdles and counts as a test wants.
type memDisk struct {
	mu    sync.Mutex
	bytes []byte // guarded by mu

	err     error         // answer to everything, if not nil
	hold    chan struct{} // if not nil, reads and writes wait until it is closed
	waiting atomic.Int64  // how many do
	flushes atomic.Int64
	closed  atomic.Bool
}

func newMemDisk(size int) *memDisk { return &memDisk{bytes: make([]byte, size)} }

func (m *memDisk) Size() int64    { return int64(len(m.bytes)) }
func (m *memDisk) ReadOnly() bool { return false }

func (m *memDisk) enter() error {
	if m.hold != nil {
		m.waiting.Add(1)
		<-m.hold
		m.waiting.Add(-1)
	}
	return m.err
}

func (m *memDisk) ReadVec(v [][]byte, off int64) error {
	if err := m.enter(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	queue.Scatter(v, m.bytes[off:])
	return nil
}

func (m *memDisk) WriteVec(v [][]byte, off int64) error {
	if err := m.enter(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	queue.Gather(m.bytes[off:], v)
	return nil
}

func (m *memDisk) Flush() error                               { m.flushes.Add(1); return m.enter() }
func (m *memDisk) Discard(off, n int64) error                 { return m.enter() }
func (m *memDisk) WriteZeroes(off, n int64, unmap bool) error { return m.enter() }
func (m *memDisk) Close() error                               { m.closed.Store(true); return nil }
