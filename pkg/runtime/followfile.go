package runtime

import (
	"errors"
	"io"
	"os"
)

// fileFollower reads a log that is moved aside, to its name with ".1", when it is
// full. Of what is written faster than it reads there may be gaps.
type fileFollower struct {
	path string
	file *os.File // nil while there is none
	buf  [32 << 10]byte
}

func (f *fileFollower) close() {
	if f.file != nil {
		f.file.Close()
	}
}

// begin returns what there is: up to limit bytes of the log before and of this.
func (f *fileFollower) begin(limit int64) (text []byte, err error) {
	for {
		before, err := openOrNil(f.path + ".1")
		if err != nil {
			return nil, err
		}
		if f.file, err = openOrNil(f.path); err == nil {
			// It may have been moved in between, and the log after the one before be missing.
			var same bool
			if same, err = isAt(before, f.path+".1"); err == nil && same {
				text, err = readPart(before, limit)
			} else if err == nil {
				f.close()
				closeFile(before)
				continue
			}
		}
		closeFile(before)
		if err != nil {
			return nil, err
		}
		now, err := readPart(f.file, limit) // the rest follows
		return append(text, now...), err
	}
}

func openOrNil(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

func readPart(f *os.File, limit int64) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// isAt reports whether a path leads to this file, or to none if there is no file.
func isAt(f *os.File, path string) (bool, error) {
	now, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return f == nil, nil
	} else if err != nil || f == nil {
		return false, err
	}
	mine, err := f.Stat()
	return err == nil && os.SameFile(mine, now), err
}

// copy gives take what has come since. The bytes are take's until it returns; its
// error ends the copy.
func (f *fileFollower) copy(take func([]byte) error) error {
	for {
		// Before the look: of a log that was moved aside by now the look sees the end.
		now, err := os.Stat(f.path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // not begun yet, or the box is gone
		} else if err != nil {
			return err
		}
		moved := f.file == nil
		if f.file != nil {
			if err := f.copyFile(take); err != nil {
				return err
			}
			mine, err := f.file.Stat()
			if err != nil {
				return err
			}
			moved = !os.SameFile(mine, now)
		}
		if !moved {
			return nil
		}
		next, err := openOrNil(f.path)
		if next == nil {
			return err
		}
		f.close()
		f.file = next
	}
}

func (f *fileFollower) copyFile(take func([]byte) error) error {
	for {
		n, err := f.file.Read(f.buf[:])
		if n > 0 {
			if terr := take(f.buf[:n]); terr != nil {
				return terr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
