package netstack

import (
	"io"

	"golang.org/x/sys/unix"
)

// socketWriter writes to a socket of the host as far as it takes bytes at once.
type socketWriter struct {
	fd      int
	written uint64
	full    bool
	err     error
}

func (w *socketWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(w.fd, p[done:])
		if n > 0 {
			done += n
			w.written += uint64(n)
			continue
		}
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			w.full = true
		default:
			w.err = err
		}
		return done, io.ErrShortWrite
	}
	return done, nil
}

// socketReader reads from a socket of the host what is known to be there: the stack
// asks for that many bytes and no more.
type socketReader struct {
	fd, left int
	err      error
}

// Len implements [tcpip.Payloader].
func (r *socketReader) Len() int { return r.left }

func (r *socketReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	} else if len(p) == 0 { // the stack asks whether there is more
		return 0, nil
	}
	for {
		n, err := unix.Read(r.fd, p[:min(len(p), r.left)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			r.err = err
			return 0, err
		case n == 0: // it said that there is more
			r.err = io.ErrUnexpectedEOF
			return 0, r.err
		}
		r.left -= n
		return n, nil
	}
}

// readable looks at what a socket has to read: bytes, its end, or nothing yet, which
// is EAGAIN.
func readable(fd int) (r socketReader, end bool, err error) {
	n, err := unix.IoctlGetInt(fd, pending)
	if err != nil {
		return r, false, err
	}
	if n == 0 { // nothing, an error, or the end
		var b [1]byte
		for {
			n, _, err = unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				break
			}
		}
		if err != nil {
			return r, false, err
		} else if n == 0 {
			return r, true, nil
		}
		n = 1 // it came in between
	}
	return socketReader{fd: fd, left: min(n, chunk)}, false, nil
}
