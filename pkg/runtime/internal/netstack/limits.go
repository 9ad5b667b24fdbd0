package netstack

import "golang.org/x/sys/unix"

// limits bound what of the host a guest can have in use. A connection, and a flow of
// datagrams, is a descriptor each, of which the process needs some for other things.
type limits struct {
	tcp     int64 // connections, those that are being opened too
	udp     int   // flows of datagrams
	opening int   // of each kind on their way to being open
}

// limitsOf are those for a process that can have so many descriptors.
func limitsOf(descriptors uint64) limits {
	n := int(min(descriptors, 1<<20))
	return limits{tcp: int64(min(maxTCP, n/2)), udp: min(maxUDP, n/8), opening: min(maxOpening, n/16)}
}

func processLimits() limits {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		r.Cur = 256 // what the poorest system has
	}
	return limitsOf(r.Cur)
}
