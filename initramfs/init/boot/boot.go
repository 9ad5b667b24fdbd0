// Package boot makes a freshly booted guest into a box: root, mounts, names,
// network loopback, limits. It runs inside PID 1.
package boot

import (
	"strings"

	"github.com/anthropics/boxlite/pkg/agentapi"
)

// hostsFile renders /etc/hosts.
func hostsFile(hostname string, extra []agentapi.Host) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	b.WriteString("127.0.1.1\t" + hostname + "\n")
	for _, h := range extra {
		b.WriteString(h.Addr)
		for i, n := range h.Names {
			if i == 0 {
				b.WriteByte('\t')
			} else {
				b.WriteByte(' ')
			}
			b.WriteString(n)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// badHostname says what is wrong with a host name, or "".
func badHostname(name string) string {
	if len(name) > 64 { // __NEW_UTS_LEN
		return "longer than 64 bytes"
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == '/' || c >= 0x7f {
			return "has a character that no host name has"
		}
	}
	return ""
}

// badHosts says what is wrong with extra lines of /etc/hosts, or "": each value
// must stay one field of its line.
func badHosts(list []agentapi.Host) string {
	for _, h := range list {
		if h.Addr == "" || strings.ContainsAny(h.Addr, " \t\n\r#") {
			return "an address is empty or has a space"
		}
		for _, n := range h.Names {
			if n == "" || strings.ContainsAny(n, " \t\n\r#") {
				return "a name is empty or has a space"
			}
		}
	}
	return ""
}
