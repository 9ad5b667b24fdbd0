package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeFlag is a flag that takes a size, which it keeps in whole units of its own.
// A plain number is so many of them, as ever; with a unit it is what docker takes:
// 512m, 1.5g, 512MiB. All units are powers of 1024. What is no whole number of its
// own units is rounded up.
type sizeFlag struct {
	to   *int
	unit byte   // 'm' or 'g'
	text string // as it was given, empty if it was not
}

// newSizeFlag also sets the default.
func newSizeFlag(to *int, unit byte, value int) *sizeFlag {
	*to = value
	return &sizeFlag{to: to, unit: unit}
}

// sizeShifts are the powers of two that the units' letters stand for.
var sizeShifts = map[byte]int{'b': 0, 'k': 10, 'm': 20, 'g': 30, 't': 40}

// sizeNames are the long names of units that a plain number can be of.
var sizeNames = map[byte]string{'b': "bytes", 'm': "MiB", 'g': "GiB"}

// errSize says what sizes look like.
type errSize struct{ unit byte }

func (e errSize) Error() string {
	return fmt.Sprintf("a size such as 512m, 1.5g or 2GiB, or a plain number of %s", sizeNames[e.unit])
}

// errLargeSize is of a size that is larger than what it is kept in.
var errLargeSize = errors.New("a smaller size")

func (f *sizeFlag) Set(s string) error {
	v, err := parseSize(s, f.unit, math.MaxInt32)
	if err != nil {
		return err
	}
	*f.to, f.text = int(v), s
	return nil
}

// check refuses what is not within least and most, or was given as nothing.
func (f *sizeFlag) check(least, most int) error {
	if f.text == "" || *f.to >= least && *f.to <= most {
		return nil
	}
	return fmt.Errorf("%s: choose %s to %s", f.text, flagSize(least, f.unit), flagSize(most, f.unit))
}

// flagSize is a size as a flag takes it, in the largest unit that it is a multiple of.
func flagSize(n int, unit byte) string {
	for _, larger := range []byte{'g', 't'} {
		if shift := sizeShifts[larger] - sizeShifts[unit]; shift > 0 && n>>10 > 0 && n&1023 == 0 {
			n, unit = n>>10, larger
		}
	}
	return strconv.Itoa(n) + string(unit)
}

// parseSize reads a size in whole units of own, which is the unit of a plain number,
// too. What is none of them is rounded up. An error is what to want in place of s.
func parseSize(s string, own byte, most int64) (int64, error) {
	number, unit := splitSize(strings.ToLower(s), own)
	shift, ok := sizeShifts[unit]
	// ParseFloat alone would take 1e3, 0x10, inf and 1_0.
	if !ok || number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, errSize{own}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errSize{own}
	}
	if v = math.Ceil(math.Ldexp(v, shift-sizeShifts[own])); v > float64(most) {
		return 0, errLargeSize
	}
	return int64(v), nil
}

// splitSize takes the unit off a size in lower case: g, gb or gib. There is no
// letter, and own is the unit, of a plain number.
func splitSize(s string, own byte) (number string, unit byte) {
	for _, suffix := range []string{"ib", "b", ""} {
		rest, ok := strings.CutSuffix(s, suffix)
		if !ok || rest == "" {
			continue
		}
		if last := rest[len(rest)-1]; last == 'k' || last == 'm' || last == 'g' || last == 't' {
			return rest[:len(rest)-1], last
		}
	}
	if rest, ok := strings.CutSuffix(s, "b"); ok {
		return rest, 'b'
	}
	return s, own
}

func (f *sizeFlag) String() string {
	if f.to == nil || *f.to == 0 {
		return ""
	}
	return strconv.Itoa(*f.to) + string(f.unit)
}

// Type is the word for the value in a command's help.
func (f *sizeFlag) Type() string { return "size" }
