package net

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const ( // §5.1.6.5: classes and commands
	classRX       = 0
	classMAC      = 1
	classMQ       = 4
	classOffloads = 5

	cmdPromisc  = 0 // of classRX
	cmdAllMulti = 1
	cmdMACTable = 0 // of classMAC
	cmdMACAddr  = 1
	cmdPairs    = 0 // of classMQ
	cmdOffloads = 0 // of classOffloads
)

const ( // §5.1.6.5: what a command is answered with
	ackOK  = 0
	ackErr = 1
)

const (
	commandHeader  = 2
	maxCommands    = 64   // done before other queues get a turn
	maxMACTable    = 4096 // addresses in each of the two tables; Linux sends 64
	macSize        = 6
	tableEntries   = 4 // §5.1.6.5.1: le32 before the addresses
	maxCommandData = 8 // of all commands but tables
)

// controlq is the control queue, the worker's own.
type controlq struct {
	q     *queue.Queue // nil while there is none
	index int
	chain queue.Chain
	head  [commandHeader]byte
	data  [maxCommandData]byte
}

// serveControl carries out commands. It returns true if there are more.
func (p *pair) serveControl() (more bool, err error) {
	c := &p.ctrl
	if c.q == nil {
		return false, nil
	}
	c.q.DisableNotify()
	defer p.signal(c.q, c.index)
	for range maxCommands {
		if p.dev.stop.Load() {
			return false, nil
		}
		ok, err := c.q.Pop(&c.chain)
		if err != nil {
			return false, err
		}
		if !ok {
			return c.q.EnableNotify()
		}
		if len(c.chain.Writable) == 0 {
			return false, &virtio.DriverError{Dev: virtio.IDNet, Section: "5.1.6.5", Detail: "command has no room for its answer"}
		}
		p.dev.commands.Add(1)
		ack := byte(ackOK)
		if !c.do(p.dev) {
			p.dev.refused.Add(1)
			ack = ackErr
		}
		c.chain.Writable[0][0] = ack
		if err := c.q.Push(c.chain.Head, 1); err != nil {
			return false, err
		}
	}
	return true, nil
}

// do carries out the command in the chain, and reports whether it could.
func (c *controlq) do(d *Device) bool {
	v := c.chain.Readable
	if queue.Gather(c.head[:], v) < commandHeader {
		return false
	}
	v = queue.Skip(v, commandHeader)
	size := queue.Len(v)
	class, cmd := c.head[0], c.head[1]
	if class == classMAC && cmd == cmdMACTable {
		return d.features.Has(featureCtrlRX) && c.macTables(v)
	}
	if size > maxCommandData {
		return false
	}
	data := c.data[:queue.Gather(c.data[:], v)]
	le := binary.LittleEndian
	switch {
	case class == classRX && (cmd == cmdPromisc || cmd == cmdAllMulti):
		// The host sends the guest nothing that is not for it, so that there is
		// nothing to filter (§5.1.6.5.1: best effort).
		return d.features.Has(featureCtrlRX) && size == 1 && data[0] <= 1
	case class == classMAC && cmd == cmdMACAddr:
		return d.features.Has(featureCtrlMAC) && size == macSize && [macSize]byte(data) == d.cfg.MAC
	case class == classMQ && cmd == cmdPairs:
		return d.features.Has(featureMQ) && size == 2 && d.setPairs(int(le.Uint16(data)))
	case class == classOffloads && cmd == cmdOffloads:
		return d.features.Has(featureGuestOffloads) && size == 8 && d.setOffloads(virtio.Features(le.Uint64(data)))
	}
	return false
}

// macTables checks the two tables of addresses to filter by (§5.1.6.5.1), which
// are of no further use.
func (c *controlq) macTables(v [][]byte) bool {
	for range 2 {
		if queue.Gather(c.data[:tableEntries], v) < tableEntries {
			return false
		}
		n := binary.LittleEndian.Uint32(c.data[:])
		v = queue.Skip(v, tableEntries)
		if n > maxMACTable || queue.Len(v) < int(n)*macSize {
			return false
		}
		v = queue.Skip(v, int(n)*macSize)
	}
	return len(v) == 0
}

// setPairs is the driver's choice of how many pairs it listens on (§5.1.6.5.5).
func (d *Device) setPairs(n int) bool {
	if n < 1 || n > len(d.pairs) {
		return false
	}
	d.listening.Store(uint32(n))
	d.each(func(p *pair, _ *queue.Queue) {
		was := p.rx.active
		p.rx.active = p.index < n
		if p.rx.active && !was {
			p.announce()
		}
	})
	return true
}

// setOffloads is the driver's choice of what it takes, among what was agreed
// (§5.1.6.5.8).
func (d *Device) setOffloads(f virtio.Features) bool {
	if f&^(d.features&featuresGuest) != 0 {
		return false
	}
	o := toGuest(f)
	d.offloads.Store(uint32(o))
	d.each(func(p *pair, _ *queue.Queue) {
		p.rx.offloads = o
		p.announce()
	})
	return true
}

// announce makes the pair's goroutine call Ready. Preconditions: rx.mu.
func (p *pair) announce() {
	p.rx.waiting, p.rx.fresh = true, true
	p.bell.Ring()
}
