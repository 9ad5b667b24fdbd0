package vsock

// token names a spliced connection to the poller. A slot that is used again has
// another generation, so that late events of its last user are recognised.
type token struct{ slot, gen int32 }

// readiness is what the poller found.
type readiness struct {
	token
	in, out bool
	gone    bool // the other end neither reads nor writes any more
}

// poller waits for sockets and a doorbell at once.
type poller interface {
	// bell returns the eventfd that makes wait return, or -1 where systems have none.
	bell() int
	// wake makes wait return, now or on its next call.
	wake()
	// add starts to watch a socket; set changes what for, remove ends it. All
	// three may be called while another goroutine waits. Interest in neither
	// direction is allowed: gone is then reported once, where that is possible.
	add(fd int, t token, in, out bool) error
	set(fd int, t token, in, out bool) error
	remove(fd int, t token)
	// wait returns the sockets that are ready, as long as they are; with block
	// it waits for one, or for the doorbell. What it returns is valid until the
	// next call. One goroutine at a time.
	wait(block bool) ([]readiness, error)
	close() error
}

// slots gives spliced connections their tokens. The zero value is empty.
type slots struct {
	all  []slotEntry
	free []int32
}

type slotEntry struct {
	conn *Conn
	gen  int32
}

func (s *slots) take(c *Conn) token {
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		s.all[i].conn = c
		return token{i, s.all[i].gen}
	}
	s.all = append(s.all, slotEntry{conn: c})
	return token{int32(len(s.all) - 1), 0}
}

// find returns nil for a token that was given back.
func (s *slots) find(t token) *Conn {
	if t.slot < 0 || int(t.slot) >= len(s.all) || s.all[t.slot].gen != t.gen {
		return nil
	}
	return s.all[t.slot].conn
}

func (s *slots) giveBack(t token) {
	e := &s.all[t.slot]
	e.conn = nil
	e.gen++
	s.free = append(s.free, t.slot)
}
