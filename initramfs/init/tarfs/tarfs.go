// Package tarfs turns trees of the guest into tar streams and back.
//
// It writes ustar with pax records (POSIX.1-2024, pax, "pax Header Block") where
// a value does not fit, and reads what GNU, BSD and Go programs write as well:
// long names of GNU, numbers in base 256. archive/tar would do, but makes the
// initramfs 0.4 MB larger, which each boot would pay for.
//
// The processes of a box are not trusted: they may change the tree while it is
// walked, and put links where something is about to be written. Below the
// directory that a call names, no symbolic link is ever followed.
package tarfs

import "github.com/anthropics/boxlite/pkg/agentapi"

// Types of entries, as they are in the header.
const (
	TypeReg     = '0'
	TypeLink    = '1' // hard link to Header.Link, a name in the archive
	TypeSymlink = '2'
	TypeChar    = '3'
	TypeBlock   = '4'
	TypeDir     = '5'
	TypeFIFO    = '6'
)

// Extended headers: those of pax, and those of GNU for long names.
const (
	typePax       = 'x'
	typePaxGlobal = 'g'
	typeGNULink   = 'K'
	typeGNUName   = 'L'
	typeGNUSparse = 'S'
	typeCont      = '7' // a regular file, on systems that lay those out in a row
)

const (
	blockSize = 512
	// maxExtended bounds an extended header; archive/tar and libarchive have the
	// same limit.
	maxExtended = 1 << 20
	// bufSize is what one read or write of the stream moves at most.
	bufSize = 64 << 10
)

// Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// Header describes an entry.
type Header struct {
	Name         string // without a slash at the end
	Link         string // of TypeLink and TypeSymlink
	Type         byte
	Mode         uint32 // permissions, set-id and sticky bits
	UID, GID     uint32
	Size         int64 // of TypeReg
	Sparse       bool  // of TypeReg: it has holes
	Sec, Nsec    int64 // of the last change of content, since 1970
	Major, Minor uint32
	Xattrs       []Xattr
}

// xattrPrefix is the key of a pax record that has an extended attribute, as star
// began it and everyone does it since.
const xattrPrefix = "SCHILY.xattr."

// offsets of a header block's fields (POSIX.1-2024, pax, "ustar Header Block").
type field struct{ at, len int }

var (
	fName     = field{0, 100}
	fMode     = field{100, 8}
	fUID      = field{108, 8}
	fGID      = field{116, 8}
	fSize     = field{124, 12}
	fTime     = field{136, 12}
	fChecksum = field{148, 8}
	fLink     = field{157, 100}
	fMagic    = field{257, 8} // magic and version
	fMajor    = field{329, 8}
	fMinor    = field{337, 8}
	fPrefix   = field{345, 155}
)

const typeAt = 156

const magicUSTAR = "ustar\x0000"

func (f field) of(block []byte) []byte { return block[f.at : f.at+f.len] }

// checksum adds up a block with its checksum field taken as spaces.
func checksum(block []byte) (sum int64) {
	for i, b := range block[:blockSize] {
		if i >= fChecksum.at && i < fChecksum.at+fChecksum.len {
			b = ' '
		}
		sum += int64(b)
	}
	return sum
}

func damaged(what string) error {
	return &agentapi.Error{Code: agentapi.CodeArchive, Msg: what}
}

func utoa(v uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + v%10)
		if v /= 10; v == 0 {
			return string(b[i:])
		}
	}
}
