package runtime

import (
	"io"
	"sync/atomic"

	"github.com/anthropics/boxlite/pkg/runtime/internal/guest"
	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// newExecution takes over a process. Its connections are closed when it has ended
// and both outputs are read to their end, so that nobody has to.
func newExecution(b *LiteBox, p *guest.Process, cmd BoxCommand) *Execution {
	e := &Execution{box: b, proc: p}
	if p.Stdin != nil {
		e.stdin = &countedInput{p.Stdin, func(n int64) { b.rt.counter.add(b.id, state.CounterSent, n) }}
	}
	received := func(n int64) { b.rt.counter.add(b.id, state.CounterReceived, n) }
	e.tellStart(cmd)
	pending := new(atomic.Int32) // what has to be over before
	over := func() {
		if pending.Add(-1) == 0 {
			p.Close()
		}
	}
	pending.Store(1)
	if p.Stdout != nil {
		pending.Add(1)
		e.stdout = &execOutput{from: p.Stdout, over: over, count: received}
	}
	if p.Stderr != nil {
		pending.Add(1)
		e.stderr = &execOutput{from: p.Stderr, over: over, count: received}
	}
	go func() {
		<-p.Done()
		e.tellEnd()
		over()
	}()
	return e
}

// execOutput is an output of an execution, as its reader sees it.
type execOutput struct {
	from io.Reader
	over func() // called once, at the end
	// count is told of the bytes that were read.
	count func(n int64)
	done  atomic.Bool
}

func (o *execOutput) end() {
	if !o.done.Swap(true) {
		o.over()
	}
}

// Read implements [io.Reader].
func (o *execOutput) Read(p []byte) (int, error) {
	n, err := o.from.Read(p)
	if n > 0 {
		o.count(int64(n))
	}
	if err != nil {
		o.end()
	}
	return n, err
}

// WriteTo implements [io.WriterTo]: where w is a file or a socket, the kernel
// moves the bytes.
func (o *execOutput) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, o.from)
	if n > 0 {
		o.count(n)
	}
	if err == nil {
		o.end()
	}
	return n, err
}

// Close ends the reading: the command's writes fail from then on.
func (o *execOutput) Close() error {
	defer o.end()
	if c, ok := o.from.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
