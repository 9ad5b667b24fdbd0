package oci

import (
	"fmt"
	"syscall"
)

// diskError turns "no space left on device" into a message that says how much
// is needed where. need is in bytes, 0 if not known. nil stays nil.
func (s *Store) diskError(err error, need int64) error {
	if err == nil || !isNoSpace(err) {
		return err
	}
	msg := fmt.Sprintf("no space left in %s: %s free", s.root, bytesText(s.free()))
	if need > 0 {
		msg += fmt.Sprintf(", about %s more needed", bytesText(need))
	}
	msg += helpSpace
	return &kindError{kind: ErrNoSpace, msg: msg, cause: err}
}

const helpSpace = "; `boxlite prune -a` frees what is not in use"

// checkSpace refuses a pull that cannot succeed, before anything is fetched.
func (s *Store) checkSpace(need int64) error {
	free := s.free()
	if free < 0 || need <= free {
		return nil
	}
	return fail(ErrNoSpace, "not enough space in %s: at least %s needed, %s free"+helpSpace, s.root, bytesText(need), bytesText(free))
}

// free is what a normal user may still write to the store's file system; -1
// where the system does not say.
func (s *Store) free() int64 {
	if s.freeSpace != nil {
		return s.freeSpace()
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.root, &st); err != nil {
		return -1
	}
	n := st.Bavail * uint64(st.Bsize)
	if n > maxBlob {
		n = maxBlob
	}
	return int64(n)
}

func bytesText(n int64) string {
	switch {
	case n < 0:
		return "unknown"
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}
