package dnsproxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// answerStatic answers what is known here, or returns nil.
func (s *Server) answerStatic(q *query) []byte {
	if name, ok := s.reverse[q.name]; ok {
		out := q.reply(0, flagAA)
		if q.typ == typePTR || q.typ == typeANY {
			var data []byte
			for label := range strings.SplitSeq(name, ".") {
				data = append(append(data, byte(len(label))), label...)
			}
			out = addRecord(out, typePTR, append(data, 0))
		}
		return q.opt(out, -1)
	}
	addrs, ok := s.static[q.name]
	if !ok {
		return nil
	}
	out := q.reply(0, flagAA)
	for _, a := range addrs {
		switch {
		case a.Is4() && (q.typ == typeA || q.typ == typeANY):
			out = addRecord(out, typeA, a.AsSlice())
		case a.Is6() && (q.typ == typeAAAA || q.typ == typeANY) && !s.opts.NoIPv6:
			out = addRecord(out, typeAAAA, a.AsSlice())
		}
	}
	return q.opt(out, -1)
}

// addRecord adds an answer for the name of the question.
func addRecord(out []byte, typ uint16, data []byte) []byte {
	be.PutUint16(out[6:], be.Uint16(out[6:])+1)
	out = append(out, 0xc0, headerSize, byte(typ>>8), byte(typ), 0, classIN, 0, 0, 0, staticTTL, byte(len(data)>>8), byte(len(data)))
	return append(out, data...)
}

// reverseName is the name under which the name of an address is asked for.
func reverseName(a netip.Addr) string {
	var b strings.Builder
	bytes := a.AsSlice()
	for i := len(bytes) - 1; i >= 0; i-- {
		if a.Is4() {
			fmt.Fprintf(&b, "%d.", bytes[i])
		} else {
			fmt.Fprintf(&b, "%x.%x.", bytes[i]&15, bytes[i]>>4)
		}
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}
