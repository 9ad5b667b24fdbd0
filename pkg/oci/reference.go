package oci

import (
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// What a reference points to.
type sourceKind int

const (
	fromRegistry      sourceKind = iota
	fromLayout                   // folder with an OCI image layout
	fromArchive                  // tar file, which of the two is found out by reading
	fromDockerArchive            // tar file as docker save writes it
	fromOCIArchive               // tar file of an OCI image layout
	fromTree                     // plain folder tree: a prepared root file system
	fromPath                     // a path: layout or archive, found out by looking
)

// prefixes of transports, in containers-transports(5) syntax.
var transports = []struct {
	prefix string
	kind   sourceKind
}{
	{"oci:", fromLayout},
	{"docker-archive:", fromDockerArchive},
	{"oci-archive:", fromOCIArchive},
	{"archive:", fromArchive},
	{"dir:", fromTree},
}

// target is one place to look for an image: a reference, understood.
type target struct {
	kind sourceKind
	ref  name.Reference // fromRegistry
	path string         // the others: absolute
	tag  string         // fromLayout and the archives: name inside; may be empty
}

// dockerIO is how people and other tools call name.DefaultRegistry.
const dockerIO = "docker.io"

// maxReference bounds what is looked at; repository names end at 255 bytes,
// file names at 4096.
const maxReference = 5000

// String is the normalised reference: equal images have equal strings, and
// parsing one gives the same target again.
func (t target) String() string {
	switch t.kind {
	case fromRegistry:
		s := t.ref.Name()
		if rest, ok := strings.CutPrefix(s, name.DefaultRegistry+"/"); ok {
			s = dockerIO + "/" + rest
		}
		return s
	case fromTree:
		return "dir:" + t.path
	}
	s := t.path
	for _, tr := range transports {
		if tr.kind == t.kind {
			s = tr.prefix + t.path
		}
	}
	if t.tag != "" {
		s += ":" + t.tag
	}
	return s
}

// CheckReference says what is wrong with a reference as it is written: an ErrReference.
// Whether there is such an image Store.Pull finds out.
func CheckReference(ref string) error {
	_, err := parseReference(ref, nil, nil)
	return err
}

// parseReference returns where to look for s, in order. Only a short registry
// name has more than one place, one per search registry.
func parseReference(s string, search []string, insecure func(host string) bool) ([]target, error) {
	if s == "" {
		return nil, fail(ErrReference, "oci: the image reference is empty")
	}
	if len(s) > maxReference || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fail(ErrReference, "oci: %q is not an image reference: too long or with control characters", clip(s))
	}
	for _, tr := range transports {
		rest, ok := strings.CutPrefix(s, tr.prefix)
		if !ok {
			continue
		}
		path, tag := rest, ""
		if tr.kind != fromTree {
			path, tag, _ = strings.Cut(rest, ":")
		}
		return parsePath(s, tr.kind, path, tag)
	}
	if s == "." || s == ".." || strings.HasPrefix(s, "/") || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		return parsePath(s, fromPath, s, "")
	}
	return parseRegistry(s, search, insecure)
}

func parsePath(s string, kind sourceKind, path, tag string) ([]target, error) {
	if path == "" {
		return nil, fail(ErrReference, "oci: %q names no file or folder", clip(s))
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fail(ErrReference, "oci: %q: %w", clip(s), err)
	}
	return []target{{kind: kind, path: abs, tag: tag}}, nil
}

// component is a path component of a repository name (OCI distribution-spec
// 1.1, "Pulling manifests"); it cannot be "." or "..".
var component = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

func parseRegistry(s string, search []string, insecure func(string) bool) ([]target, error) {
	if len(search) == 0 {
		search = []string{dockerIO}
	}
	if hasRegistry(s) {
		search = []string{""}
	}
	var out []target
	for _, reg := range search {
		full := s
		if reg != "" {
			full = strings.TrimSuffix(reg, "/") + "/" + s
			if !hasRegistry(full) {
				return nil, fail(ErrReference, "oci: search registry %q is not a host name", clip(reg))
			}
		}
		host, _, _ := strings.Cut(full, "/")
		var opts []name.Option
		if isLoopback(host) || (insecure != nil && insecure(host)) {
			opts = append(opts, name.Insecure)
		}
		ref, err := name.ParseReference(full, opts...)
		if err != nil {
			return nil, fail(ErrReference, "oci: %q is not an image reference: want [REGISTRY/]NAME[:TAG][@sha256:DIGEST], the name in lower case", clip(s))
		}
		for c := range strings.SplitSeq(ref.Context().RepositoryStr(), "/") {
			if !component.MatchString(c) {
				return nil, fail(ErrReference, "oci: %q is not an image reference: a part of its name is %q "+
					"(lower-case letters, digits and single . _ - between them)", clip(s), clip(c))
			}
		}
		if d, ok := ref.(name.Digest); ok {
			if _, err := ParseDigest(d.DigestStr()); err != nil {
				return nil, err
			}
			// "repo:tag@digest" names the digest; the tag is decoration.
			ref = ref.Context().Digest(d.DigestStr())
		}
		out = append(out, target{kind: fromRegistry, ref: ref})
	}
	return out, nil
}

// hasRegistry applies docker's rule: the first component is a host if it has
// a dot or a colon or is "localhost", and something follows it.
func hasRegistry(s string) bool {
	first, rest, ok := strings.Cut(s, "/")
	return ok && rest != "" && (strings.ContainsAny(first, ".:") || first == "localhost")
}

// isLoopback tells a host[:port] that means this machine by its spelling.
func isLoopback(host string) bool {
	h := host
	if hh, _, err := net.SplitHostPort(host); err == nil {
		h = hh
	}
	h = strings.TrimSuffix(strings.Trim(h, "[]"), ".")
	if h == "localhost" || strings.HasSuffix(h, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(h)
	return err == nil && (ip.Unmap().IsLoopback() || ip.IsUnspecified())
}
