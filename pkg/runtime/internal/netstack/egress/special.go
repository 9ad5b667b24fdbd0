package egress

import (
	"net/netip"
	"slices"
	"time"
)

// special is a range that names and defaults do not open.
type special struct {
	prefix netip.Prefix
	why    Reason
}

// special4 and special6 are IANA's special-purpose registries as far as they are
// not for the public, without the ranges for documentation, which lead nowhere.
// An address belongs to the narrowest range that holds it.
var (
	special4 = []special{
		{netip.MustParsePrefix("0.0.0.0/8"), SpecialReserved},
		{netip.MustParsePrefix("10.0.0.0/8"), SpecialPrivate},
		{netip.MustParsePrefix("100.64.0.0/10"), SpecialPrivate}, // carriers' NAT
		{netip.MustParsePrefix("127.0.0.0/8"), SpecialLoopback},
		{netip.MustParsePrefix("169.254.0.0/16"), SpecialLinkLocal},
		{netip.MustParsePrefix("172.16.0.0/12"), SpecialPrivate},
		{netip.MustParsePrefix("192.0.0.0/24"), SpecialReserved},
		{netip.MustParsePrefix("192.168.0.0/16"), SpecialPrivate},
		{netip.MustParsePrefix("198.18.0.0/15"), SpecialReserved}, // benchmarks
		{netip.MustParsePrefix("224.0.0.0/4"), SpecialMulticast},
		{netip.MustParsePrefix("240.0.0.0/4"), SpecialReserved}, // the broadcast address too

		// The metadata services of clouds hand out credentials of the host. Some are
		// in no special range, or in one that an owner may well open.
		{netip.MustParsePrefix("169.254.169.254/32"), SpecialMetadata}, // nearly all
		{netip.MustParsePrefix("169.254.170.2/32"), SpecialMetadata},   // AWS, containers
		{netip.MustParsePrefix("169.254.170.23/32"), SpecialMetadata},  // AWS, pods
		{netip.MustParsePrefix("168.63.129.16/32"), SpecialMetadata},   // Azure
		{netip.MustParsePrefix("100.100.100.200/32"), SpecialMetadata}, // Alibaba
		{netip.MustParsePrefix("192.0.0.192/32"), SpecialMetadata},     // Oracle
	}
	special6 = []special{
		{netip.MustParsePrefix("::/16"), SpecialReserved}, // IPv4-compatible, translated
		{netip.MustParsePrefix("::1/128"), SpecialLoopback},
		{netip.MustParsePrefix("2001::/23"), SpecialReserved}, // Teredo among others
		{netip.MustParsePrefix("2002::/16"), SpecialReserved}, // 6to4
		{netip.MustParsePrefix("fc00::/7"), SpecialPrivate},
		{netip.MustParsePrefix("fe80::/10"), SpecialLinkLocal},
		{netip.MustParsePrefix("fec0::/10"), SpecialReserved}, // site-local
		{netip.MustParsePrefix("ff00::/8"), SpecialMulticast},
		{netip.MustParsePrefix("fd00:ec2::254/128"), SpecialMetadata},     // AWS
		{netip.MustParsePrefix("fd00:ec2::23/128"), SpecialMetadata},      // AWS, pods
		{netip.MustParsePrefix("fd20:ce::254/128"), SpecialMetadata},      // Google
		{netip.MustParsePrefix("fd00:42::42/128"), SpecialMetadata},       // Scaleway
		{netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), SpecialMetadata}, // IBM, Akamai
	}
	ordinary6 = netip.MustParsePrefix("2000::/3")     // all that is assigned for global use
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 §2.1
)

const (
	// notSpecial is less than the length of any prefix.
	notSpecial = -1
	// reservedBits is how long a rule's prefix must be to open what is not assigned.
	reservedBits = 16
)

// special returns how long a rule's prefix must at least be to name the address on
// purpose, and why; or notSpecial. Prefixes that hold the same address lie inside
// each other, so that a length says which lies inside which.
func (p *Policy) special(a netip.Addr) (bits int, why Reason) {
	if slices.Contains(p.opts.HostAddrs, a) {
		return a.BitLen(), SpecialHost
	}
	if _, ok := p.local.Load().addrs[a]; ok {
		return a.BitLen(), SpecialHost
	}
	if nat64.Contains(a) {
		// With AllowPrivate too: the translator's private networks are not the host's.
		if _, why := ianaSpecial(embedded(a)); why != 0 {
			return nat64.Bits(), why
		}
		if _, why := p.special(embedded(a)); why != 0 {
			return nat64.Bits(), why
		}
		return notSpecial, 0
	}
	if bits, why = ianaSpecial(a); why == 0 {
		bits, why = p.onLink(a)
	}
	if why == SpecialPrivate && p.config.AllowPrivate {
		bits, why = notSpecial, 0
	}
	for _, n := range p.opts.Subnets {
		if n.Contains(a) {
			bits, why = max(bits, n.Bits()), SpecialNetwork
		}
	}
	return bits, why
}

// onLink is special for addresses that are in no range of IANA's.
func (p *Policy) onLink(a netip.Addr) (bits int, why Reason) {
	bits = notSpecial
	for _, n := range p.local.Load().onLink {
		if n.Bits() > bits && n.Contains(a) {
			bits, why = n.Bits(), SpecialPrivate
		}
	}
	return bits, why
}

func ianaSpecial(a netip.Addr) (bits int, why Reason) {
	bits, table := notSpecial, special6
	if a.Is4() {
		table = special4
	}
	for i := range table {
		if s := &table[i]; s.prefix.Bits() > bits && s.prefix.Contains(a) {
			bits, why = s.prefix.Bits(), s.why
		}
	}
	if why == 0 && !a.Is4() && !ordinary6.Contains(a) {
		return reservedBits, SpecialReserved
	}
	return bits, why
}

// embedded returns the IPv4 address in one of NAT64.
func embedded(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// localAddrs are the addresses of the host's interfaces at a time, and their
// networks as far as they are not special anyway.
type localAddrs struct {
	addrs  map[netip.Addr]struct{}
	onLink []netip.Prefix
	at     time.Time
}

// localAge is how old they may be. Asking the kernel takes some 50 µs.
const localAge = 5 * time.Second

// refreshLocal asks for the host's addresses if it is time.
func (p *Policy) refreshLocal(now time.Time) {
	old := p.local.Load()
	if old != nil {
		if age := now.Sub(old.at); age >= 0 && age < localAge {
			return
		}
		// Whoever comes second while one asks goes on with the old ones.
		if !p.local.CompareAndSwap(old, &localAddrs{old.addrs, old.onLink, now}) {
			return
		}
	}
	list := p.opts.LocalAddrs()
	if list == nil {
		return
	}
	next := &localAddrs{addrs: make(map[netip.Addr]struct{}, len(list)), at: now}
	for _, n := range list {
		a := n.Addr().Unmap() // a prefix has no zone
		next.addrs[a] = struct{}{}
		// A network of no bits is everything. One of a single address has no neighbours.
		if _, why := ianaSpecial(a); why != 0 || n.Bits() <= 0 || n.IsSingleIP() {
			continue
		}
		// Of several addresses in one network, as IPv6 has them, one will do.
		if n = netip.PrefixFrom(a, n.Bits()).Masked(); !slices.Contains(next.onLink, n) {
			next.onLink = append(next.onLink, n)
		}
	}
	p.local.Store(next)
}
