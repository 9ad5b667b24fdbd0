package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strings"
)

// Digest names content by its hash: "sha256:" and 64 lower-case hex digits.
// Values the package hands out are always of that form, which is also why they
// are safe to use in file names.
type Digest string

const digestPrefix = "sha256:"

// ParseDigest checks s. Algorithms other than sha256 are refused by name.
func ParseDigest(s string) (Digest, error) {
	hexpart, ok := strings.CutPrefix(s, digestPrefix)
	if !ok {
		if algo, _, found := strings.Cut(s, ":"); found && algo != "" && len(algo) <= 32 {
			return "", fail(ErrUnsupported, "oci: digest algorithm %q is not supported, only sha256", algo)
		}
		return "", fail(ErrReference, "oci: %q is not a digest (sha256:<64 hex digits>)", clip(s))
	}
	if len(hexpart) != hex.EncodedLen(sha256.Size) {
		return "", fail(ErrReference, "oci: digest %q has %d hex digits, not 64", clip(s), len(hexpart))
	}
	for _, c := range []byte(hexpart) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fail(ErrReference, "oci: digest %q has a character other than 0-9 and a-f", clip(s))
		}
	}
	return Digest(s), nil
}

// Hex is the digest without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), digestPrefix) }

// Short is the first 12 hex digits, as people read them.
func (d Digest) Short() string {
	h := d.Hex()
	return h[:min(12, len(h))]
}

// UnmarshalText makes every decoded digest a checked one.
func (d *Digest) UnmarshalText(b []byte) error {
	p, err := ParseDigest(string(b))
	*d = p
	return err
}

func digestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(digestPrefix + hex.EncodeToString(sum[:]))
}

func digestSum(h hash.Hash) Digest {
	return Digest(digestPrefix + hex.EncodeToString(h.Sum(nil)))
}

// clip shortens text that came from outside before it enters a message.
func clip(s string) string {
	const most = 120
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
