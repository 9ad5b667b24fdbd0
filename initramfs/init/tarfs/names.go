package tarfs

import (
	"strconv"
	"strings"
)

// clean brings a name of an archive into the form "a/b/c"; "" is the directory
// that is unpacked into.
func clean(name string) (string, error) {
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", damaged("the name " + strconv.Quote(name) + " leads out of the archive")
		default:
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "/"), nil
}

func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

// wantsDir tells whether a path can only mean a directory, for which a symbolic
// link at its end is followed.
func wantsDir(path string) bool {
	last := path[strings.LastIndexByte(path, '/')+1:]
	return last == "" || last == "." || last == ".."
}

// Base is how the entries of a path's archive begin: its last element, or ".".
func Base(path string) string {
	if wantsDir(path) {
		trimmed := strings.TrimRight(path, "/")
		if trimmed == "" || wantsDir(trimmed) {
			return "."
		}
		path = trimmed
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}
