package vmm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// ErrGone is wrapped when a box's VMM process ended, or cannot be reached.
var ErrGone = errors.New("the box's VMM process does not answer")

// ask sends a request to the VMM of the box in a folder.
func ask(ctx context.Context, dir string, q request) (net.Conn, *response, error) {
	conn, err := dialUnix(ctx, filepath.Join(dir, socketName))
	if err != nil {
		return nil, nil, fmt.Errorf("vmm: %w: %w", ErrGone, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	var a response
	err = func() error {
		b, err := appendFrame(appendRequest(make([]byte, 0, 256), servicePort), q)
		if err != nil {
			return err
		}
		if _, err := conn.Write(b); err != nil {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		if err := readFrame(conn, &a); err != nil {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil
	}()
	if !stop() && err == nil {
		err = ctx.Err() // the deadline may have been set already
	}
	if err == nil && a.Error != nil {
		err = a.Error
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("vmm: %s: %w", q.Op, errors.Join(ctx.Err(), err))
	}
	return conn, &a, nil
}

// tell is ask for requests that have no more to them.
func tell(ctx context.Context, dir string, q request) error {
	conn, _, err := ask(ctx, dir, q)
	if err != nil {
		return err
	}
	return conn.Close()
}

// AskStop has the box in a folder stop in order. It returns when that has begun.
func AskStop(ctx context.Context, dir string, grace time.Duration) error {
	return tell(ctx, dir, request{Op: opStop, Grace: grace})
}

// Signal sends a signal to the main command of the box in a folder, by its
// number on Linux. The error of a guest that refused is an *agentapi.Error.
func Signal(ctx context.Context, dir string, sig int) error {
	return tell(ctx, dir, request{Op: opSignal, Signal: sig})
}

// Resize sets the size of the main command's terminal.
func Resize(ctx context.Context, dir string, rows, cols uint16) error {
	return tell(ctx, dir, request{Op: opResize, Rows: rows, Cols: cols})
}

// Adopt has the box in a folder outlive its parent.
func Adopt(ctx context.Context, dir string) error { return tell(ctx, dir, request{Op: opAdopt}) }

// MainEnded reports whether the main command of the box in a folder has ended, or is
// not run this time, and
// the box is about to stop.
func MainEnded(ctx context.Context, dir string) (bool, error) {
	conn, r, err := ask(ctx, dir, request{Op: opStatus})
	if err != nil {
		return false, err
	}
	return r.Ended || r.Idle, conn.Close()
}

// Attachment is a connection to a box's main command.
type Attachment struct {
	TTY   bool
	Stdin io.WriteCloser // nil for none; closing it is the end of the command's input
	// Stdout and Stderr end when the command has closed them. Closing one before
	// that closes it for the command, unless the box is detached.
	Stdout, Stderr io.ReadCloser // nil without AttachRequest.Output; Stderr also with a terminal

	conn    net.Conn
	writing sync.Mutex
	closing atomic.Bool
	out     [2]*buffer
	noInput chan struct{} // closed when the command takes none any more
	done    chan struct{} // closed when the connection has ended
	result  *MainResult   // valid when done, nil if it did not end in order
	err     error         // valid when done
}

// Attach connects to the main command of the box in a folder. The caller closes
// the attachment.
func Attach(ctx context.Context, dir string, q AttachRequest) (*Attachment, error) {
	conn, r, err := ask(ctx, dir, request{Op: opAttach, Attach: &q})
	if err != nil {
		return nil, err
	}
	a := &Attachment{TTY: r.TTY, conn: conn, noInput: make(chan struct{}), done: make(chan struct{})}
	if r.Stdin {
		a.Stdin = inputWriter{a}
	}
	if q.Output {
		a.out[0] = newBuffer()
		a.Stdout = outputReader{a, a.out[0], recCloseStdout}
		if !r.TTY {
			a.out[1] = newBuffer()
			a.Stderr = outputReader{a, a.out[1], recCloseStderr}
		}
	}
	go a.receive()
	return a, nil
}

// Done is closed when the command has ended and all its output has been
// received, or the connection is lost.
func (a *Attachment) Done() <-chan struct{} { return a.done }

// Result is how the command ended, once Done is closed. An error wraps ErrGone.
func (a *Attachment) Result() (*MainResult, error) { return a.result, a.err }

// Close leaves the command alone.
func (a *Attachment) Close() error {
	a.closing.Store(true)
	err := a.conn.Close()
	for _, b := range a.out {
		if b != nil {
			b.discard() // receive must not wait for a reader
		}
	}
	<-a.done
	return err
}

// receive is the only reader of the connection.
func (a *Attachment) receive() {
	a.result, a.err = a.records(bufio.NewReaderSize(a.conn, recordLimit+recordHead))
	a.conn.Close() // nothing comes after the end
	if a.closing.Load() && a.result == nil {
		a.err = net.ErrClosed
	}
	for _, b := range a.out {
		if b != nil {
			b.end(a.err)
		}
	}
	close(a.done)
}

func (a *Attachment) records(r *bufio.Reader) (*MainResult, error) {
	for {
		kind, n, err := readHead(r)
		if err != nil {
			return nil, fmt.Errorf("vmm: attached: %w: %w", ErrGone, err)
		}
		switch kind {
		case recStdout, recStderr:
			b := a.out[kind-recStdout]
			if b == nil {
				b = discarding // not asked for, or of a terminal that has only one
			}
			if n == 0 {
				b.end(nil)
			} else if err := b.fill(r, n); err != nil {
				return nil, fmt.Errorf("vmm: attached: %w: %w", ErrGone, err)
			}
		case recStdinEnd:
			if n != 0 {
				return nil, errRecord
			}
			select {
			case <-a.noInput:
			default:
				close(a.noInput)
			}
		case recExit:
			if n > exitLimit {
				return nil, errRecord
			}
			b := make([]byte, n)
			if _, err := io.ReadFull(r, b); err != nil {
				return nil, fmt.Errorf("vmm: attached: %w: %w", ErrGone, err)
			}
			m := new(MainResult)
			if err := json.Unmarshal(b, m); err != nil {
				return nil, fmt.Errorf("vmm: how the command ended: %w", err)
			}
			return m, nil
		default:
			return nil, fmt.Errorf("%w: type %#x", errRecord, kind)
		}
	}
}

// send writes one record.
func (a *Attachment) send(kind byte, p []byte) error {
	rec := record(kind, p)
	a.writing.Lock()
	defer a.writing.Unlock()
	_, err := a.conn.Write(rec)
	return err
}

// inputWriter is the command's input.
type inputWriter struct{ a *Attachment }

func (w inputWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		select {
		case <-w.a.noInput:
			return n, io.ErrClosedPipe
		default:
		}
		piece := p[:min(len(p), recordLimit/2)]
		if err := w.a.send(recStdin, piece); err != nil {
			return n, err
		}
		n += len(piece)
		p = p[len(piece):]
	}
	return n, nil
}

func (w inputWriter) Close() error { return w.a.send(recStdin, nil) }

// outputReader is one of the command's outputs.
type outputReader struct {
	a *Attachment
	*buffer
	kind byte
}

func (r outputReader) Close() error {
	if r.discard() {
		return r.a.send(r.kind, nil)
	}
	return nil
}
