package netstack

import "golang.org/x/sys/unix"

// limits bound what of the host a guest can have in use. Each is a descriptor, of
// which the process needs some for other things.
type limits struct {
	tcp     int64 // connections, those that are being opened too
	udp     int   // flows of datagrams
	opening int   // of each kind on their way to being open; flows that had to go meanwhile may still have a socket
	queries int64 // to resolvers, and connections for them
	pings   int   // runs of echo requests
}

// limitsOf are those for a process that can have so many descriptors. All together
// take five eighths: a quarter is for volumes (vmm's descriptorShare), and an eighth
// stays for everything else.
func limitsOf(descriptors uint64) limits {
	n := int(min(descriptors, 1<<20))
	l := limits{
		udp: min(maxUDP, n/8), opening: min(maxOpening, n/16),
		queries: int64(min(maxQueries, n/8)), pings: min(maxPings, n/32),
	}
	l.tcp = min(maxTCP, int64(n/8*5-l.udp-l.opening-l.pings)-l.queries)
	return l
}

func processLimits() limits {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		r.Cur = 256 // what the poorest system has
	}
	return limitsOf(r.Cur)
}
