package vmm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openCapture makes the file for captured frames, or empties the one that is there.
// What is at the path may be somebody else's work: it follows no link there, waits for
// no pipe's reader, and changes nothing but a regular file.
func openCapture(path string) (f *os.File, err error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0o600)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("capture frames: %s is a link: name the file itself", path)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.EISDIR): // a pipe that nobody reads, a socket, a folder
		return nil, fmt.Errorf("capture frames: %s is no regular file: name another", path)
	case err != nil:
		return nil, fmt.Errorf("capture frames: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("capture frames: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("capture frames: %s is no regular file: name another", path)
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		return nil, fmt.Errorf("capture frames: %w", &os.PathError{Op: "truncate", Path: path, Err: err})
	}
	// A descriptor that does not block would be polled, which regular files are not.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, fmt.Errorf("capture frames: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
