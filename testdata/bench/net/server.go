package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// server is the host's end.
type server struct {
	begun              time.Time
	idle               time.Duration // of the host's CPUs, then
	switches           int64         // of their contexts
	datagrams, inBytes atomic.Uint64
}

func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	conn := u.(*net.UDPConn)
	_ = conn.SetReadBuffer(4 << 20)
	s := new(server)
	go s.packets(conn)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := s.stream(c); err != nil {
				fmt.Fprintln(os.Stderr, "load: server:", err)
			}
		}()
	}
}

// stream serves one connection.
func (s *server) stream(c net.Conn) error {
	var op [1]byte
	if _, err := io.ReadFull(c, op[:]); err != nil {
		return nil // somebody looked whether we are there
	}
	switch op[0] {
	case opMark:
		return s.marks(c)
	case opSink:
		b := make([]byte, buffer)
		for {
			if _, err := c.Read(b); err == io.EOF {
				break
			} else if err != nil {
				return err
			}
		}
		_, err := c.Write(op[:])
		return err
	case opSource:
		var n [8]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return err
		}
		return send(c, binary.BigEndian.Uint64(n[:]))
	case opEcho:
		b := make([]byte, buffer)
		for {
			n, err := c.Read(b)
			if err != nil {
				return nil // clients end as they like
			}
			if _, err := c.Write(b[:n]); err != nil {
				return err
			}
		}
	case opCount:
		return s.counts(c)
	}
	return fmt.Errorf("operation %q is unknown", op[0])
}

// send writes n bytes.
func send(c net.Conn, n uint64) error {
	b := make([]byte, buffer)
	for n > 0 {
		k, err := c.Write(b[:min(n, buffer)])
		if err != nil {
			return err
		}
		n -= uint64(k)
	}
	return nil
}

// marks takes the time of tests. There is one at a time.
func (s *server) marks(c net.Conn) error {
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		took := time.Since(s.begun)
		idle, switches := usage()
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 1 && f[0] == "begin":
			s.idle, s.switches = idle, switches
			s.begun = time.Now()
		case len(f) == 4 && f[0] == "end":
			var bytes, ops float64
			if _, err := fmt.Sscan(f[2], &bytes); err != nil {
				return err
			}
			if _, err := fmt.Sscan(f[3], &ops); err != nil {
				return err
			}
			report(f[1], took, max(took-(idle-s.idle), 0), bytes, ops, float64(switches-s.switches))
		}
		if _, err := c.Write([]byte{opMark}); err != nil {
			return err
		}
	}
	return lines.Err()
}

// report prints a result in the form of Go's benchmarks.
func report(name string, took, busy time.Duration, bytes, ops, switches float64) {
	fmt.Printf("BenchmarkNet/%s 1 %d ns/op", name, took)
	if bytes > 0 {
		fmt.Printf(" %.0f Mbit/vs %.3f instr/B", bytes*8e3/float64(took), float64(busy)/bytes)
	}
	if ops > 0 {
		fmt.Printf(" %.2f vus/op %.2f kinstr/op %.1f switches/op", float64(took)/ops/1e3, float64(busy)/ops/1e3, switches/ops)
	}
	fmt.Printf(" %.0f %%idle\n", 100-100*float64(busy)/float64(took))
}

// usage is how long this host's CPUs had nothing to do, and how often they turned
// from one thread to another.
func usage() (idle time.Duration, switches int64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	var ticks, wait, skip int64
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, "cpu  %d %d %d %d %d", &skip, &skip, &skip, &ticks, &wait); n == 5 {
			idle = time.Duration(ticks+wait) * 10 * time.Millisecond // USER_HZ is 100
		}
		_, _ = fmt.Sscanf(line, "ctxt %d", &switches)
	}
	return idle, switches
}

// packets serves datagrams.
func (s *server) packets(c *net.UDPConn) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if n == 0 {
			continue
		}
		switch b[0] {
		case dgramEcho:
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		case dgramSink:
			s.datagrams.Add(1)
			s.inBytes.Add(uint64(n))
		case dgramTogether:
			if n < 9 {
				continue
			}
			count, size := binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])
			if err := segment(c, int(size)); err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:min(int(count*size), len(b))], from)
			if err := segment(c, 0); err != nil {
				return
			}
		case dgramPlease:
			if n < 9 {
				continue
			}
			count, size := binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])
			out := make([]byte, min(size, 64<<10))
			for range count {
				_, _ = c.WriteToUDPAddrPort(out, from)
			}
		}
	}
}

// counts tells how many datagrams came.
func (s *server) counts(c net.Conn) error {
	var b [8]byte
	for {
		if _, err := io.ReadFull(c, b[:1]); err != nil {
			return nil
		}
		binary.BigEndian.PutUint32(b[:], uint32(s.datagrams.Swap(0)))
		binary.BigEndian.PutUint32(b[4:], uint32(s.inBytes.Swap(0)))
		if _, err := c.Write(b[:]); err != nil {
			return err
		}
	}
}
