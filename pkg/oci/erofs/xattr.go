package erofs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/anthropics/boxlite/pkg/oci/erofs/internal/tarstream"
)

// Linux limits: XATTR_NAME_MAX 255 with the name space, XATTR_SIZE_MAX 65536;
// e_value_size has 16 bits, so 65535. maxXattrBody is what i_xattr_icount can
// count, kept to a size every inode can afford.
const (
	maxXattrName  = 255
	maxXattrValue = 65535
	maxXattrBody  = 128 << 10
)

// xattrSpaces are the name spaces of EROFS (erofs_fs.h "Name indexes"). The
// two ACL names stand for themselves and leave an empty rest.
var xattrSpaces = [...]struct {
	prefix string
	index  byte
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// splitXattr returns the name space index and the rest of a name.
func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, s := range xattrSpaces {
		rest, found := strings.CutPrefix(name, s.prefix)
		if !found {
			continue
		}
		whole := s.prefix[len(s.prefix)-1] != '.'
		if whole == (rest == "") {
			return s.index, rest, true
		}
	}
	return 0, "", false
}

// encodeXattrs returns the entries of an inode body in on-disk form, sorted by
// name space and name, and how many attributes have no place in EROFS.
func encodeXattrs(list []tarstream.Xattr) (body []byte, dropped int, err error) {
	if len(list) == 0 {
		return nil, 0, nil
	}
	type item struct {
		index byte
		name  string
		value string
	}
	items := make([]item, 0, len(list))
	for _, x := range list {
		if len(x.Name) > maxXattrName || strings.IndexByte(x.Name, 0) >= 0 {
			return nil, 0, fmt.Errorf("extended attribute name of %d bytes: %w", len(x.Name), ErrFormat)
		}
		index, rest, ok := splitXattr(x.Name)
		if !ok {
			dropped++
			continue
		}
		if len(x.Value) > maxXattrValue {
			return nil, 0, fmt.Errorf("extended attribute %q of %d bytes: %w", x.Name, len(x.Value), ErrLimit)
		}
		items = append(items, item{index, rest, x.Value})
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.name, b.name))
	})
	for _, it := range items {
		body = append(body, byte(len(it.name)), it.index)
		body = le.AppendUint16(body, uint16(len(it.value)))
		body = append(body, it.name...)
		body = append(body, it.value...)
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
	}
	if len(body) > maxXattrBody {
		return nil, 0, fmt.Errorf("%d bytes of extended attributes: %w", len(body), ErrLimit)
	}
	return body, dropped, nil
}

// validXattrs tells whether body is what encodeXattrs makes: whole entries of
// known name spaces in strictly rising order.
func validXattrs(body string) bool {
	if len(body) > maxXattrBody || len(body)%4 != 0 {
		return false
	}
	var lastIndex byte
	var lastName string
	for len(body) > 0 {
		name, value := int(body[0]), int(body[2])|int(body[3])<<8
		n := int(align(int64(xattrEntry+name+value), 4))
		if n > len(body) {
			return false
		}
		index, rest := body[1], body[xattrEntry:xattrEntry+name]
		if !knownXattr(index, rest) || index < lastIndex || index == lastIndex && rest <= lastName {
			return false
		}
		lastIndex, lastName = index, rest
		body = body[n:]
	}
	return true
}

func knownXattr(index byte, rest string) bool {
	for _, s := range xattrSpaces {
		if s.index == index {
			whole := s.prefix[len(s.prefix)-1] != '.'
			return whole == (rest == "") && strings.IndexByte(rest, 0) < 0
		}
	}
	return false
}

// xattrBodySize is the space an inode's attributes take behind it.
func xattrBodySize(body string) int64 {
	if body == "" {
		return 0
	}
	return xattrHeader + int64(len(body))
}
