package erofs

import (
	"fmt"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

const (
	// maxChunks bounds the chunks of one file: 4 bytes of index each.
	maxChunks = 1 << 24
	// maxChunkShift bounds the chunk size to 64 MiB.
	maxChunkShift = 14
	// maxSparseOverhead bounds what the sparse files of one layer may cost
	// beyond their data: chunk maps and zeros around data in partly used
	// chunks.
	maxSparseOverhead = 1 << 30
)

// holes returns the stretches of a sparse file that have no data.
func holes(h *tarstream.Header) []tarstream.Segment {
	var out []tarstream.Segment
	var at int64
	for _, s := range h.Segments {
		if s.Offset > at {
			out = append(out, tarstream.Segment{Offset: at, Length: s.Offset - at})
		}
		at = s.Offset + s.Length
	}
	if at < h.Size {
		out = append(out, tarstream.Segment{Offset: at, Length: h.Size - at})
	}
	return out
}

// planChunks chooses the chunk size that costs the fewest bytes and returns
// the map for it and the bytes it costs beyond the data.
func planChunks(h *tarstream.Header) (*chunkMap, int64, error) {
	var best *chunkMap
	bestCost := int64(-1)
	for bits := uint8(0); bits <= maxChunkShift; bits++ {
		shift := blockBits + bits
		chunks := (h.Size + 1<<shift - 1) >> shift
		if chunks > maxChunks {
			continue
		}
		m, stored := mapChunks(h, bits)
		if cost := chunks*4 + stored<<shift; bestCost < 0 || cost < bestCost {
			best, bestCost = m, cost
		}
	}
	if best == nil || bestCost-h.Stored > maxSparseOverhead {
		return nil, 0, fmt.Errorf("sparse file of %d bytes in %d pieces: %w", h.Size, len(h.Segments), ErrLimit)
	}
	return best, bestCost - h.Stored, nil
}

// mapChunks returns the runs of chunks that have data, and how many chunks
// they are.
func mapChunks(h *tarstream.Header, bits uint8) (*chunkMap, int64) {
	shift := blockBits + bits
	m := &chunkMap{bits: bits}
	var stored, next int64 // next: first chunk behind the last run
	for _, s := range h.Segments {
		first, last := s.Offset>>shift, (s.Offset+s.Length-1)>>shift
		if first < next {
			first = next // shares a chunk with the segment before
		}
		if last < first {
			continue
		}
		if n := len(m.runs); n > 0 && first == next {
			m.runs[n-1].count += uint32(last - first + 1)
		} else {
			m.runs = append(m.runs, chunkRun{uint32(first - next), uint32(last - first + 1)})
		}
		stored += last - first + 1
		next = last + 1
	}
	return m, stored
}

// sparseContents stores the chunks that have data. The last chunk of a file is
// stored only up to the block its end is in.
func (c *converter) sparseContents(h *tarstream.Header) (err error) {
	e := &c.entry
	m, overhead, err := planChunks(h)
	if err != nil {
		return err
	}
	if c.overhead += overhead; c.overhead > maxSparseOverhead {
		return fmt.Errorf("sparse files cost %d bytes beyond their data: %w", c.overhead, ErrLimit)
	}
	e.sparse = m
	if e.block, err = c.blob.begin(); err != nil {
		return err
	}
	w := sparseWriter{blob: c.blob, m: e.sparse, size: h.Size}
	segs := h.Segments
	var done int64 // bytes of segs[0] written
	err = c.tar.Data(func(b []byte) error {
		for len(b) > 0 {
			n := min(int64(len(b)), segs[0].Length-done)
			if err := w.writeAt(segs[0].Offset+done, b[:n]); err != nil {
				return err
			}
			b, done = b[n:], done+n
			if done == segs[0].Length {
				segs, done = segs[1:], 0
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.finish()
}

// sparseWriter lays data at increasing offsets of a file into its stored
// chunks, with zeros between.
type sparseWriter struct {
	blob *blobWriter
	m    *chunkMap
	size int64

	run   int   // current run
	chunk int64 // its first chunk
	begun bool
	at    int64 // offset in the file that the blob's end stands for
}

func (w *sparseWriter) shift() uint8 { return blockBits + w.m.bits }

// start makes the run current if it is not yet.
func (w *sparseWriter) start() {
	if !w.begun {
		w.chunk += int64(w.m.runs[w.run].skip)
		w.at = w.chunk << w.shift()
		w.begun = true
	}
}

// end returns the file offset behind the current run.
func (w *sparseWriter) end() int64 {
	end := (w.chunk + int64(w.m.runs[w.run].count)) << w.shift()
	return min(end, align(w.size, BlockSize))
}

func (w *sparseWriter) closeRun() error {
	w.start()
	if err := w.blob.zero(w.end() - w.at); err != nil {
		return err
	}
	w.chunk += int64(w.m.runs[w.run].count)
	w.run, w.begun = w.run+1, false
	return nil
}

func (w *sparseWriter) writeAt(off int64, b []byte) error {
	for w.start(); off >= w.end(); w.start() {
		if err := w.closeRun(); err != nil {
			return err
		}
	}
	if err := w.blob.zero(off - w.at); err != nil {
		return err
	}
	w.at = off + int64(len(b))
	return w.blob.write(b)
}

func (w *sparseWriter) finish() error {
	for w.run < len(w.m.runs) {
		if err := w.closeRun(); err != nil {
			return err
		}
	}
	return w.blob.pad()
}
