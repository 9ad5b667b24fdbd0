package egress

import "net/netip"

// SniffLimit is how many bytes of a TLS greeting or an HTTP request's head are read
// at most; what has not said its name by then is denied.
const SniffLimit = 16 << 10

// Sniffer reads the first bytes that a guest sends in a TCP flow whose verdict has
// NeedsName, and decides whether they may leave. Until it has, the caller holds the
// bytes back, and passes what comes from the server on: many protocols begin there.
// A Sniffer is not for several goroutines at once.
type Sniffer struct {
	policy *Policy
	flow   Flow
	buf    []byte
	http   httpHead
	done   bool
	last   Verdict
}

// Sniffer returns the sniffer for a flow that Check allowed. f is as it was given to
// Check.
func (p *Policy) Sniffer(f Flow, v Verdict) *Sniffer { return &Sniffer{policy: p, flow: f, last: v} }

// Feed adds what the guest sent. When done is true, the verdict holds for the whole
// flow: on Allow the caller sends Bytes on and goes on without the sniffer,
// otherwise it resets the flow. Until then the verdict says nothing. How long a
// guest may take to get there is the caller's to bound, by End.
func (s *Sniffer) Feed(b []byte) (v Verdict, done bool) {
	if s.done {
		return s.last, true
	}
	s.buf = append(s.buf, b...)
	return s.judge(false)
}

// End decides on what came so far, after the guest's end or a time that the caller
// chose, which is to begin with the guest's first byte: where the server speaks first
// a guest may be silent for long. What may still become TLS or HTTP is denied, and so
// is nothing at all unless the guest ended.
func (s *Sniffer) End(closed bool) Verdict {
	if s.done {
		return s.last
	}
	if len(s.buf) == 0 && closed {
		s.done = true
		return s.last
	}
	v, _ := s.judge(true)
	return v
}

// Bytes are all that Feed was given.
func (s *Sniffer) Bytes() []byte { return s.buf }

// sniffed is what the first bytes of a protocol are found to be.
type sniffed uint8

const (
	sniffMore   sniffed = iota // not known yet
	sniffOther                 // not this protocol
	sniffNames                 // asks for names
	sniffNone                  // asks for no name
	sniffBroken                // this protocol, and not readable
)

func (s *Sniffer) judge(end bool) (Verdict, bool) {
	head := s.buf[:min(len(s.buf), SniffLimit)]
	found, names := sniffTLS(head)
	if found == sniffOther {
		found, names = s.http.sniff(head)
	}
	switch found {
	case sniffMore:
		if !end && len(s.buf) < SniffLimit {
			return Verdict{}, false
		}
		return s.end(Verdict{Reason: NameHidden})
	case sniffOther:
		v := s.last
		return s.end(v)
	case sniffNames:
		var v Verdict
		for _, name := range names {
			if v = s.policy.requested(s.flow, name); !v.Allow {
				break
			}
		}
		return s.end(v)
	case sniffNone:
		v := s.policy.requested(s.flow, "")
		if !v.Allow {
			v.Reason, v.Rule = NameMissing, ""
		}
		return s.end(v)
	}
	return s.end(Verdict{Reason: NameHidden})
}

func (s *Sniffer) end(v Verdict) (Verdict, bool) {
	v.NeedsName = false
	s.done, s.last = true, v
	s.policy.log(KindFirst, s.flow, v)
	return v, true
}

// requested decides on a flow in which the guest asks for a name, or for none. A
// name that is an address counts as that address, which must be the flow's own.
func (p *Policy) requested(f Flow, name string) Verdict {
	f, ok := f.clean()
	if !ok {
		return Verdict{Reason: AddressInvalid}
	}
	var d destination
	shown := name
	if a, err := netip.ParseAddr(name); err == nil {
		if a.Unmap() != f.Dst.Addr() {
			return Verdict{Name: a.WithZone("").String(), Reason: NameInvalid} // a zone may be any text
		}
		name, shown = "", a.WithZone("").String()
	}
	if name != "" {
		canonical, ok := canonicalName(name)
		if !ok {
			return Verdict{Reason: NameInvalid}
		}
		shown = canonical
		d.named = true
		p.match.find(canonical, &d.rules)
		d.answered = p.asking != nil && p.asking.allowsName(canonical, f)
	}
	v, _ := p.decide(f, &d)
	v.Name = shown
	return v
}
