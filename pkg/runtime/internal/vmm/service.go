package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// The VMM process serves the box itself on box.sock, too, under a port number
// that no vsock port has (VMADDR_PORT_ANY). Client and server write a frame each
// (see frame.go), the request and its response; neither waits for the reply to
// the connection's own request. All but an attachment ends there.
//
// After the response to an attach request both sides send records: a type byte, a
// little-endian 32-bit length, so many bytes.
const servicePort = 0xffffffff

// Ops of a request.
const (
	opAttach = "attach" // to the main command
	opStop   = "stop"   // the box, in order
	opSignal = "signal" // the main command
	opResize = "resize" // its terminal
	opAdopt  = "adopt"  // the parent's death ends the box no longer
	opStatus = "status" // of the main command

	opNetwork    = "network"     // its counters and ports
	opAddPort    = "add port"    //
	opRemovePort = "remove port" //
	opDecide     = "decide"      // on destinations that no rule of the policy knows; questions and answers follow as frames
)

// request is what a client asks of the box.
type request struct {
	Op         string
	Grace      time.Duration  `json:",omitempty"` // stop
	Signal     int            `json:",omitempty"` // signal
	Rows, Cols uint16         `json:",omitempty"` // resize
	Attach     *AttachRequest `json:",omitempty"`
	Port       *Port          `json:",omitempty"` // add port, remove port
}

// AttachRequest says what a client wants of the main command.
type AttachRequest struct {
	Start      bool   // start the command if it was held; the response comes when it runs
	Output     bool   // standard output and error; without it only the end
	Backlog    bool   // what was written before, as far as it is remembered
	Rows, Cols uint16 // of the terminal, 0 for as it is
}

// response answers a request.
type response struct {
	Error *agentapi.Error `json:",omitempty"`
	TTY   bool            `json:",omitempty"` // attach: the command has a terminal
	Stdin bool            `json:",omitempty"` // attach: it has a standard input
	Ended bool            `json:",omitempty"` // status: the command has ended
	Idle  bool            `json:",omitempty"` // status: there is none in this run

	Network *NetworkStats `json:",omitempty"` // network
	Ports   []Port        `json:",omitempty"` // network; add port: the one that was opened
}

// Types of records. Data records without data are the end of the stream.
const (
	recStdin       = 0x10 // up
	recCloseStdout = 0x11 // up: nobody reads it any more; ends it for the command of a box that is not detached
	recCloseStderr = 0x12 // up
	recStdout      = 0x20 // down
	recStderr      = 0x21 // down
	recStdinEnd    = 0x22 // down: the command takes no more input
	recExit        = 0x23 // down, last: a MainResult as JSON
)

const (
	recordHead  = 5
	recordLimit = 64 << 10 // bytes of data, either way
	exitLimit   = 16 << 10 // bytes of a recExit; agent errors are shorter

	// requestLimit bounds the frame of a request, of which the largest has a few numbers.
	requestLimit = 4 << 10
)

// putHead writes the head of a record over the first bytes of b.
func putHead(b []byte, kind byte, n int) {
	b[0] = kind
	binary.LittleEndian.PutUint32(b[1:], uint32(n))
}

// record is a whole record in one piece of memory.
func record(kind byte, data []byte) []byte {
	b := make([]byte, recordHead+len(data))
	putHead(b, kind, len(data))
	copy(b[recordHead:], data)
	return b
}

var errRecord = errors.New("vmm: malformed record")

// readHead reads the head of the next record and checks its length. io.EOF
// means that the stream ended before it.
func readHead(r io.Reader) (kind byte, n int, err error) {
	var h [recordHead]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, 0, err
	}
	size := binary.LittleEndian.Uint32(h[1:])
	if size > recordLimit {
		return 0, 0, fmt.Errorf("%w: %d bytes of type %#x", errRecord, size, h[0])
	}
	return h[0], int(size), nil
}

// MainResult says how a main command ended.
type MainResult struct {
	Status  agentapi.ExitStatus
	Refused *agentapi.Error `json:",omitempty"` // it was never started, and Status is of no meaning
}

// ExitCode is what the result counts as: the exit code, minus the number of the
// signal, or the code that shells give commands that cannot be started.
func (r *MainResult) ExitCode() int {
	switch {
	case r.Refused != nil:
		return RefusedCode(r.Refused)
	case r.Status.Signal&0x7f != 0: // the guest's word
		return -int(r.Status.Signal & 0x7f)
	}
	return int(r.Status.Code) & 0xff // what the guest says is only believed as far as it can be true
}

// RefusedCode is the exit code of a shell for a command that did not start.
func RefusedCode(err error) int {
	switch {
	case errors.Is(err, agentapi.ErrNotFound):
		return 127
	case errors.Is(err, agentapi.ErrNotExecutable):
		return 126
	}
	return 125
}
