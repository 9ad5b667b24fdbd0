package runtime

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"github.com/oklog/ulid/v2"
)

// BoxID names a box: a ULID, 26 characters that sort by the time of creation.
type BoxID string

// NewBoxID makes an id that no other box has.
func NewBoxID() BoxID { return BoxID(ulid.Make().String()) }

// ParseBoxID reads an id, in capitals or not. It is false for anything that is no ULID.
func ParseBoxID(s string) (BoxID, bool) {
	id, err := ulid.ParseStrict(strings.ToUpper(s))
	return BoxID(id.String()), err == nil
}

func (id BoxID) String() string { return string(id) }

// Short is the beginning of the id, 8 characters: the time of creation to 35 minutes.
func (id BoxID) Short() string { return string(id[:min(len(id), 8)]) }

// ContainerID names what runs in a box in the terms of OCI: 64 lower-case
// hexadecimal digits. Each box has one from its creation.
type ContainerID string

// NewContainerID makes a random id.
func NewContainerID() ContainerID {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return ContainerID(hex.EncodeToString(b[:]))
}

// IsValid reports whether the id has the form of one.
func (id ContainerID) IsValid() bool {
	return len(id) == 64 && strings.Trim(string(id), "0123456789abcdef") == ""
}

func (id ContainerID) String() string { return string(id) }

// Short is the beginning of the id, 12 characters.
func (id ContainerID) Short() string { return string(id[:min(len(id), 12)]) }
