//go:build !linux && !darwin

package erofs

import "errors"

func (d *dirConverter) root(string) error {
	return errors.New("not supported on this system")
}
