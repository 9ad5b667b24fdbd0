package blk

import (
	"encoding/binary"

	"github.com/anthropics/boxlite/pkg/virtio"
	"github.com/anthropics/boxlite/pkg/virtio/queue"
)

const ( // §5.2.6: types of request
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13
)

// status is the last byte of a request (§5.2.6).
type status byte

const ( // §5.2.6
	statusOK          status = 0
	statusIOErr       status = 1
	statusUnsupported status = 2
)

const rangeUnmap = 1 // §5.2.6: flag of a WRITE_ZEROES range

// header is a private copy of the fixed part of struct virtio_blk_req (§5.2.6).
type header [16]byte

func (h *header) kind() uint32   { return binary.LittleEndian.Uint32(h[0:]) }
func (h *header) sector() uint64 { return binary.LittleEndian.Uint64(h[8:]) }

// handle does one request and returns the number of bytes it wrote to the chain.
// An error is the driver's: a request that has no room for its status.
func (w *worker) handle(c *queue.Chain) (uint32, error) {
	w.dev.count.requests.Add(1)
	room := c.WritableLen()
	if room == 0 {
		return 0, &virtio.DriverError{Dev: virtio.IDBlock, Section: "5.2.6", Detail: "request has no room for its status"}
	}
	// The layout of the chain says nothing (§2.7.4): header and status may be
	// spread over any descriptors.
	last := c.Writable[len(c.Writable)-1]
	answer := last[len(last)-1:]
	var h header
	st, wrote := statusIOErr, 0
	if queue.Gather(h[:], c.Readable) == len(h) {
		st, wrote = w.do(&h, queue.Skip(c.Readable, len(h)), queue.Prefix(c.Writable, room-1))
	}
	if st != statusOK {
		w.dev.count.failed.Add(1)
		wrote = 0
	}
	answer[0] = byte(st)
	return uint32(wrote) + 1, nil
}

// do carries a request out: out is what the driver sends after the header, in
// is room for the answer before the status.
func (w *worker) do(h *header, out, in [][]byte) (st status, wrote int) {
	d := w.dev
	switch h.kind() {
	case typeIn:
		n := queue.Len(in)
		off, ok := d.extent(h.sector(), n)
		if !ok {
			return statusIOErr, 0
		}
		if err := d.disk.ReadVec(in, off); err != nil {
			return w.failed("read", err), 0
		}
		d.count.read.Add(uint64(n))
		return statusOK, n

	case typeOut:
		n := queue.Len(out)
		off, ok := d.extent(h.sector(), n)
		if !ok || d.disk.ReadOnly() { // §5.2.6.2: whatever was negotiated
			return statusIOErr, 0
		}
		if err := d.disk.WriteVec(out, off); err != nil {
			return w.failed("write", err), 0
		}
		d.count.wrote.Add(uint64(n))
		return w.through(), 0

	case typeFlush:
		return w.flush(), 0

	case typeGetID:
		if queue.Len(in) < serialSize {
			return statusIOErr, 0
		}
		var id [serialSize]byte
		copy(id[:], d.cfg.Serial)
		return statusOK, queue.Scatter(in, id[:])

	case typeDiscard:
		return w.eachRange(out, featureDiscard, maxDiscard, w.discard), 0

	case typeWriteZeroes:
		return w.eachRange(out, featureWriteZeroes, maxZeroes, w.writeZeroes), 0
	}
	return statusUnsupported, 0
}

// extent checks a range of the disk that a guest asks for, and returns its offset.
func (d *Device) extent(sector uint64, n int) (off int64, ok bool) {
	if n%sectorSize != 0 || n > maxRequest || sector > d.sectors || uint64(n/sectorSize) > d.sectors-sector {
		return 0, false
	}
	return int64(sector) * sectorSize, true
}

// flush makes what was written durable. It may take long.
func (w *worker) flush() status {
	w.signal()
	w.dev.count.flushes.Add(1)
	if w.dev.disk.ReadOnly() {
		return statusOK
	}
	if err := w.dev.disk.Flush(); err != nil {
		return w.failed("flush", err)
	}
	return statusOK
}

// through makes a write durable before it is answered, for a driver that did not
// accept FLUSH and so relies on that (§5.2.5.2).
func (w *worker) through() status {
	if w.features.Has(featureFlush) {
		return statusOK
	}
	return w.flush()
}

// eachRange does something for each range of a DISCARD or WRITE_ZEROES request,
// after all of them were checked (§5.2.6.2).
func (w *worker) eachRange(out [][]byte, f virtio.Features, most uint32, do func(off, n int64, unmap bool) status) status {
	d := w.dev
	n := queue.Len(out)
	switch {
	case !w.features.Has(f) && !d.disk.ReadOnly():
		return statusUnsupported
	case d.disk.ReadOnly() || n == 0 || n%rangeSize != 0 || n > len(w.ranges):
		return statusIOErr
	}
	ranges := w.ranges[:queue.Gather(w.ranges[:], out)]
	for p := ranges; len(p) > 0; p = p[rangeSize:] {
		sector, count, flags := parseRange(p)
		unknown := flags &^ rangeUnmap
		if f == featureDiscard {
			unknown = flags
		}
		if unknown != 0 {
			return statusUnsupported
		}
		if count > most || sector > d.sectors || uint64(count) > d.sectors-sector {
			return statusIOErr
		}
	}
	w.signal()
	for p := ranges; len(p) > 0; p = p[rangeSize:] {
		sector, count, flags := parseRange(p)
		if count == 0 {
			continue
		}
		if st := do(int64(sector)*sectorSize, int64(count)*sectorSize, flags&rangeUnmap != 0); st != statusOK {
			return st
		}
	}
	return w.through()
}

// parseRange reads struct virtio_blk_discard_write_zeroes (§5.2.6).
func parseRange(p []byte) (sector uint64, count, flags uint32) {
	le := binary.LittleEndian
	return le.Uint64(p[0:]), le.Uint32(p[8:]), le.Uint32(p[12:])
}

func (w *worker) discard(off, n int64, _ bool) status {
	if err := w.dev.disk.Discard(off, n); err != nil {
		return w.failed("discard from", err)
	}
	return statusOK
}

func (w *worker) writeZeroes(off, n int64, unmap bool) status {
	if err := w.dev.disk.WriteZeroes(off, n, unmap); err != nil {
		return w.failed("zero", err)
	}
	return statusOK
}
