package egress

import (
	"context"
	"net/netip"
	"slices"
)

// Lookup tells whether the box may resolve a name: whether the rules would allow
// any flow to it. Rules for addresses say nothing about names, so a list of allowed
// addresses alone lets no name be resolved. With Default Ask it waits for the
// answer, as long as ctx allows.
func (p *Policy) Lookup(ctx context.Context, name string) Verdict {
	v := p.lookup(name)
	if v.Reason == NoAnswer {
		if canonical, ok := canonicalName(name); ok {
			v = p.asking.verdict(ctx, question{name: canonical}, Request{Name: canonical})
		}
	}
	p.log(KindLookup, Flow{}, v)
	return v
}

// lookup decides without asking.
func (p *Policy) lookup(name string) Verdict {
	canonical, ok := canonicalName(name)
	if !ok && p.NameRules() {
		return Verdict{Reason: NameInvalid}
	}
	v := Verdict{Name: canonical}
	var set ruleSet
	if ok {
		p.match.find(canonical, &set)
	}
	for i := range p.match.rules {
		r := &p.match.rules[i]
		if r.kind == rulePrefix || r.kind == ruleByName && !set.has(i) {
			continue
		}
		if !r.deny || r.all() {
			v.Allow, v.Rule, v.Reason = !r.deny, r.text, ByRule
			return v
		}
	}
	switch p.config.Default {
	case Allow:
		v.Allow, v.Reason = true, ByDefault
	case Ask:
		return p.asking.cached(question{name: canonical}, v)
	default:
		v.Reason = ByDefault
	}
	return v
}

// DeniesName tells whether a rule denies all flows to a name, as what it stands for
// otherwise: the aliases on the way to a name's addresses.
func (p *Policy) DeniesName(name string) bool {
	canonical, ok := canonicalName(name)
	if !ok {
		return false
	}
	var set ruleSet
	p.match.find(canonical, &set)
	for i := range p.match.rules {
		if r := &p.match.rules[i]; set.has(i) && (!r.deny || r.all()) {
			return r.deny
		}
	}
	return false
}

// Check tells whether the box may open a flow. With Default Ask it may wait for the
// answer, as long as ctx allows; otherwise it does not block, nor allocate.
func (p *Policy) Check(ctx context.Context, f Flow) Verdict {
	v := p.check(ctx, f)
	p.log(KindFlow, f, v)
	return v
}

func (p *Policy) check(ctx context.Context, f Flow) Verdict {
	f, ok := f.clean()
	if !ok {
		return Verdict{Reason: AddressInvalid}
	}
	now := p.opts.Now()
	p.refreshLocal(now)

	p.mu.RLock()
	var d destination
	e := p.pins.byAddr[f.Dst.Addr()]
	if d.named = e.live(now); d.named {
		for i := range e.names {
			if n := &e.names[i]; e.counts(n, now) {
				d.rules.join(&n.class.rules)
				d.answered = d.answered || n.answered && e.allows(n, now)
			}
		}
	}
	v, rule := p.decide(f, &d)
	if d.named && v.Name == "" {
		v.Name = e.nameFor(rule)
	}
	p.mu.RUnlock()

	if v.Reason == NoAnswer {
		q := question{flow: f}
		if v.Name != "" {
			// One answer for all the addresses of a name.
			q = question{name: v.Name, flow: Flow{f.Protocol, netip.AddrPortFrom(netip.Addr{}, f.Dst.Port())}}
		}
		named := v.Name != ""
		v = p.asking.verdict(ctx, q, Request{Name: v.Name, Flow: f})
		v.NeedsName = v.Allow && named && f.Protocol == TCP
	}
	return v
}

// nameFor returns the name that a rule matched, or the latest.
func (e *pinned) nameFor(rule int) string {
	if rule >= 0 {
		for i := range e.names {
			if e.names[i].class.rules.has(rule) {
				return e.names[i].name
			}
		}
	}
	return e.names[len(e.names)-1].name
}

func (f Flow) clean() (Flow, bool) {
	a := f.Dst.Addr().Unmap().WithZone("")
	f.Dst = netip.AddrPortFrom(a, f.Dst.Port())
	switch f.Protocol {
	case TCP, UDP:
		return f, a.IsValid() && f.Dst.Port() != 0
	case ICMP:
		f.Dst = netip.AddrPortFrom(a, 0)
		return f, a.IsValid()
	}
	return f, false
}

// destination is what is known of the names of a flow's destination.
type destination struct {
	named    bool
	rules    ruleSet // by name that match one of the names
	answered bool    // Options.Ask allowed one of the names
}

// decide evaluates the rules. The rule is that which decided by a name, or -1.
// NoAnswer as the reason says that it is to be asked for.
func (p *Policy) decide(f Flow, d *destination) (v Verdict, rule int) {
	dst, port := f.Dst.Addr(), f.Dst.Port()
	bits, why := p.special(dst)
	isHost := why == SpecialHost && slices.Contains(p.opts.HostAddrs, dst)
	rules := &d.rules
	if isHost {
		// Of the host's address only the host's own name counts, whatever pins say.
		v.Name = p.opts.HostName
		rules = &ruleSet{}
		if p.host != nil {
			rules = &p.host.rules
		}
	}
	var mapped netip.Addr // what NAT64 makes of it
	if nat64.Contains(dst) {
		mapped = embedded(dst)
	}

	passed, doubt := false, false // a denial by name, that may or may not be of this destination
	for i := range p.match.rules {
		r := &p.match.rules[i]
		if !r.covers(f.Protocol, port) {
			continue
		}
		switch r.kind {
		case rulePrefix:
			switch {
			case r.deny && (r.prefix.Contains(dst) || mapped.IsValid() && r.prefix.Contains(mapped)):
			case !r.deny && r.prefix.Bits() >= bits && r.prefix.Contains(dst):
			default:
				continue
			}
			v.Allow, v.Rule, v.Reason = !r.deny, r.text, ByRule
			return v, -1
		case ruleAny:
			if r.deny {
				v.Rule, v.Reason = r.text, ByRule
				return v, -1
			}
			if bits != notSpecial {
				continue
			}
			if doubt {
				v.Reason = NameUnknown
				return v, -1
			}
			v.Allow, v.Rule, v.Reason, v.NeedsName = true, r.text, ByRule, passed && f.Protocol == TCP
			return v, -1
		case ruleByName:
			match := rules.has(i)
			if r.deny && !match {
				passed, doubt = true, doubt || !d.named && !isHost
				continue
			}
			switch {
			case !match:
				continue
			case r.deny:
			case isHost && r.name != p.opts.HostName: // a wildcard does not mean the host
				continue
			case !isHost && bits != notSpecial:
				continue
			}
			v.Allow, v.Rule, v.Reason = !r.deny, r.text, ByRule
			v.NeedsName = v.Allow && f.Protocol == TCP && !isHost
			return v, i
		}
	}
	switch {
	case isHost && p.config.AllowHost:
		v.Allow, v.Reason = true, ByHost
	case bits != notSpecial:
		v.Reason = why
	case p.config.Default == Ask && d.answered:
		v.Allow, v.Reason, v.NeedsName = true, ByAnswer, f.Protocol == TCP
	case p.config.Default == Ask:
		v.Reason = NoAnswer
	case p.config.Default != Allow:
		v.Reason = ByDefault
	case doubt:
		v.Reason = NameUnknown
	default:
		v.Allow, v.Reason, v.NeedsName = true, ByDefault, passed && f.Protocol == TCP
	}
	return v, -1
}
