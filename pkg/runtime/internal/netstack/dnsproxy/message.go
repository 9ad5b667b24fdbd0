package dnsproxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
)

// Messages of DNS, RFC 1035 §4. They are walked and edited in place: a record that
// is not understood keeps every byte, and the offsets that compressed names in it
// point to stay true, neither of which survives parsing and packing.
const (
	headerSize = 12
	maxMessage = 65535
	minUDP     = 512  // §4.2.1
	maxQuery   = 4096 // no client needs more; names are 255 bytes

	flagQR, flagAA, flagTC, flagRD = 0x8000, 0x0400, 0x0200, 0x0100
	flagRA, flagCD                 = 0x0080, 0x0010
	opcodeMask, rcodeMask          = 0x7800, 0x000f

	typeA, typeCNAME, typePTR, typeAAAA = 1, 5, 12, 28
	typeOPT, typeSVCB, typeHTTPS        = 41, 64, 65
	typeIXFR, typeAXFR, typeANY         = 251, 252, 255
	typeNone                            = 65535 // reserved, RFC 6895 §3.1

	classIN = 1

	rcodeFormat, rcodeServer, rcodeName, rcodeNotImplemented, rcodeRefused = 1, 2, 3, 4, 5
)

var errMessage = errors.New("dnsproxy: malformed message")

var be = binary.BigEndian

// readName reads the name at off: as lower-case text without the last dot, in which
// bytes that are no part of a host's name are escaped, and the offset behind it.
func readName(msg []byte, off int, text *strings.Builder) (end int, err error) {
	jumped, length := false, 0
	for {
		if off >= len(msg) {
			return 0, errMessage
		}
		n := int(msg[off])
		switch n & 0xc0 {
		case 0:
			if length += n + 1; length > 255 || off+1+n > len(msg) {
				return 0, errMessage
			}
			if n == 0 {
				if !jumped {
					end = off + 1
				}
				return end, nil
			}
			if text != nil {
				writeLabel(text, msg[off+1:off+1+n])
			}
			off += 1 + n
		case 0xc0:
			if off+2 > len(msg) {
				return 0, errMessage
			}
			to := int(be.Uint16(msg[off:]) & 0x3fff)
			if !jumped {
				end, jumped = off+2, true
			}
			if to >= off { // only back (§4.1.4), so that it ends
				return 0, errMessage
			}
			off = to
		default:
			return 0, errMessage
		}
	}
}

func writeLabel(text *strings.Builder, label []byte) {
	if text.Len() > 0 {
		text.WriteByte('.')
	}
	for _, c := range label {
		switch {
		case c >= 'A' && c <= 'Z':
			text.WriteByte(c + 'a' - 'A')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			text.WriteByte(c)
		default:
			text.Write([]byte{'\\', '0' + c/100, '0' + c/10%10, '0' + c%10})
		}
	}
}

// query is a question as a client sent it.
type query struct {
	id, flags  uint16
	name       string
	typ, class uint16
	question   []byte // as it came
	edns       bool
	size       int // of answers over UDP that the client takes
	msg        []byte
}

// parseQuery reads a query. The code is that of the answer when there is an error.
func parseQuery(msg []byte) (q query, rcode int, err error) {
	q.id, q.flags = be.Uint16(msg), be.Uint16(msg[2:])
	q.size = minUDP
	if q.flags&opcodeMask != 0 {
		return q, rcodeNotImplemented, errMessage
	}
	if len(msg) > maxQuery || be.Uint16(msg[4:]) != 1 || be.Uint16(msg[6:]) != 0 || be.Uint16(msg[8:]) != 0 {
		return q, rcodeFormat, errMessage
	}
	var text strings.Builder
	end, err := readName(msg, headerSize, &text)
	if err != nil || end+4 > len(msg) {
		return q, rcodeFormat, errMessage
	}
	q.name, q.typ, q.class = text.String(), be.Uint16(msg[end:]), be.Uint16(msg[end+2:])
	q.question = msg[headerSize : end+4]
	err = eachRecord(msg, end+4, int(be.Uint16(msg[10:])), func(r record) {
		if r.typ == typeOPT {
			q.edns, q.size = true, max(minUDP, int(r.class))
		}
	})
	if err != nil {
		return q, rcodeFormat, err
	}
	q.msg = msg
	return q, 0, nil
}

// record is a resource record in a message; its offsets are into the message.
type record struct {
	at, fixed, data, end int // of the name, the type, the data, and behind it
	typ, class           uint16
}

func eachRecord(msg []byte, off, count int, f func(record)) error {
	_, err := records(msg, off, count, f)
	return err
}

func records(msg []byte, off, count int, f func(record)) (int, error) {
	for range count {
		fixed, err := readName(msg, off, nil)
		if err != nil || fixed+10 > len(msg) {
			return 0, errMessage
		}
		r := record{at: off, fixed: fixed, data: fixed + 10, typ: be.Uint16(msg[fixed:]), class: be.Uint16(msg[fixed+2:])}
		if r.end = r.data + int(be.Uint16(msg[fixed+8:])); r.end > len(msg) {
			return 0, errMessage
		}
		f(r)
		off = r.end
	}
	return off, nil
}

// answers tells whether a message answers a question that was sent with an id.
func (q *query) answers(msg []byte, id uint16) bool {
	return len(msg) >= headerSize+len(q.question) && be.Uint16(msg) == id &&
		be.Uint16(msg[2:])&(flagQR|opcodeMask) == flagQR && be.Uint16(msg[4:]) == 1 &&
		equalFold(msg[headerSize:headerSize+len(q.question)], q.question)
}

// equalFold compares questions: the case of ASCII letters may differ in names.
func equalFold(a, b []byte) bool {
	n := len(b) - 4
	return bytes.Equal(a[n:], b[n:]) && bytes.Equal(lower(a[:n]), lower(b[:n]))
}

func lower(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	return out
}

// reply begins an answer of ours: the header, and the question if it was readable.
func (q *query) reply(rcode int, flags uint16) []byte {
	out := make([]byte, headerSize, minUDP)
	be.PutUint16(out, q.id)
	be.PutUint16(out[2:], flagQR|flagRA|flags|q.flags&(flagRD|flagCD|opcodeMask)|uint16(rcode))
	if q.question != nil {
		be.PutUint16(out[4:], 1)
		out = append(out, q.question...)
	}
	return out
}

// opt adds the record of EDNS (RFC 6891 §6.1.2) when the client had one, with an
// extended error (RFC 8914) unless it is negative.
func (q *query) opt(out []byte, extended int) []byte {
	if !q.edns {
		return out
	}
	be.PutUint16(out[10:], 1)
	var data []byte
	if extended >= 0 {
		data = []byte{0, 15, 0, 2, byte(extended >> 8), byte(extended)}
	}
	out = append(out, 0, 0, typeOPT, maxQuery>>8, maxQuery&0xff, 0, 0, 0, 0, 0, byte(len(data)))
	return append(out, data...)
}
