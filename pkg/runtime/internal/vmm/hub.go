package vmm

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	maxAttached  = 64        // clients of one box at a time
	backlogLimit = 256 << 10 // bytes of the latest output that are kept for late clients
)

// hub passes the main command's output on to all attached clients. A client that
// reads slowly slows the command, as a pipe would; one that is gone is dropped.
type hub struct {
	mu      sync.Mutex
	clients map[*attached]bool
	ring    []byte // the latest records, whole ones
	exit    []byte // the last record, once there is one
	closed  bool
}

// attached is a client of the hub.
type attached struct {
	conn    *net.UnixConn
	output  bool
	writing sync.Mutex // held for one record at a time, and until the client is up to date; taken before hub.mu
}

var errBusy = errors.New("vmm: too many clients are attached")

// add enters a client whose writing is locked by the caller, and returns the
// records that it missed. After that the client gets everything.
func (h *hub) add(c *attached, backlog bool) (missed []byte, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, net.ErrClosed
	case len(h.clients) >= maxAttached:
		return nil, errBusy
	}
	if h.clients == nil {
		h.clients = make(map[*attached]bool)
	}
	h.clients[c] = true
	if backlog && c.output {
		missed = append(missed, h.ring...)
	}
	return append(missed, h.exit...), nil
}

// drop forgets a client and takes care that nobody waits for it.
func (h *hub) drop(c *attached) {
	h.mu.Lock()
	delete(h.clients, c)
	h.mu.Unlock()
	c.abandon()
}

// abandon has the client's pending write fail and its reader see an end. The
// reader closes the connection: closing it with bytes unread would take back
// from the client what it has not read yet.
func (c *attached) abandon() {
	c.conn.SetWriteDeadline(time.Unix(1, 0))
	c.conn.CloseRead()
}

// output passes a record of output on and keeps it for those who come later.
func (h *hub) output(rec []byte) { h.pass(rec, true) }

// notice passes on a record that is only of interest now.
func (h *hub) notice(rec []byte) { h.pass(rec, false) }

func (h *hub) pass(rec []byte, keep bool) {
	h.mu.Lock()
	if keep {
		h.keep(rec)
	}
	list := h.list()
	h.mu.Unlock()
	for _, c := range list {
		if c.output {
			h.send(c, rec)
		}
	}
}

func (h *hub) list() []*attached {
	list := make([]*attached, 0, len(h.clients))
	for c := range h.clients {
		list = append(list, c)
	}
	return list
}

// send writes one record to a client, which is dropped if it cannot take it.
func (h *hub) send(c *attached, rec []byte) {
	c.writing.Lock()
	_, err := c.conn.Write(rec)
	c.writing.Unlock()
	if err != nil {
		h.drop(c)
	}
}

// keep adds a record to the ring, from whose head half goes when it is full.
func (h *hub) keep(rec []byte) {
	if len(h.ring)+len(rec) > backlogLimit {
		from := 0
		for from < len(h.ring) && len(h.ring)-from > backlogLimit/2 {
			from += recordHead + int(binary.LittleEndian.Uint32(h.ring[from+1:]))
		}
		h.ring = append(h.ring[:0], h.ring[from:]...)
	}
	h.ring = append(h.ring, rec...)
}

// finish sends the last record to all, now and to those who come later.
func (h *hub) finish(rec []byte) {
	h.mu.Lock()
	h.exit = rec
	list := h.list()
	h.mu.Unlock()
	for _, c := range list {
		h.send(c, rec)
	}
}

// hurry drops the clients that take no output at this moment.
func (h *hub) hurry() {
	h.mu.Lock()
	list := h.list()
	h.mu.Unlock()
	for _, c := range list {
		if c.writing.TryLock() {
			c.writing.Unlock()
		} else {
			h.drop(c)
		}
	}
}

// close lets go of all clients. What was sent to them they can still read.
func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	list := h.list()
	h.clients = nil
	h.mu.Unlock()
	for _, c := range list {
		c.abandon()
	}
}
