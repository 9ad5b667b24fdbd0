package oci

import (
	"runtime"
	"sort"
	"strings"
)

// Platform is what an image was built for, in Go's names: OS "linux",
// architecture "amd64" or "arm64", variant "v7", "v8" and so on. The zero
// value stands for the default.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// DefaultPlatform is linux on the architecture this program was built for:
// guests are always linux and run on the host's own architecture.
func DefaultPlatform() Platform { return Platform{OS: "linux", Architecture: runtime.GOARCH} }

// ParsePlatform reads "os/arch[/variant]", "arch" or "arch/vN", in docker's or
// uname's names.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 1 || len(parts) == 2 && strings.HasPrefix(parts[1], "v") {
		parts = append([]string{"linux"}, parts...)
	}
	if len(parts) > 3 {
		return Platform{}, fail(ErrReference, "oci: platform %q is not os/arch[/variant]", clip(s))
	}
	for _, p := range parts {
		if p == "" || len(p) > 32 || strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "" {
			return Platform{}, fail(ErrReference, "oci: platform %q is not os/arch[/variant]", clip(s))
		}
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p.normal(), nil
}

// String is the platform in docker's form.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func (p Platform) isZero() bool { return p == Platform{} }

// normal maps synonyms to one name, as containerd's platforms package does:
// arm64 is v8 and amd64 is v1 unless told otherwise.
func (p Platform) normal() Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	if p.OS == "" {
		p.OS = "linux"
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386", "x86":
		p.Architecture = "386"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	}
	switch {
	case p.Architecture == "arm64" && (p.Variant == "8" || p.Variant == "v8"):
		p.Variant = ""
	case p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// score says how well have serves a guest that wants p: 0 not at all, more is
// better. A CPU runs what was built for older variants of it, not for newer.
func (p Platform) score(have Platform) int {
	p, have = p.normal(), have.normal()
	if p.OS != have.OS || p.Architecture != have.Architecture {
		return 0
	}
	if p.Variant == have.Variant {
		return 100
	}
	if have.Variant == "" {
		return 1
	}
	if p.Variant != "" && len(have.Variant) == len(p.Variant) && have.Variant < p.Variant {
		return 1 + int(have.Variant[len(have.Variant)-1]-'0')%10
	}
	return 0
}

// platformList is what an index offers, sorted and without repetitions, for
// the message of a mismatch.
func platformList(ps []Platform) string {
	seen := map[string]bool{}
	var names []string
	for _, p := range ps {
		if s := clip(p.String()); !seen[s] {
			seen[s] = true
			names = append(names, s)
		}
	}
	sort.Strings(names)
	const most = 20
	if len(names) > most {
		names = append(names[:most], "...")
	}
	return strings.Join(names, ", ")
}
