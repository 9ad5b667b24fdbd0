package egress

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hello is what crypto/tls's client sends first.
func hello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		client.Close()
	}()
	defer server.Close()
	buf := make([]byte, SniffLimit)
	n, err := server.Read(buf)
	require.NoError(t, err)
	return buf[:n]
}

// split spreads a greeting over records of n bytes.
func split(b []byte, n int) []byte {
	var out []byte
	for rest := b[recordHeader:]; len(rest) > 0; rest = rest[min(n, len(rest)):] {
		part := rest[:min(n, len(rest))]
		out = append(append(out, recordHandshake, recordMajor, 1, 0, byte(len(part))), part...)
	}
	return out
}

func TestSniffer(t *testing.T) {
	get := func(host string) []byte { return []byte("GET / HTTP/1.1\r\nA: b\r\nHost: " + host + "\r\n\r\n") }
	tests := []struct {
		name   string
		first  []byte
		allow  bool
		reason Reason
	}{
		{"tls", hello(t, "a.com"), true, ByRule},
		{"tls, other allowed name", hello(t, "x.b.com"), true, ByRule},
		{"tls in small records", split(hello(t, "a.com"), 1), true, ByRule},
		{"tls in small records for another", split(hello(t, "evil.com"), 3), false, ByDefault},
		{"tls for another", hello(t, "evil.com"), false, ByDefault},
		{"tls for none", hello(t, ""), false, NameMissing},
		{"tls broken", append([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 9}, "x"...), false, NameHidden},
		{"tls, no greeting", []byte{22, 3, 1, 0, 5, 2, 0, 0, 1, 9}, false, NameHidden},
		{"tls unfinished", hello(t, "a.com")[:50], false, NameHidden},
		{"tls too long", append([]byte{22, 3, 1, 0x40, 0, 1, 1, 0, 0}, make([]byte, SniffLimit)...), false, NameHidden},
		{"ssl 2", []byte{0x80, 0x2e, 1, 3, 1, 0, 0}, false, NameMissing},
		{"http", get("A.com:8080"), true, ByRule},
		{"http for another", get("evil.com"), false, ByDefault},
		{"http for the address", get("93.184.216.34"), false, ByDefault},
		{"http for another address", get("1.2.3.4"), false, NameInvalid},
		{"http for none", []byte("GET / HTTP/1.0\r\n\r\n"), false, NameMissing},
		{"http, empty", get(""), false, NameMissing},
		{"http, two hosts", []byte("GET / HTTP/1.1\r\nHost: a.com\r\nhost: a.com\r\n\r\n"), false, NameHidden},
		{"http, folded", []byte("GET / HTTP/1.1\r\nHost: a.com\r\n evil.com\r\n\r\n"), false, NameHidden},
		{"http, carriage return", []byte("GET / HTTP/1.1\r\nX: y\rHost: evil.com\r\nHost: a.com\r\n\r\n"), false, NameHidden},
		{"http, target", []byte("GET http://evil.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n"), false, ByDefault},
		{"http, allowed target", []byte("GET http://u@a.com:80/ HTTP/1.1\r\nHost: a.com\r\n\r\n"), true, ByRule},
		{"http, connect", []byte("CONNECT evil.com:443 HTTP/1.1\r\nHost: a.com\r\n\r\n"), false, ByDefault},
		{"http, empty lines", []byte("\r\n\nGET / HTTP/1.1\nHost: evil.com\n\n"), false, ByDefault},
		{"http, blanks", []byte("get \t /  http/1.1\nHost : evil.com\n\n"), false, ByDefault},
		{"http unfinished", []byte("GET / HT"), false, NameHidden},
		{"http too long", []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("y", SniffLimit)), false, NameHidden},
		{"http 2", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), true, ByRule},
		{"ssh", []byte("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"), true, ByRule},
		{"redis", []byte("*1\r\n$4\r\nPING\r\n"), true, ByRule},
		{"smtp", []byte("EHLO box\r\n"), true, ByRule},
		{"postgres", []byte{0, 0, 0, 8, 4, 210, 22, 47}, true, ByRule},
	}
	for _, tt := range tests {
		for _, step := range []int{1, len(tt.first)} {
			t.Run(tt.name, func(t *testing.T) {
				p, _ := newTest(t, Config{}, "a.com", "*.b.com")
				p.pinText("a.com=93.184.216.34")
				f := flow(t, "tcp 93.184.216.34:443")
				v := p.Check(t.Context(), f)
				require.True(t, v.NeedsName)
				s := p.Sniffer(f, v)
				done := false
				for rest := tt.first; len(rest) > 0 && !done; rest = rest[min(step, len(rest)):] {
					v, done = s.Feed(rest[:min(step, len(rest))])
				}
				if !done {
					v = s.End(true)
				}
				require.Equal(t, tt.allow, v.Allow)
				require.Equal(t, tt.reason.String(), v.Reason.String())
				require.True(t, bytes.HasPrefix(tt.first, s.Bytes()))
			})
		}
	}
}

func TestSnifferOfSilence(t *testing.T) {
	p, _ := newTest(t, Config{}, "a.com")
	p.pinText("a.com=93.184.216.34")
	f := flow(t, "tcp 93.184.216.34:443")
	v := p.Check(t.Context(), f)
	require.True(t, p.Sniffer(f, v).End(true).Allow)
	require.False(t, p.Sniffer(f, v).End(false).Allow)
}

func FuzzSniffer(f *testing.F) {
	f.Add(hello(f, "a.com"), uint8(7))
	f.Add([]byte("GET http://a.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n"), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		p, _ := newTest(t, Config{}, "a.com")
		p.pinText("a.com=93.184.216.34")
		fl := flow(t, "tcp 93.184.216.34:443")
		v := p.Check(t.Context(), fl)
		whole, parts := p.Sniffer(fl, v), p.Sniffer(fl, v)
		want, done := whole.Feed(b)
		if !done {
			want = whole.End(true)
		}
		var got Verdict
		done = false
		n := int(step) + 1
		for rest := b; len(rest) > 0 && !done; rest = rest[min(n, len(rest)):] {
			got, done = parts.Feed(rest[:min(n, len(rest))])
		}
		if !done {
			got = parts.End(true)
		}
		require.Equal(t, want.Allow, got.Allow, "the verdict depends on how bytes are cut")
	})
}
