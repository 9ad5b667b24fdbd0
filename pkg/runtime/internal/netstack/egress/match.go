package egress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ruleSet is a set of rules, by their index.
type ruleSet [MaxRules / 64]uint64

func (s *ruleSet) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s *ruleSet) has(i int) bool { return s[i/64]>>(i%64)&1 != 0 }
func (s *ruleSet) join(o *ruleSet) {
	for i := range s {
		s[i] |= o[i]
	}
}

// signature is the set of rules by name that match a name. Names with the same
// signature are the same to the policy, so that a guest which resolves any number
// of names makes only as many signatures as the rules have names, times two.
type signature = *nameClass

type nameClass struct {
	rules ruleSet
	deny  bool // one of them denies
}

// compiled is a rule in the form that is evaluated.
type compiled struct {
	kind     ruleKind
	deny     bool
	protocol Protocol
	prefix   netip.Prefix
	ports    []PortRange
	name     string
	text     string // "allow RULE" or "deny RULE"
}

type ruleKind uint8

const (
	ruleAny    ruleKind = iota // "*"
	rulePrefix                 // addresses
	ruleByName
)

func (c *compiled) covers(p Protocol, port uint16) bool {
	if c.protocol != Any && c.protocol != p {
		return false
	}
	if len(c.ports) == 0 {
		return true
	}
	if p == ICMP {
		return false
	}
	for _, r := range c.ports {
		if port >= r.First && port <= r.Last {
			return true
		}
	}
	return false
}

// all tells whether the rule covers every flow to its destination.
func (c *compiled) all() bool {
	return c.protocol == Any && (len(c.ports) == 0)
}

// matcher finds the rules for names. It is not changed after it is made, but for
// the signatures, which the policy's lock guards.
type matcher struct {
	rules []compiled
	named bool             // there are rules by name
	exact map[string][]int // rules by their name
	below map[string][]int // rules by what follows "*."
	none  signature        // of names that no rule names
	known map[ruleSet]signature
}

func newMatcher(rules []Rule) (*matcher, error) {
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("egress: %d network rules are more than the %d that a box can have", len(rules), MaxRules)
	}
	m := &matcher{
		exact: make(map[string][]int),
		below: make(map[string][]int),
		none:  &nameClass{},
		known: make(map[ruleSet]signature),
	}
	for i, r := range rules {
		r, err := r.clean()
		if err != nil {
			return nil, fmt.Errorf("egress: rule %d: %w", i+1, err)
		}
		c := compiled{
			deny: r.Action == Deny, protocol: r.Protocol, prefix: r.Prefix, ports: slices.Clone(r.Ports),
			name: r.Name, text: r.Action.String() + " " + r.String(),
		}
		switch suffix, wild := strings.CutPrefix(r.Name, "*."); {
		case r.Name == "":
			c.kind = rulePrefix
		case r.Name == "*":
			c.kind = ruleAny
		case wild:
			c.kind, m.named = ruleByName, true
			m.below[suffix] = append(m.below[suffix], i)
		default:
			c.kind, m.named = ruleByName, true
			m.exact[r.Name] = append(m.exact[r.Name], i)
		}
		m.rules = append(m.rules, c)
	}
	return m, nil
}

// find adds the rules by name that match a canonical name.
func (m *matcher) find(name string, into *ruleSet) (any bool) {
	for _, i := range m.exact[name] {
		into.add(i)
		any = true
	}
	if len(m.below) == 0 {
		return any
	}
	for {
		dot := strings.IndexByte(name, '.')
		if dot < 0 {
			return any
		}
		name = name[dot+1:]
		for _, i := range m.below[name] {
			into.add(i)
			any = true
		}
	}
}

// sign returns the signature of a name. ok is false for a name that is not
// canonical, which no rule by name can judge.
// Preconditions: the policy's lock is held for writing, or the policy is new.
func (m *matcher) sign(name string) (s signature, ok bool) {
	name, ok = canonicalName(name)
	if !ok {
		return m.none, false
	}
	var set ruleSet
	if !m.find(name, &set) {
		return m.none, true
	}
	if s, ok := m.known[set]; ok {
		return s, true
	}
	s = &nameClass{rules: set}
	for i := range m.rules {
		s.deny = s.deny || set.has(i) && m.rules[i].deny
	}
	m.known[set] = s
	return s, true
}
