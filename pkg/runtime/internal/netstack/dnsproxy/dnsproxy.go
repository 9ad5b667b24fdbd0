// Package dnsproxy is the DNS server of a box: it forwards what the box's policy
// allows to the host's resolvers, and tells the policy which addresses the box got.
//
// A name that the policy denies is answered NXDOMAIN, for every type, and nothing of
// it leaves the host. REFUSED would say it better, but musl drops such an answer and
// waits for another until its time is over, and glibc tries on and calls the failure
// temporary; NXDOMAIN ends the search in both at once. It carries no SOA, so that no
// cache keeps it (RFC 2308 §5), and says "blocked" as an extended error (RFC 8914)
// to clients that know EDNS.
//
// Where names matter to the policy, HTTPS and SVCB questions are answered with
// nothing: these records hold addresses that would not be pinned, and the keys by
// which a client hides for whom its TLS greeting is. Clients go on with A and AAAA.
//
// A name that is an alias (CNAME) of one which a rule denies is answered like that one.
//
// Answers that point into special ranges are passed on. Whether such an address may
// be reached is decided where it is used, whatever the name says, so removing it
// would add nothing against rebinding, and would break names of networks that the
// rules open, and those that mean the box's own loopback.
//
// TTLs are at most 5 minutes, which is what pins hold at least: no client uses an
// address from its cache longer than the policy knows it.
package dnsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// Policy decides which names may be resolved. *egress.Policy is one.
type Policy interface {
	Lookup(ctx context.Context, name string) egress.Verdict
	Pin(name string, addrs []netip.Addr, ttl time.Duration)
	NameRules() bool
	DeniesName(name string) bool // by a rule of its own
}

var _ Policy = (*egress.Policy)(nil)

// Options of a server. All may be left out.
type Options struct {
	Policy Policy // nil allows everything

	// Static are names that are answered here, whatever the policy says: the host's
	// and the box's own. Questions for the names of these addresses are too.
	Static map[string][]netip.Addr

	// Upstreams are the resolvers; by default those of the file ResolvConf, which is
	// /etc/resolv.conf by default and read again when it changes.
	Upstreams  []netip.AddrPort
	ResolvConf string

	NoIPv6 bool // AAAA is answered with nothing

	// Dial opens the connections to resolvers; the network is "udp" or "tcp".
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Concurrent  int           // queries at once, 256 by default; what comes on top fails
	IdleTimeout time.Duration // of streams, 10 seconds by default
}

const (
	maxTTL     = 300 // seconds
	staticTTL  = 60
	maxPinned  = 256 // addresses of one answer
	maxAliases = 16  // CNAMEs on the way to an address
	blocked    = 15  // RFC 8914 §4.16
)

// Server answers queries. Its methods may be called from any goroutine.
type Server struct {
	opts     Options
	slots    chan struct{}
	static   map[string][]netip.Addr
	reverse  map[string]string // names of addresses, by the name that is asked for
	resolver resolver
}

// New returns a server. It holds nothing that has to be closed.
func New(o Options) *Server {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Concurrent <= 0 {
		o.Concurrent = 256
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 10 * time.Second
	}
	s := &Server{
		opts: o, slots: make(chan struct{}, o.Concurrent),
		static: make(map[string][]netip.Addr), reverse: make(map[string]string),
	}
	for name, addrs := range o.Static {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		for _, a := range addrs {
			a = a.Unmap().WithZone("")
			s.static[name] = append(s.static[name], a)
			// Of several names the first in order, so that it is always the same.
			if old, ok := s.reverse[reverseName(a)]; !ok || name < old {
				s.reverse[reverseName(a)] = name
			}
		}
	}
	s.resolver = resolver{dial: o.Dial, conf: confFile{path: o.ResolvConf, fixed: o.Upstreams}}
	return s
}

// Handle answers one query, or returns nil where no answer is due. maxSize is what
// the client's transport carries, 0 for a stream; an answer over UDP is cut to what
// the query itself allows too. It blocks until the resolvers answered or failed.
func (s *Server) Handle(ctx context.Context, msg []byte, maxSize int) []byte {
	if len(msg) < headerSize || be.Uint16(msg[2:])&flagQR != 0 {
		return nil // answering answers would let two servers play for ever
	}
	q, rcode, err := parseQuery(msg)
	if err != nil {
		return q.reply(rcode, 0)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return q.opt(q.reply(rcodeServer, 0), -1)
	}
	limit := maxMessage
	if maxSize > 0 {
		limit = min(maxSize, q.size)
	}
	return q.fit(s.answer(ctx, &q), limit)
}

func (s *Server) answer(ctx context.Context, q *query) []byte {
	switch {
	case q.class != classIN:
		return q.opt(q.reply(rcodeNotImplemented, 0), -1)
	case q.typ == typeAXFR || q.typ == typeIXFR:
		return q.opt(q.reply(rcodeRefused, 0), -1)
	}
	if out := s.answerStatic(q); out != nil {
		return out
	}
	names := false
	if p := s.opts.Policy; p != nil {
		if !p.Lookup(ctx, q.name).Allow {
			return q.opt(q.reply(rcodeName, 0), blocked)
		}
		names = p.NameRules()
	}
	if names && (q.typ == typeHTTPS || q.typ == typeSVCB || q.typ == typeANY) || s.opts.NoIPv6 && q.typ == typeAAAA {
		return q.opt(q.reply(0, 0), -1)
	}
	out, err := s.resolver.exchange(ctx, q)
	if err == nil {
		err = s.adopt(q, out, names)
	}
	switch {
	case errors.Is(err, errAlias):
		return q.opt(q.reply(rcodeName, 0), blocked)
	case err != nil:
		return q.opt(q.reply(rcodeServer, 0), -1)
	}
	return out
}

// errAlias says that a name stands for one that is denied.
var errAlias = errors.New("dnsproxy: alias of a name that is denied")

// adopt makes a resolver's answer one of ours and pins its addresses.
func (s *Server) adopt(q *query, msg []byte, names bool) error {
	off, answers := headerSize+len(q.question), int(be.Uint16(msg[6:]))
	aliases := map[string]string{}
	type address struct {
		owner string
		addr  netip.Addr
	}
	var found []address
	i := 0
	ttl := uint32(maxTTL)
	visit := func(r record) {
		i++
		if r.typ == typeOPT {
			return
		}
		rr := be.Uint32(msg[r.fixed+4:])
		if rr>>31 != 0 { // RFC 2181 §8
			rr = 0
		}
		rr = min(rr, maxTTL)
		be.PutUint32(msg[r.fixed+4:], rr)
		if names && (r.typ == typeHTTPS || r.typ == typeSVCB) {
			// Taking it out would move what compressed names point to.
			be.PutUint16(msg[r.fixed:], typeNone)
		}
		if i > answers || r.class != classIN {
			return
		}
		switch size := r.end - r.data; {
		case r.typ == typeA && size == 4 || r.typ == typeAAAA && size == 16:
			if a, _ := netip.AddrFromSlice(msg[r.data:r.end]); len(found) < maxPinned {
				found, ttl = append(found, address{nameAt(msg, r.at), a}), min(ttl, rr)
			}
		case r.typ == typeCNAME && len(aliases) < maxAliases:
			aliases[nameAt(msg, r.at)] = nameAt(msg, r.data)
		}
	}
	count := answers + int(be.Uint16(msg[8:])) + int(be.Uint16(msg[10:]))
	end, err := records(msg, off, count, visit)
	if err != nil || end != len(msg) {
		return errMessage
	}
	be.PutUint16(msg, q.id)
	be.PutUint16(msg[2:], be.Uint16(msg[2:])|flagRA)
	copy(msg[headerSize:], q.question) // the case in which the client wrote it

	if s.opts.Policy == nil {
		return nil
	}
	chain := map[string]bool{q.name: true}
	for name, ok := aliases[q.name]; ok && !chain[name]; name, ok = aliases[name] {
		if s.opts.Policy.DeniesName(name) {
			return errAlias
		}
		chain[name] = true
	}
	if len(found) == 0 {
		return nil
	}
	var addrs []netip.Addr
	for _, f := range found {
		if chain[f.owner] {
			addrs = append(addrs, f.addr)
		}
	}
	s.opts.Policy.Pin(q.name, addrs, time.Duration(ttl)*time.Second)
	return nil
}

// nameAt returns a name whose place was walked before, or "" for one in data that
// is not readable.
func nameAt(msg []byte, off int) string {
	var text strings.Builder
	if _, err := readName(msg, off, &text); err != nil {
		return "\x00" // matches no name
	}
	return text.String()
}

// fit cuts an answer that is longer than its client takes, which comes again by TCP.
func (q *query) fit(msg []byte, limit int) []byte {
	if len(msg) <= limit {
		return msg
	}
	out := q.opt(q.reply(int(be.Uint16(msg[2:])&rcodeMask), flagTC), -1)
	if len(out) > limit {
		return nil
	}
	return out
}
