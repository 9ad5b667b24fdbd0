package egress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// TLS records and handshake messages (RFC 8446 §4, §5.1).
const (
	recordHandshake   = 22
	recordMajor       = 3
	recordHeader      = 5
	helloHeader       = 4
	handshakeClient   = 1
	maxRecordFragment = 1 << 14
)

// sniffTLS looks for a ClientHello. Reading it is left to crypto/tls, so that
// nothing is believed of a greeting that a real server would read differently: it
// refuses duplicate extensions and names.
func sniffTLS(b []byte) (sniffed, []string) {
	if len(b) == 0 {
		return sniffMore, nil
	}
	if found := sniffOldHello(b); found != sniffOther {
		return found, nil
	}
	if b[0] != recordHandshake {
		return sniffOther, nil
	}
	if len(b) > 1 && b[1] != recordMajor {
		return sniffOther, nil
	}
	// The message may be spread over records. It is read once, when it is complete:
	// a guest that sends byte by byte must not have it read each time.
	hello, rest := 0, b
	var head [helloHeader]byte
	for {
		if len(rest) < recordHeader {
			return sniffMore, nil
		}
		n := int(rest[3])<<8 | int(rest[4])
		if rest[0] != recordHandshake || rest[1] != recordMajor || n == 0 || n > maxRecordFragment {
			return sniffBroken, nil
		}
		rest = rest[recordHeader:]
		part := rest[:min(n, len(rest))]
		if hello < helloHeader {
			copy(head[hello:], part)
		}
		if hello += len(part); hello >= 1 && head[0] != handshakeClient {
			return sniffBroken, nil
		}
		if hello >= helloHeader && hello >= helloHeader+int(head[1])<<16+int(head[2])<<8+int(head[3]) {
			break
		}
		if len(part) < n {
			return sniffMore, nil
		}
		rest = rest[n:]
	}
	var name string
	var seen bool
	err := tls.Server(&recorded{r: bytes.NewReader(b)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, seen = h.ServerName, true
			return nil, errSeen
		},
	}).Handshake()
	switch {
	case !seen || !errors.Is(err, errSeen):
		return sniffBroken, nil
	case name == "":
		return sniffNone, nil
	}
	return sniffNames, []string{name}
}

// sniffOldHello looks for the greeting of SSL 2, in which TLS servers of old accept
// a client and which has no place for a name.
func sniffOldHello(b []byte) sniffed {
	if b[0]&0x80 == 0 {
		return sniffOther
	}
	if len(b) > 2 && b[2] != handshakeClient {
		return sniffOther
	}
	if len(b) > 3 && b[3] != 3 && b[3] != 0 {
		return sniffOther
	}
	if len(b) < 5 {
		return sniffMore
	}
	if b[3] == 3 && b[4] <= 4 || b[3] == 0 && b[4] == 2 {
		return sniffNone
	}
	return sniffOther
}

var errSeen = errors.New("egress: greeting read")

// recorded is a connection of which there is only what was received.
type recorded struct{ r io.Reader }

func (c *recorded) Read(p []byte) (int, error)     { return c.r.Read(p) }
func (*recorded) Write(p []byte) (int, error)      { return len(p), nil }
func (*recorded) Close() error                     { return nil }
func (*recorded) LocalAddr() net.Addr              { return nil }
func (*recorded) RemoteAddr() net.Addr             { return nil }
func (*recorded) SetDeadline(time.Time) error      { return nil }
func (*recorded) SetReadDeadline(time.Time) error  { return nil }
func (*recorded) SetWriteDeadline(time.Time) error { return nil }
