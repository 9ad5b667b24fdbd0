package netstack

import "errors"

// How a connection or a flow can end, beside what the host says of its sockets.
var (
	errClosed   = errors.New("the box ended")
	errDenied   = errors.New("denied by the policy")
	errTooMany  = errors.New("too many connections")
	errTimeout  = errors.New("timed out")
	errReset    = errors.New("guest: connection reset by peer")
	errRefused  = errors.New("guest: connection refused")
	errSilent   = errors.New("guest: no answer")
	errOrphan   = errors.New("guest: took nothing of what was left for long")
	errNoMemory = errors.New("no memory for what waits to be judged")
)
