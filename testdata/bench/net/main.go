// Command load measures a network between a guest and its host.
//
//	load serve ADDR
//	load run NAME ADDR [PATTERN]
//
// The server runs on the host, and tells on standard output what each test of the
// other took: by its own clock, so that nothing depends on the guest's, and without
// the time in which the host's CPUs were idle. In a rig that counts instructions
// the rest is how many were spent, by guest, VMM and server together.
package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 3 && args[0] == "run":
		return measure(args[1], args[2], regexp.MustCompile(""))
	case len(args) == 4 && args[0] == "run":
		pattern, err := regexp.Compile(args[3])
		if err != nil {
			return err
		}
		return measure(args[1], args[2], pattern)
	}
	return errors.New("usage: load serve ADDR | load run NAME ADDR [PATTERN]")
}

// What a connection is for: its first byte.
const (
	opMark   = 'M' // lines "begin" and "end NAME BYTES OPERATIONS"
	opSink   = 'S' // the server reads to the end, and answers with a byte
	opSource = 'D' // the server sends as many bytes as the next 8 say
	opEcho   = 'E' // the server sends back what it reads
	opCount  = 'C' // the server answers each byte with 8: datagrams and bytes that came since the last
)

// What a datagram is for.
const (
	dgramEcho     = 'e'
	dgramSink     = 's'
	dgramPlease   = 'd' // the server sends as many of a size as the next 4 and 4 bytes say
	dgramTogether = 't' // likewise, in one call
)

const (
	buffer   = 128 << 10 // bytes of a read or write, iperf3's default
	datagram = 1400      // bytes
)
