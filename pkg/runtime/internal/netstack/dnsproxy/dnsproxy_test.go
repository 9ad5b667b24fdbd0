package dnsproxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/runtime/internal/netstack/egress"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wireName(name string) []byte {
	var b []byte
	for l := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0)
}

// ask builds a query; size 0 is one without EDNS.
func ask(name string, typ uint16, size int) []byte {
	b := append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, wireName(name)...)
	b = append(b, byte(typ>>8), byte(typ), 0, 1)
	if size > 0 {
		b[11] = 1
		b = append(b, 0, 0, typeOPT, byte(size>>8), byte(size), 0, 0, 0, 0, 0, 0)
	}
	return b
}

// rr is a record with a name of its own.
func rr(name string, typ uint16, ttl uint32, data ...byte) []byte {
	b := append(wireName(name), byte(typ>>8), byte(typ), 0, 1)
	b = be.AppendUint32(b, ttl)
	return append(append(b, byte(len(data)>>8), byte(len(data))), data...)
}

// answerTo answers a query with records.
func answerTo(query []byte, records ...[]byte) []byte {
	end, _ := readName(query, headerSize, nil)
	b := bytes.Clone(query[:end+4])
	b[2], b[3] = 0x81, 0x80
	b[7], b[9], b[11] = byte(len(records)), 0, 0
	return append(b, bytes.Join(records, nil)...)
}

// upstream is a resolver on loopback, by UDP and TCP on one port.
type upstream struct {
	addr     netip.AddrPort
	udp, tcp atomic.Int32
}

// listenBoth finds a port that is free for both, which one that is free for TCP need
// not be.
func listenBoth(t testing.TB) (net.Listener, net.PacketConn) {
	t.Helper()
	for try := 0; ; try++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, pc
		}
		l.Close()
		if try == 100 || !errors.Is(err, syscall.EADDRINUSE) {
			require.NoError(t, err)
		}
	}
}

func newUpstream(t testing.TB, answer func(network string, query []byte) [][]byte) *upstream {
	t.Helper()
	u := new(upstream)
	l, pc := listenBoth(t)
	u.addr = l.Addr().(*net.TCPAddr).AddrPort()
	done := make(chan struct{}, 2)
	t.Cleanup(func() { l.Close(); pc.Close(); <-done; <-done })
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, maxMessage)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			u.udp.Add(1)
			for _, msg := range answer("udp", bytes.Clone(buf[:n])) {
				pc.WriteTo(msg, from)
			}
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.tcp.Add(1)
			if msg, err := readFramed(c, maxMessage); err == nil {
				for _, out := range answer("tcp", msg) {
					c.Write(append(be.AppendUint16(nil, uint16(len(out))), out...))
				}
			}
			c.Close()
		}
	}()
	return u
}

func newPolicy(t testing.TB, rules ...string) *egress.Policy {
	t.Helper()
	var c egress.Config
	for _, text := range rules {
		r, err := egress.ParseRule(egress.Allow, text)
		require.NoError(t, err)
		c.Rules = append(c.Rules, r)
	}
	p, err := egress.New(c, egress.Options{LocalAddrs: func() []netip.Prefix { return []netip.Prefix{} }})
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func rcode(msg []byte) int { return int(be.Uint16(msg[2:]) & rcodeMask) }

func TestForwardsAndPins(t *testing.T) {
	u := newUpstream(t, func(_ string, q []byte) [][]byte {
		return [][]byte{answerTo(q, rr("a.com", typeCNAME, 900, wireName("cdn.net")...),
			rr("cdn.net", typeA, 900, 93, 184, 216, 34), rr("other.net", typeA, 900, 1, 1, 1, 1), rr("x.net", 4711, 7, 1, 2, 3))}
	})
	p := newPolicy(t, "a.com")
	s := New(Options{Policy: p, Upstreams: []netip.AddrPort{u.addr}})
	out := s.Handle(context.Background(), ask("A.com", typeA, 0), 1232)
	require.Equal(t, 0, rcode(out))
	require.Equal(t, ask("A.com", typeA, 0)[:2], out[:2])
	require.Contains(t, string(out), string(wireName("A.com")))
	require.True(t, bytes.HasSuffix(out, rr("x.net", 4711, 7, 1, 2, 3)), "an unknown record lost bytes")
	require.Contains(t, string(out), string(rr("cdn.net", typeA, maxTTL, 93, 184, 216, 34)))
	check := func(addr string) bool {
		return p.Check(context.Background(), egress.Flow{Protocol: egress.TCP, Dst: netip.MustParseAddrPort(addr)}).Allow
	}
	require.True(t, check("93.184.216.34:443"))
	require.False(t, check("1.1.1.1:443"), "an address beside the chain was pinned")
}

func TestDeniedNamesStayHere(t *testing.T) {
	u := newUpstream(t, func(_ string, q []byte) [][]byte { return [][]byte{answerTo(q)} })
	s := New(Options{Policy: newPolicy(t, "a.com"), Upstreams: []netip.AddrPort{u.addr}})
	for _, typ := range []uint16{typeA, typeAAAA, 16, 15, typeHTTPS, typeANY, 999} {
		out := s.Handle(context.Background(), ask("secret.evil.com", typ, 1232), 1232)
		require.Equal(t, rcodeName, rcode(out))
	}
	for _, typ := range []uint16{typeHTTPS, typeSVCB, typeANY} {
		out := s.Handle(context.Background(), ask("a.com", typ, 0), 1232)
		require.Equal(t, 0, rcode(out))
		require.Zero(t, be.Uint16(out[6:]))
	}
	require.Zero(t, u.udp.Load()+u.tcp.Load())
}

func TestWrongAnswersAreIgnored(t *testing.T) {
	u := newUpstream(t, func(_ string, q []byte) [][]byte {
		id, other, query := answerTo(q, rr("a.com", typeA, 1, 6, 6, 6, 6)), answerTo(q), answerTo(q)
		id[0] ^= 1
		other[headerSize+1] = 'b'
		query[2] = 0
		return [][]byte{id, other, query, {1}, answerTo(q, rr("a.com", typeA, 1, 1, 2, 3, 4))}
	})
	s := New(Options{Upstreams: []netip.AddrPort{u.addr}})
	out := s.Handle(context.Background(), ask("a.com", typeA, 0), 1232)
	require.True(t, bytes.HasSuffix(out, []byte{1, 2, 3, 4}))
}

func TestTruncation(t *testing.T) {
	big := rr("a.com", 16, 1, bytes.Repeat([]byte{200}, 3000)...)
	u := newUpstream(t, func(network string, q []byte) [][]byte {
		if network == "udp" {
			out := answerTo(q)
			out[2] |= flagTC >> 8
			return [][]byte{out}
		}
		return [][]byte{answerTo(q, big)}
	})
	s := New(Options{Upstreams: []netip.AddrPort{u.addr}})
	out := s.Handle(context.Background(), ask("a.com", 16, 1232), 1232)
	require.NotZero(t, be.Uint16(out[2:])&flagTC)
	require.LessOrEqual(t, len(out), 1232)
	require.Positive(t, u.tcp.Load())

	client, server := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.ServeStream(context.Background(), server) }()
	for range 2 {
		q := ask("a.com", 16, 0)
		_, err := client.Write(append(be.AppendUint16(nil, uint16(len(q))), q...))
		require.NoError(t, err)
		msg, err := readFramed(client, maxMessage)
		require.NoError(t, err)
		require.True(t, bytes.HasSuffix(msg, big))
	}
	client.Close()
	<-done
}

func TestOtherResolver(t *testing.T) {
	bad := newUpstream(t, func(_ string, q []byte) [][]byte {
		out := answerTo(q)
		out[3] |= rcodeServer
		return [][]byte{out}
	})
	good := newUpstream(t, func(_ string, q []byte) [][]byte { return [][]byte{answerTo(q)} })
	s := New(Options{Upstreams: []netip.AddrPort{bad.addr, good.addr}})
	require.Equal(t, 0, rcode(s.Handle(context.Background(), ask("a.com", typeA, 0), 0)))
	s = New(Options{Upstreams: []netip.AddrPort{bad.addr}})
	require.Equal(t, rcodeServer, rcode(s.Handle(context.Background(), ask("a.com", typeA, 0), 0)))
}

func TestStaticAndRefused(t *testing.T) {
	s := New(Options{
		Policy: newPolicy(t, "a.com"), NoIPv6: true, Upstreams: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")},
		Static: map[string][]netip.Addr{"host.boxlite.internal": {netip.MustParseAddr("192.168.127.254")}},
	})
	ctx := context.Background()
	require.True(t, bytes.HasSuffix(s.Handle(ctx, ask("HOST.boxlite.internal", typeA, 0), 512), []byte{192, 168, 127, 254}))
	require.True(t, bytes.HasSuffix(s.Handle(ctx, ask("254.127.168.192.in-addr.arpa", typePTR, 0), 512), wireName("host.boxlite.internal")))
	out := s.Handle(ctx, ask("a.com", typeAAAA, 0), 512)
	require.Equal(t, 0, rcode(out))
	require.Equal(t, rcodeRefused, rcode(s.Handle(ctx, ask("a.com", typeAXFR, 0), 0)))
	require.Equal(t, rcodeServer, rcode(s.Handle(ctx, ask("a.com", typeA, 0), 512)), "nobody answers there")
	notify := ask("a.com", typeA, 0)
	notify[2] |= 4 << 3
	require.Equal(t, rcodeNotImplemented, rcode(s.Handle(ctx, notify, 512)))
	two := ask("a.com", typeA, 0)
	two[5] = 2
	require.Equal(t, rcodeFormat, rcode(s.Handle(ctx, two, 512)))
	require.Nil(t, s.Handle(ctx, two[:11], 512))
	two[2] |= 0x80
	require.Nil(t, s.Handle(ctx, two, 512), "answered an answer")
}

func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(path, []byte("# c\nnameserver 10.0.0.1 # x\nnameserver fe80::1%eth0\nnameserver bad\noptions rotate timeout:1 attempts:99 timeout:x\n"), 0o600))
	f := confFile{path: path}
	c := f.load()
	require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}, c.servers)
	require.Equal(t, conf{c.servers, time.Second, maxAttempts, true}, c)
	require.NoError(t, os.WriteFile(path, []byte("nameserver 10.0.0.22\n"), 0o600))
	f.looked = f.looked.Add(-confAge)
	require.Equal(t, netip.MustParseAddrPort("10.0.0.22:53"), f.load().servers[0])
	require.NoError(t, os.Remove(path))
	f.looked = f.looked.Add(-confAge)
	require.Equal(t, netip.MustParseAddrPort("10.0.0.22:53"), f.load().servers[0])
}

func FuzzQuery(f *testing.F) {
	f.Add(ask("a.com", typeA, 1232))
	f.Add(ask("x.b.com", typeHTTPS, 0))
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := New(Options{
			Upstreams: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")},
			Dial:      func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed },
		})
		out := s.Handle(context.Background(), bytes.Clone(msg), 512)
		require.LessOrEqual(t, len(out), 512)
		if out != nil {
			require.Equal(t, msg[:2], out[:2])
		}
	})
}

func FuzzAnswer(f *testing.F) {
	q := ask("a.com", typeA, 1232)
	whole := answerTo(q, rr("a.com", typeCNAME, 1, wireName("b.com")...), rr("b.com", typeA, 1, 1, 2, 3, 4))
	parsed, _, err := parseQuery(q)
	require.NoError(f, err)
	begin := headerSize + len(parsed.question)
	f.Add(uint8(2), uint8(0), whole[begin:])
	f.Add(uint8(1), uint8(1), rr("a.com", typeHTTPS, 1<<31, 0, 1, 0))
	p := newPolicy(f, "a.com")
	s := New(Options{Policy: p})
	f.Fuzz(func(t *testing.T, answers, more uint8, records []byte) {
		msg := append(bytes.Clone(whole[:begin]), records...)
		msg[7], msg[11] = answers, more
		require.True(t, parsed.answers(msg, be.Uint16(q)))
		size := len(msg)
		if s.adopt(&parsed, msg, true) == nil {
			require.Len(t, msg, size)
			require.NoError(t, eachRecord(msg, begin, int(answers)+int(more), func(r record) {
				require.False(t, r.typ == typeHTTPS || r.typ == typeSVCB)
				require.True(t, r.typ == typeOPT || be.Uint32(msg[r.fixed+4:]) <= maxTTL)
			}))
		}
	})
}
