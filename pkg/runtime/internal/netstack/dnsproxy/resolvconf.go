package dnsproxy

import (
	"bufio"
	"bytes"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// conf is what resolv.conf(5) says, as far as it matters here.
type conf struct {
	servers  []netip.AddrPort
	timeout  time.Duration // per try
	attempts int
	rotate   bool
}

const (
	dnsPort     = 53
	maxServers  = 3  // MAXNS
	maxTimeout  = 30 // seconds
	maxAttempts = 5
	maxConf     = 64 << 10 // bytes read
	confAge     = time.Second
)

// parseConf reads the file's text. Lines that say nothing are passed over, as the
// system's resolver does.
func parseConf(r io.Reader) conf {
	c := conf{timeout: 5 * time.Second, attempts: 2}
	lines := bufio.NewScanner(io.LimitReader(r, maxConf))
	for lines.Scan() {
		line, _, _ := bytes.Cut(lines.Bytes(), []byte{'#'})
		words := strings.Fields(string(line))
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil && len(c.servers) < maxServers {
				c.servers = append(c.servers, netip.AddrPortFrom(a, dnsPort))
			}
		case "options":
			for _, o := range words[1:] {
				c.option(o)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort)}
	}
	return c
}

func (c *conf) option(o string) {
	key, value, _ := strings.Cut(o, ":")
	n, err := strconv.Atoi(value)
	switch {
	case key == "rotate":
		c.rotate = true
	case err != nil || n < 1:
	case key == "timeout":
		c.timeout = time.Duration(min(n, maxTimeout)) * time.Second
	case key == "attempts":
		c.attempts = min(n, maxAttempts)
	}
}

// confFile follows the file.
type confFile struct {
	path  string
	fixed []netip.AddrPort

	mu      sync.Mutex
	current conf
	looked  time.Time
	info    os.FileInfo
}

func (f *confFile) load() conf {
	if len(f.fixed) > 0 {
		c := parseConf(strings.NewReader(""))
		c.servers = f.fixed
		return c
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.looked.IsZero() && time.Since(f.looked) < confAge {
		return f.current
	}
	first := f.looked.IsZero()
	f.looked = time.Now()
	path := f.path
	if path == "" {
		path = "/etc/resolv.conf"
	}
	info, err := os.Stat(path)
	if err == nil && f.info != nil && os.SameFile(info, f.info) && info.ModTime().Equal(f.info.ModTime()) && info.Size() == f.info.Size() {
		return f.current
	}
	file, err := os.Open(path)
	if err != nil {
		// It is being replaced, or there is none.
		if first {
			f.current = parseConf(strings.NewReader(""))
		}
		return f.current
	}
	defer file.Close()
	f.current, f.info = parseConf(file), info
	return f.current
}
