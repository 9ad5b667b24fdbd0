package kvm

import (
	"fmt"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"regexp"
	"strings"
)

// cHeader is as much of C as kernel headers need: constants, ioctl numbers, and
// the layout of structures on a 64-bit machine with natural alignment.
type cHeader struct {
	macros  map[string]string
	structs map[string][]string // name to the tokens between its braces
}

var (
	cComment = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
	cToken   = regexp.MustCompile(`[A-Za-z_]\w*|0[xX][0-9a-fA-F]+[uUlL]*|\d+[uUlL]*|<<|>>|[{}()\[\];,:*+/|&~=-]`)
	cDefine  = regexp.MustCompile(`^#\s*define\s+(\w+)(\(?)\s*(.*)$`)
	cSuffix  = regexp.MustCompile(`\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b`)
	cIdent   = regexp.MustCompile(`\b[A-Za-z_]\w*\b`)
	cIoctl   = regexp.MustCompile(`^_IO(W|R|WR)?\(\s*KVMIO\s*,\s*(\w+)\s*(?:,\s*([^)]+))?\)`)
)

func newCHeader(macros ...string) *cHeader {
	h := &cHeader{macros: map[string]string{}, structs: map[string][]string{}}
	for _, m := range macros {
		h.macros[m] = ""
	}
	return h
}

// read takes in one header file; files that it includes must have been read before.
func (h *cHeader) read(path string) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(cComment.ReplaceAllString(string(src), " "), "\\\n", " ")
	var code strings.Builder
	live := []bool{true}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		top := live[len(live)-1]
		word, rest, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "#")), " ")
		_, defined := h.macros[strings.TrimSpace(rest)]
		switch {
		case !strings.HasPrefix(line, "#"):
			if top {
				code.WriteString(line + "\n")
			}
		case word == "ifdef":
			live = append(live, top && defined)
		case word == "ifndef":
			live = append(live, top && !defined)
		case word == "if":
			live = append(live, top && h.condition(rest))
		case word == "else":
			live[len(live)-1] = !top && (len(live) < 2 || live[len(live)-2])
		case word == "endif":
			live = live[:len(live)-1]
		case top:
			if m := cDefine.FindStringSubmatch(line); m != nil && m[2] == "" {
				h.macros[m[1]] = m[3]
			}
		}
	}
	h.parse(cToken.FindAllString(code.String(), -1))
	return nil
}

// condition knows the one form that the headers use: defined(A) || defined(B).
func (h *cHeader) condition(s string) bool {
	for name := range h.macros {
		if strings.Contains(s, "defined("+name+")") {
			return true
		}
	}
	return false
}

// parse finds the structures and enumerations.
func (h *cHeader) parse(t []string) {
	for i := 0; i+1 < len(t); i++ {
		switch {
		case t[i] == "struct" && i+2 < len(t) && t[i+2] == "{":
			end := closing(t, i+2)
			h.structs[t[i+1]] = t[i+3 : end]
			i = end
		case t[i] == "enum":
			for t[i] != "{" {
				i++
			}
			end := closing(t, i)
			h.enum(t[i+1 : end])
			i = end
		}
	}
}

// enum defines the constants between the braces of an enumeration.
func (h *cHeader) enum(t []string) {
	value := "0"
	for item := range strings.SplitSeq(strings.Join(t, " "), ",") {
		name, explicit, ok := strings.Cut(item, "=")
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if ok {
			value = explicit
		}
		h.macros[name] = value
		value = "(" + name + ")+1"
	}
}

// closing is the index of the brace that closes the one at i.
func closing(t []string, i int) int {
	for depth := 0; ; i++ {
		switch t[i] {
		case "{":
			depth++
		case "}":
			if depth--; depth == 0 {
				return i
			}
		}
	}
}

// value computes a constant expression.
func (h *cHeader) value(expr string) (uint64, error) {
	for range 16 {
		next := cIdent.ReplaceAllStringFunc(expr, func(name string) string {
			if v, ok := h.macros[name]; ok {
				return "(" + v + ")"
			}
			return name
		})
		if next == expr {
			break
		}
		expr = next
	}
	expr = cSuffix.ReplaceAllString(expr, "$1")
	v, err := types.Eval(token.NewFileSet(), nil, token.NoPos, expr)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", expr, err)
	}
	n, ok := constant.Uint64Val(constant.ToInt(v.Value))
	if !ok {
		return 0, fmt.Errorf("%s = %v", expr, v.Value)
	}
	return n, nil
}

// ioctl computes the number of an ioctl (asm-generic/ioctl.h).
func (h *cHeader) ioctl(name string) (uint64, error) {
	m := cIoctl.FindStringSubmatch(h.macros[name])
	if m == nil {
		return 0, fmt.Errorf("%s is %q, not an ioctl", name, h.macros[name])
	}
	nr, err := h.value(m[2])
	if err != nil {
		return 0, err
	}
	size := uint64(0)
	if m[3] != "" {
		l, err := h.layout(cToken.FindAllString(m[3]+" x;", -1))
		if err != nil {
			return 0, err
		}
		size = l.size
	}
	dir := map[string]uint64{"": 0, "W": 1, "R": 2, "WR": 3}[m[1]]
	return dir<<30 | size<<16 | 0xae<<8 | nr, nil
}

// layout is the size of a structure, and where its members are ("outer.inner").
type layout struct {
	size, align uint64
	at          map[string]uint64
}

func (h *cHeader) structLayout(name string) (layout, error) {
	body, ok := h.structs[name]
	if !ok {
		return layout{}, fmt.Errorf("no struct %s", name)
	}
	l, err := h.layout(body)
	if err != nil {
		return l, fmt.Errorf("struct %s: %w", name, err)
	}
	return l, nil
}

var cSizes = map[string]uint64{
	"__u8": 1, "__s8": 1, "char": 1, "__u16": 2, "__s16": 2, "__u32": 4, "__s32": 4, "int": 4,
	"__u64": 8, "__s64": 8, "long": 8, "__aligned_u64": 8,
}

// layout lays out the members in the tokens of a structure's body.
func (h *cHeader) layout(t []string) (layout, error) { return h.members(t, false) }

func (h *cHeader) members(t []string, union bool) (layout, error) {
	l := layout{align: 1, at: map[string]uint64{}}
	place := func(name string, m layout, count uint64) {
		l.align = max(l.align, m.align)
		at := uint64(0)
		if !union {
			at = (l.size + m.align - 1) &^ (m.align - 1)
		}
		if name != "" {
			l.at[name] = at
			name += "."
		}
		for k, v := range m.at {
			l.at[name+k] = at + v
		}
		l.size = max(l.size, at+m.size*count)
	}
	for i := 0; i < len(t); {
		var m layout
		var err error
		flex := t[i] == "__DECLARE_FLEX_ARRAY"
		if flex {
			i += 2
		}
		for t[i] == "unsigned" || t[i] == "const" || t[i] == "signed" {
			i++
		}
		switch {
		case (t[i] == "struct" || t[i] == "union") && t[i+1] == "{":
			end := closing(t, i+1)
			m, err = h.members(t[i+2:end], t[i] == "union")
			i = end + 1
		case t[i] == "struct" && i+2 < len(t) && t[i+2] == "*":
			m, i = layout{size: 8, align: 8}, i+2
		case t[i] == "struct":
			m, err = h.structLayout(t[i+1])
			i += 2
		default:
			size, ok := cSizes[t[i]]
			if !ok {
				return l, fmt.Errorf("unknown type %s", t[i])
			}
			m = layout{size: size, align: size}
			i++
		}
		if err != nil {
			return l, err
		}
		for done := false; !done; i++ { // declarators
			name, count, item := "", uint64(1), m
			if t[i] == "," {
				i++
			}
			if t[i] == "*" {
				item, i = layout{size: 8, align: 8}, i+1
			}
			if t[i] != ";" {
				name, i = t[i], i+1
			}
			for t[i] == "[" {
				var expr []string
				for i++; t[i] != "]"; i++ {
					expr = append(expr, t[i])
				}
				n := uint64(0) // a flexible array
				if len(expr) > 0 {
					if n, err = h.value(strings.Join(expr, " ")); err != nil {
						return l, err
					}
				}
				count, i = count*n, i+1
			}
			switch {
			case flex:
				count, i = 0, i+1 // the closing parenthesis
			case t[i] == ":":
				return l, fmt.Errorf("bit field %s", name)
			}
			place(name, item, count)
			done = t[i] == ";"
			if !done {
				i-- // the comma, for the loop's own step
			}
		}
	}
	l.size = (l.size + l.align - 1) &^ (l.align - 1)
	return l, nil
}
