package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/anthropics/boxlite/pkg/runtime/internal/state"
)

// maxName bounds a box's name, in bytes.
const maxName = 128

// validName reports whether a box can be called that: letters, digits, and inside
// also _ . and -. It is no regular expression because one of 128 repetitions takes
// every process that has this package 0.3 ms to compile.
func validName(s string) bool {
	if s == "" || len(s) > maxName || strings.IndexByte("_.-", s[0]) >= 0 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// nameRefused is the error of the state about a name, nil where it has none to do with
// that.
func (r *Runtime) nameRefused(ctx context.Context, name string, err error) error {
	if errors.Is(err, state.ErrExists) {
		return r.nameTaken(ctx, name)
	}
	if hides := (*state.NameError)(nil); errors.As(err, &hides) {
		return fail(ErrInvalidArgument, "name %q is the beginning of the id of box %s: choose another", name, hides.Box)
	}
	return nil
}

// nameTaken is the error of a name that another box has, with what there is to know of
// that box.
func (r *Runtime) nameTaken(ctx context.Context, name string) error {
	holder := "another box"
	if i, err := r.GetInfo(ctx, name); err == nil {
		holder = fmt.Sprintf("box %s, which is %s", i.ID, i.Status)
	}
	return fail(ErrAlreadyExists, "the name %q belongs to %s: choose another, or remove that box", name, holder)
}
