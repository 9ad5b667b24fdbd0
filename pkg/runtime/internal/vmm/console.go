package vmm

import (
	"errors"
	"os"
	"sync"
)

const (
	consoleLimit = 512 << 10 // bytes per console file; one older file is kept
	tailLimit    = 8 << 10   // bytes of the console that a report shows
)

// console keeps what a guest prints: on disk in two files of bounded size, and
// the tail in memory. Write never fails towards the guest: a full disk costs
// the log, not the box.
type console struct {
	mu      sync.Mutex
	path    string
	file    *os.File
	written int
	tail    []byte
	seen    uint64 // bytes
	panics  panicWatch
}

func newConsole(path string) (*console, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &console{path: path, file: f, written: int(fi.Size())}, nil
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.panics.see(p)
	c.seen += uint64(len(p))
	c.keepTail(p)
	if c.file == nil {
		return len(p), nil
	}
	if c.written+len(p) > consoleLimit {
		c.rotate()
	}
	n, err := c.file.Write(p)
	c.written += n
	if err != nil {
		c.file.Close()
		c.file = nil
	}
	return len(p), nil
}

func (c *console) rotate() {
	// The open file follows the rename, so a failure just lets it grow once more.
	if os.Rename(c.path, c.path+".1") != nil {
		c.written = 0
		return
	}
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		c.written = 0
		return
	}
	c.file.Close()
	c.file, c.written = f, 0
}

func (c *console) keepTail(p []byte) {
	if len(p) >= tailLimit {
		c.tail = append(c.tail[:0], p[len(p)-tailLimit:]...)
		return
	}
	if over := len(c.tail) + len(p) - tailLimit; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	c.tail = append(c.tail, p...)
}

// Seen is the number of bytes printed so far.
func (c *console) Seen() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// Tail returns the last output, made safe to print.
func (c *console) Tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Printable(c.tail)
}

// Panicked reports whether the kernel said that it panicked, and with what.
func (c *console) Panicked() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.panics.message()
}

func (c *console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}
