package runtime

import (
	"errors"
	"fmt"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
)

// CheckNetworkRule says what is wrong with a rule as [NetworkSpec] has it in Allow and
// Deny; nil where nothing is. Create refuses a box with a wrong one.
func CheckNetworkRule(rule string) error {
	_, err := parseNetworkRule(egress.Allow, rule)
	if err != nil {
		return fail(ErrInvalidArgument, "%w", err)
	}
	return nil
}

// parseNetworkRule reads a rule. Its errors do not repeat it: the caller says where it
// stands.
func parseNetworkRule(action egress.Action, rule string) (egress.Rule, error) {
	r, err := egress.ParseRule(action, rule)
	if err == nil {
		return r, nil
	}
	if p := otherProtocol(rule); p != "" {
		return r, fmt.Errorf("there is no protocol %q: choose tcp, udp or icmp, or leave it out for all", p)
	}
	if why := errors.Unwrap(err); why != nil {
		err = why
	}
	return r, err
}

// otherProtocol is what stands before a destination and is none of the protocols, empty
// if nothing does: a name and its ports are alike, but that ports are numbers.
func otherProtocol(rule string) string {
	word, rest, ok := strings.Cut(rule, ":")
	if !ok || rest == "" || strings.HasPrefix(rest, "//") || strings.ContainsAny(word, ".[*/") {
		return ""
	}
	switch strings.ToLower(word) {
	case "", "tcp", "udp", "icmp":
		return ""
	}
	if strings.Trim(word, "0123456789abcdefABCDEF") == "" && strings.Contains(rest, ":") { // IPv6
		return ""
	}
	if !strings.ContainsAny(rest, ".:*[") { // ports, or what was to be some
		return ""
	}
	return word
}
