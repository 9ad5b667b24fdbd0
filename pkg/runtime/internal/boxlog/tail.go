package boxlog

import (
	"bufio"
	"errors"
	"io"
	"os"
)

// place is where a line begins.
type place struct {
	file   int
	offset int64
	amid   [len(streamNames)]bool // streams that were in the middle of an earlier line
}

// maxTail is more lines than a log has.
const maxTail = fileCount * fileLimit

// findTail finds where the last n lines of files, oldest first, begin, and which
// streams are in the middle of an earlier line there. Lines of both streams count;
// one in several entries counts once.
func findTail(list []*os.File, n int) (file int, offset int64, amid [len(streamNames)]bool, err error) {
	n = min(n, maxTail)
	var lines []place
	var began [len(streamNames)]*place // lines that have not ended
	at := place{}
	for i, f := range list {
		at.file, at.offset = i, 0
		r := bufio.NewReaderSize(f, maxLine)
		for {
			b, rerr := r.ReadSlice('\n')
			if rerr == io.EOF {
				break // also what a crash left unfinished
			}
			if errors.Is(rerr, bufio.ErrBufferFull) {
				at.offset += int64(len(b)) // none of ours
				continue
			} else if rerr != nil {
				return 0, 0, amid, rerr
			}
			if e, perr := ParseLine(b[:len(b)-1]); perr == nil {
				if began[e.Stream] == nil {
					p := at
					for s := range began {
						p.amid[s] = began[s] != nil
					}
					began[e.Stream] = &p
				}
				if !e.Partial {
					lines = append(lines, *began[e.Stream])
					began[e.Stream] = nil
					if len(lines) > 2*n+2 { // keep the last n, and copy seldom
						lines = append(lines[:0], lines[len(lines)-n:]...)
					}
				}
			}
			at.offset += int64(len(b))
		}
	}
	for _, p := range began { // lines without an end count, as `tail` has it
		if p != nil {
			lines = append(lines, *p)
		}
	}
	if n == 0 || len(lines) == 0 {
		for s := range began {
			amid[s] = began[s] != nil
		}
		return at.file, at.offset, amid, nil
	}
	lines = lines[max(0, len(lines)-n):]
	first := lines[0]
	for _, p := range lines[1:] { // lines of two streams may have begun in another order than they ended
		if p.file < first.file || p.file == first.file && p.offset < first.offset {
			first = p
		}
	}
	return first.file, first.offset, first.amid, nil
}
