package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"sync"
	"time"
)

// client is the guest's end.
type client struct {
	name, addr string
	mark       net.Conn
}

// test is one measurement. It says how many bytes went over and how often something
// was done.
type test struct {
	name string
	run  func(*client) (bytes, ops int, err error)
}

const mib = 1 << 20

var tests = []test{
	{"tcp-latency", func(c *client) (int, int, error) { return c.roundTrips("tcp", opEcho, 200, 1) }},
	{"udp-latency", func(c *client) (int, int, error) { return c.roundTrips("udp", dgramEcho, 200, 1) }},
	{"tcp-request-8k", func(c *client) (int, int, error) { return c.roundTrips("tcp", opEcho, 100, 8<<10) }},
	{"tcp-connect", func(c *client) (int, int, error) { return c.connects(100) }},
	{"tcp-up-1", func(c *client) (int, int, error) { return c.streams(1, 64*mib, c.upload) }},
	{"tcp-up-8", func(c *client) (int, int, error) { return c.streams(8, 8*mib, c.upload) }},
	{"tcp-down-1", func(c *client) (int, int, error) { return c.streams(1, 64*mib, c.download) }},
	{"tcp-down-8", func(c *client) (int, int, error) { return c.streams(8, 8*mib, c.download) }},
	{"udp-up", func(c *client) (int, int, error) { return c.datagramsUp(1) }},
	{"udp-down", func(c *client) (int, int, error) { return c.datagramsDown(dgramPlease) }},
	{"udp-up-segmented", func(c *client) (int, int, error) { return c.datagramsUp(25) }},
	{"udp-down-segmented", func(c *client) (int, int, error) { return c.datagramsDown(dgramTogether) }},
}

func measure(name, addr string, pattern *regexp.Regexp) error {
	c := &client{name: name, addr: addr}
	var err error
	if c.mark, err = c.open("tcp", opMark); err != nil {
		return err
	}
	defer c.mark.Close()
	for _, t := range tests {
		if !pattern.MatchString(t.name) {
			continue
		}
		if err := c.tell("begin"); err != nil {
			return err
		}
		bytes, ops, err := t.run(c)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		if err := c.tell(fmt.Sprintf("end %s/%s %d %d", name, t.name, bytes, ops)); err != nil {
			return err
		}
	}
	return nil
}

// tell marks a point in the server's time.
func (c *client) tell(line string) error {
	var b [1]byte
	if _, err := fmt.Fprintln(c.mark, line); err != nil {
		return err
	}
	_, err := io.ReadFull(c.mark, b[:])
	return err
}

// open connects for an operation.
func (c *client) open(network string, op byte) (net.Conn, error) {
	conn, err := net.Dial(network, c.addr)
	if err != nil || network != "tcp" {
		return conn, err
	}
	if _, err := conn.Write([]byte{op}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// streams does the same thing several times at once.
func (c *client) streams(count, size int, one func(int) error) (bytes, ops int, err error) {
	errs := make([]error, count)
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() { errs[i] = one(size) })
	}
	all.Wait()
	return count * size, 0, errors.Join(errs...)
}

func (c *client) upload(size int) error {
	conn, err := c.open("tcp", opSink)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := send(conn, uint64(size)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var b [1]byte
	_, err = io.ReadFull(conn, b[:])
	return err
}

func (c *client) download(size int) error {
	conn, err := c.open("tcp", opSource)
	if err != nil {
		return err
	}
	defer conn.Close()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(size))
	if _, err := conn.Write(n[:]); err != nil {
		return err
	}
	b := make([]byte, buffer)
	for size > 0 {
		k, err := conn.Read(b)
		if err != nil {
			return err
		}
		size -= k
	}
	return nil
}

// roundTrips sends so many messages, each after the answer to the last.
func (c *client) roundTrips(network string, op byte, count, size int) (bytes, ops int, err error) {
	conn, err := c.open(network, op)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	b := make([]byte, size)
	for range count {
		b[0] = op
		if _, err := conn.Write(b); err != nil {
			return 0, 0, err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return 0, 0, err
		}
	}
	return 0, count, nil
}

// connects opens so many connections, one after the other, each for one byte there and back.
func (c *client) connects(count int) (bytes, ops int, err error) {
	for range count {
		conn, err := c.open("tcp", opEcho)
		if err != nil {
			return 0, 0, err
		}
		b := []byte{0}
		if _, err = conn.Write(b); err == nil {
			_, err = io.ReadFull(conn, b)
		}
		conn.Close()
		if err != nil {
			return 0, 0, err
		}
	}
	return 0, count, nil
}

const datagrams = 2000

// datagramsUp sends as fast as it goes, so many in one call; what arrived counts.
func (c *client) datagramsUp(together int) (bytes, ops int, err error) {
	count, err := c.open("tcp", opCount)
	if err != nil {
		return 0, 0, err
	}
	defer count.Close()
	_ = count.SetDeadline(time.Now().Add(time.Minute))
	conn, err := c.open("udp", 0)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	b := make([]byte, together*datagram)
	for i := range together {
		b[i*datagram] = dgramSink
	}
	if together > 1 {
		if err := segment(conn.(*net.UDPConn), datagram); err != nil {
			return 0, 0, err
		}
	}
	for range datagrams / together {
		if _, err := conn.Write(b); err != nil {
			return 0, 0, err
		}
	}
	var n [8]byte
	for { // until nothing comes any more
		if _, err := count.Write(n[:1]); err != nil {
			return 0, 0, err
		}
		if _, err := io.ReadFull(count, n[:]); err != nil {
			return 0, 0, err
		}
		k := int(binary.BigEndian.Uint32(n[:]))
		if k == 0 && ops > 0 {
			return bytes, ops, nil
		}
		ops += k
		bytes += int(binary.BigEndian.Uint32(n[4:]))
	}
}

// datagramsDown has the server send in bursts that fit a socket's buffer, where each
// takes a whole page after streams of large frames; how says in how many calls.
func (c *client) datagramsDown(how byte) (bytes, ops int, err error) {
	conn, err := c.open("udp", 0)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	const burst = 25
	var please [9]byte
	please[0] = how
	binary.BigEndian.PutUint32(please[1:], burst)
	binary.BigEndian.PutUint32(please[5:], datagram)
	b := make([]byte, 64<<10)
	for range datagrams / burst {
		if _, err := conn.Write(please[:]); err != nil {
			return 0, 0, err
		}
		for range burst {
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			n, err := conn.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // lost ones
			} else if err != nil {
				return 0, 0, err
			}
			bytes += n
			ops++
		}
	}
	return bytes, ops, nil
}
