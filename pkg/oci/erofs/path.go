package erofs

import (
	"fmt"
	"path"
	"strings"
)

const (
	// maxPath bounds a name in a layer: PATH_MAX of Linux.
	maxPath = 4096
	// maxTarget bounds the target of a symbolic link: PATH_MAX - 1.
	maxTarget = 4095
	// maxDepth bounds the depth of the tree, which links can make deeper than
	// maxPath allows.
	maxDepth = 4096
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh." // AUFS's own files; skipped, as by docker and containerd
	whiteoutOpaque = ".wh..wh..opq"
)

// cleanPath makes a member's name relative to the root and confines it to the
// root, lexically. The root itself is "". Clean names are returned as they
// are, without allocating.
func cleanPath(name string) (string, error) {
	if len(name) > maxPath {
		return "", fmt.Errorf("name of %d bytes (%.40q…): %w", len(name), name, ErrLimit)
	}
	p := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if !isClean(p) {
		p = path.Clean("/" + name)[1:]
	}
	if strings.IndexByte(p, 0) >= 0 {
		return "", fmt.Errorf("name %q has a NUL: %w", name, ErrFormat)
	}
	for rest, more := p, true; more; {
		var c string
		c, rest, more = strings.Cut(rest, "/")
		if len(c) > maxName {
			return "", fmt.Errorf("name component of %d bytes (%.40q…): %w", len(c), c, ErrLimit)
		}
	}
	return p, nil
}

// isClean tells whether p is empty or consists of components that are neither
// empty nor "." nor "..".
func isClean(p string) bool {
	if p == "" {
		return true
	}
	for more := true; more; {
		var c string
		c, p, more = strings.Cut(p, "/")
		if c == "" || c == "." || c == ".." {
			return false
		}
	}
	return true
}

// splitPath returns the parent and the last component of a clean path.
func splitPath(p string) (dir, base string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}

// whiteoutOf classifies a clean path: an ordinary member, a whiteout or opaque
// marker, or a file to leave out.
func whiteoutOf(dir, base string) (k kind, name string, skip bool, err error) {
	if hasWhiteout(dir) {
		// AUFS kept linked files below such a directory.
		if strings.HasPrefix(dir, whiteoutMeta) {
			return 0, "", true, nil
		}
		return 0, "", false, fmt.Errorf("%q is below a whiteout: %w", dir+"/"+base, ErrFormat)
	}
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return 0, base, false, nil
	}
	if base == whiteoutOpaque {
		return kindOpaque, "", false, nil
	}
	if strings.HasPrefix(base, whiteoutMeta) {
		return 0, "", true, nil
	}
	name = base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return 0, "", false, fmt.Errorf("whiteout %q hides no name: %w", base, ErrFormat)
	}
	return kindWhiteout, name, false, nil
}

func hasWhiteout(dir string) bool {
	return strings.HasPrefix(dir, whiteoutPrefix) || strings.Contains(dir, "/"+whiteoutPrefix)
}
