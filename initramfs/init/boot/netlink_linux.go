package boot

import (
	"encoding/binary"
	"errors"
	"os"

	"github.com/anthropics/boxlite/pkg/agentapi"
	"golang.org/x/sys/unix"
)

// What rtnetlink(7) is needed for are a handful of fixed messages, sent in one
// call. A library for all of it would double what this program links.

// netlink is a socket to the kernel's routing tables.
type netlink int

func dialNetlink() (netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	return netlink(fd), os.NewSyscallError("netlink socket", err)
}

func (n netlink) close() { unix.Close(int(n)) }

// do sends requests and waits for the answer to each. Its error names the first
// that failed.
func (n netlink) do(r *requests) error {
	if err := unix.Sendto(int(n), r.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink request", err)
	}
	buf := make([]byte, 8<<10)
	for seen := 0; seen < len(r.names); {
		size, _, err := unix.Recvfrom(int(n), buf, 0)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return os.NewSyscallError("netlink answer", err)
		}
		for b := buf[:size]; len(b) >= unix.SizeofNlMsghdr; seen++ {
			length, kind := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint16(b[4:])
			if length < unix.SizeofNlMsghdr+4 || int(length) > len(b) || kind != unix.NLMSG_ERROR {
				return errors.New("netlink: the kernel's answer is not one")
			}
			seq, code := binary.NativeEndian.Uint32(b[8:]), int32(binary.NativeEndian.Uint32(b[16:]))
			if code != 0 && int(seq) < len(r.names) {
				return os.NewSyscallError(r.names[seq], unix.Errno(-code))
			}
			b = b[min(len(b), int(length+3)&^3):]
		}
	}
	return nil
}

// requests are netlink messages under construction.
type requests struct {
	b     []byte
	names []string // what each is for; its sequence number is the index
	start int      // of the one under construction
}

// begin opens a message; the fixed part of its body follows.
func (r *requests) begin(name string, kind uint16, flags uint16, body ...byte) {
	r.start = len(r.b)
	r.b = append(r.b, 0, 0, 0, 0) // length: see end
	r.b = binary.NativeEndian.AppendUint16(r.b, kind)
	r.b = binary.NativeEndian.AppendUint16(r.b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	r.b = binary.NativeEndian.AppendUint32(r.b, uint32(len(r.names)))
	r.b = append(r.b, 0, 0, 0, 0)
	r.b = append(r.b, body...)
	r.names = append(r.names, name)
}

// attr adds an attribute (struct rtattr), padded to 4 bytes.
func (r *requests) attr(kind uint16, value string) {
	r.b = binary.NativeEndian.AppendUint16(r.b, uint16(4+len(value)))
	r.b = binary.NativeEndian.AppendUint16(r.b, kind)
	r.b = append(r.b, value...)
	for len(r.b)%4 != 0 {
		r.b = append(r.b, 0)
	}
}

func (r *requests) end() {
	binary.NativeEndian.PutUint32(r.b[r.start:], uint32(len(r.b)-r.start))
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// addAddr gives the link an address (struct ifaddrmsg). Nobody else can have it, so
// that there is nothing to detect.
func (r *requests) addAddr(link uint32, a agentapi.Prefix) {
	const universe = unix.RT_SCOPE_UNIVERSE
	var flags byte
	if len(a.Addr) == 16 {
		flags = unix.IFA_F_NODAD
	}
	r.begin("adding an address", unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		append([]byte{familyOf(a.Addr), a.Bits, flags, universe}, u32(link)...)...)
	r.attr(unix.IFA_LOCAL, a.Addr)
	r.attr(unix.IFA_ADDRESS, a.Addr)
	r.end()
}

// setUp brings the link up (struct ifinfomsg).
func (r *requests) setUp(link uint32) {
	body := append([]byte{unix.AF_UNSPEC, 0, 0, 0}, u32(link)...)
	body = append(body, u32(unix.IFF_UP)...)
	body = append(body, u32(unix.IFF_UP)...) // which flags change
	r.begin("bringing the network card up", unix.RTM_NEWLINK, 0, body...)
	r.end()
}

// addNeighbour adds an entry that stays (struct ndmsg).
func (r *requests) addNeighbour(link uint32, b agentapi.Neighbour) {
	body := append([]byte{familyOf(b.Addr), 0, 0, 0}, u32(link)...)
	body = append(binary.NativeEndian.AppendUint16(body, unix.NUD_PERMANENT), 0, 0) // flags, type
	r.begin("adding a neighbour", unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, body...)
	r.attr(unix.NDA_DST, b.Addr)
	r.attr(unix.NDA_LLADDR, b.MAC)
	r.end()
}

// addRoute adds the default route of a family (struct rtmsg).
func (r *requests) addRoute(link uint32, gateway string) {
	r.begin("adding the default route", unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		familyOf(gateway), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0)
	r.attr(unix.RTA_GATEWAY, gateway)
	r.attr(unix.RTA_OIF, string(u32(link)))
	r.end()
}
