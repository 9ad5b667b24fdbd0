package proof

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/boxlite/pkg/machine/machinetest"
	"github.com/anthropics/boxlite/pkg/runtime"
	"github.com/stretchr/testify/require"
)

// soak is whether the long forms of tests are to run.
func soak() bool { return machinetest.Soak() }

// What curl fetches. With TLS the emulator of the rig moves a few MB a second.
const downloadSize = 1 << 30

func secureSize() int64 {
	if soak() {
		return 256 << 20
	}
	return 16 << 20
}

// TestGuestNetProofPrograms runs the programs that people use in a box, against the
// servers that they use them with.
func TestGuestNetProofPrograms(t *testing.T) {
	w := theInternet(t)
	w.nameServer(t)
	cert := w.webServer(t)
	b := box(t, "debian-programs", func(o *runtime.BoxOptions) {
		o.Ports = []runtime.PortSpec{{GuestPort: 8080}}
	})
	output(t, b, sh(`printf '%%s' "$CERT" >/etc/proof.pem`).Env("CERT", cert))

	t.Run("ping", func(t *testing.T) {
		for _, a := range []string{serverAddr4, serverAddr6} {
			out := output(t, b, sh("ping -c 3 -i 0.2 %s; ping -c 1 -s 4000 %s", a, a))
			require.Contains(t, out, "3 packets transmitted, 3 received", a)
			require.Contains(t, out, "1 packets transmitted, 1 received", a)
		}
		for _, a := range []string{"203.0.113.77", "2001:db8::77", "10.0.0.1"} { // nobody, and not allowed
			out := output(t, b, sh("ping -c 1 -W 1 %s || true; ping -c 1 -W 1 -s 4000 %s || true", a, a))
			require.Equal(t, 2, strings.Count(out, " 0 received"), out)
		}
	})
	t.Run("dig", func(t *testing.T) { dig(t, w, b) })
	t.Run("curl", func(t *testing.T) {
		for how, size := range map[string]int64{"-4 https": secureSize(), "-6 http": downloadSize} {
			flag, scheme, _ := strings.Cut(how, " ")
			sum := w.content(t, "large", size)
			out := output(t, b, sh("curl -sS --fail --cacert /etc/proof.pem %s %s://www.proof.test/large | sha256sum", flag, scheme))
			require.Equal(t, sum, strings.Fields(out)[0], how)
		}
		out := output(t, b, sh("curl -sS https://www.proof.test/small 2>&1 || echo code $?"))
		require.Contains(t, out, "code 60", "nobody vouches for the certificate")
	})
	t.Run("python", func(t *testing.T) {
		sum := w.content(t, "small", 100<<10)
		out := output(t, b, python(t, "https.py", "https://www.proof.test/small", "/etc/proof.pem"))
		require.Equal(t, sum+"\n", out)
	})
	t.Run("apt-get", func(t *testing.T) {
		w.repository(t)
		out := output(t, b, sh(`
rm -f /etc/apt/sources.list.d/*
curl -sS --fail http://apt.proof.test/apt/key.gpg >/etc/apt/proof.gpg
echo "deb [signed-by=/etc/apt/proof.gpg] https://apt.proof.test/apt ./" >/etc/apt/sources.list
echo 'Acquire::https::CAInfo "/etc/proof.pem";' >/etc/apt/apt.conf.d/proof
apt-get -q update >&2
DEBIAN_FRONTEND=noninteractive apt-get -q install -y proof >&2
proof`))
		require.Equal(t, "1048576\n", out)
	})
	t.Run("udp", func(t *testing.T) { datagrams(t, w, b) })
	t.Run("iperf3", func(t *testing.T) {
		w.serve(t, serverAddr4+":5201", "/usr/bin/iperf3", "-s")
		for _, flags := range []string{"-n 8M", "-n 8M -R", "-6 -n 2M -P 4", "-u -b 20M -l 1200 -n 1M"} {
			var r struct {
				Error string
				End   struct {
					SumSent     struct{ Bytes float64 } `json:"sum_sent"`
					SumReceived struct {
						Bytes float64
						Bps   float64 `json:"bits_per_second"`
					} `json:"sum_received"`
					Sum struct {
						Packets int
						Lost    int `json:"lost_packets"`
						Bytes   float64
					}
				}
			}
			out := output(t, b, sh("iperf3 -J -c www.proof.test %s", flags))
			require.NoError(t, json.Unmarshal([]byte(out), &r), out)
			require.Empty(t, r.Error)
			if strings.Contains(flags, "-u") {
				require.Greater(t, r.End.Sum.Packets, 800)
				require.Less(t, r.End.Sum.Lost, r.End.Sum.Packets/2)
				t.Logf("iperf3 %s: lost %d of %d", flags, r.End.Sum.Lost, r.End.Sum.Packets)
				continue
			}
			require.GreaterOrEqual(t, r.End.SumSent.Bytes, float64(2<<20), flags)
			require.NotZero(t, r.End.SumReceived.Bytes, flags) // when it ended, some are still on their way
			t.Logf("iperf3 %s: %.0f Mbit/s", flags, r.End.SumReceived.Bps/1e6)
		}
	})
	t.Run("wrk", func(t *testing.T) {
		ports, err := b.Ports(guarded(t))
		require.NoError(t, err)
		url := fmt.Sprintf("http://127.0.0.1:%d/", ports[0].HostPort)
		output(t, b, sh(`
echo 'events {} http { access_log off; server { listen 8080; root /srv; } }' >/etc/proof.conf
echo the page of the box >/srv/index.html
nginx -c /etc/proof.conf >/dev/null 2>&1 </dev/null`))
		require.Eventually(t, func() bool { return get(url) == "the page of the box\n" }, time.Minute, 100*time.Millisecond)
		out := w.run(t, "/usr/bin/wrk", "-t", "1", "-c", "20", "-d", "3", "--timeout", "60", url)
		require.Regexp(t, `[1-9]\d* requests in`, out)
		require.NotContains(t, out, "Socket errors")
		require.NotContains(t, out, "Non-2xx")
		t.Log(out)
	})
}

func get(url string) string {
	r, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	return string(text)
}

// questions are put to the box's name server and to the real one.
var questions = []string{
	"www.proof.test A", "www.proof.test AAAA", "alias.proof.test A", "alias.proof.test CNAME", "proof.test SOA", "proof.test NS",
	"proof.test MX", "proof.test TXT", "proof.test CAA", "proof.test HTTPS", "www.proof.test HINFO", "www.proof.test LOC",
	"www.proof.test SSHFP", "_http._tcp.proof.test SRV", "_443._tcp.www.proof.test TLSA", "_dns.proof.test SVCB", "_uri.proof.test URI",
	"sip.proof.test NAPTR", "rp.proof.test RP", "afs.proof.test AFSDB", "dname.proof.test DNAME", "x.dname.proof.test A",
	"child.proof.test DS", "odd.proof.test TYPE65400", "2.113.0.203.in-addr.arpa PTR", "many.proof.test A", "huge.proof.test TXT",
	"www.proof.test MX", "nobody.proof.test A",
}

// dig compares what dig(1) is told in the box and beside it.
func dig(t *testing.T, w *internet, b *runtime.LiteBox) {
	batch := strings.Join(questions, "\n") + "\n"
	w.write(t, "/srv/questions", batch)
	output(t, b, sh(`printf '%%s' "$Q" >/etc/questions`).Env("Q", batch))
	for _, flags := range [][]string{nil, {"+tcp"}, {"+noedns"}} {
		all := append([]string{"+nottlid", "+noall", "+comments", "+answer"}, flags...)
		want := answers(w.run(t, "/usr/bin/dig", append(all, "@"+nameServer4, "-f", "/srv/questions")...))
		got := answers(output(t, b, runtime.Command("dig", append(all, "-f", "/etc/questions")...)))
		require.Len(t, want, len(questions), "%q", flags)
		require.Len(t, got, len(questions), "%q", flags)
		for i, q := range questions {
			require.NotEmpty(t, want[i])
			require.Equal(t, want[i], got[i], "%s %q", q, flags)
		}
		require.Len(t, got[slices.Index(questions, "huge.proof.test TXT")], 101, "more than a datagram holds")
	}
	// Without the fallback to TCP the answer that does not fit says so.
	out := output(t, b, sh("dig +ignore +noall +comments huge.proof.test TXT"))
	require.Regexp(t, `flags:[a-z ]* tc[ ;]`, out)
	// The box's C library asks as well.
	out = output(t, b, sh("getent ahosts www.proof.test; getent hosts %s", serverAddr4))
	require.Contains(t, out, serverAddr4)
	require.Contains(t, out, serverAddr6)
	require.Contains(t, out, "www.proof.test")
}

var status = regexp.MustCompile(`status: (\w+)`)

// answers are the statuses and the sorted records of dig's output, one list for each
// question.
func answers(out string) (list [][]string) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if m := status.FindStringSubmatch(line); m != nil {
			list = append(list, []string{m[1]})
		} else if line != "" && !strings.HasPrefix(line, ";") && len(list) > 0 {
			last := &list[len(list)-1]
			*last = append(*last, strings.Join(strings.Fields(line), " "))
			slices.Sort((*last)[1:])
		}
	}
	return list
}

// datagrams has python exchange datagrams with an echo server, of all sizes and as
// QUIC has them.
func datagrams(t *testing.T, w *internet, b *runtime.LiteBox) {
	var c *net.UDPConn
	var err error
	w.there(func() { c, err = net.ListenUDP("udp", &net.UDPAddr{}) })
	require.NoError(t, err)
	defer c.Close()
	go func() {
		p := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(p)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(p[:n], from)
		}
	}()
	port := c.LocalAddr().(*net.UDPAddr).Port
	for _, a := range []string{serverAddr4, serverAddr6} {
		t.Log(a, output(t, b, python(t, "udp.py", a, port, 500, 100)))
	}
}
