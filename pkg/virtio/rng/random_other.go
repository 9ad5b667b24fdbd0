//go:build !linux

package rng

import "crypto/rand"

// random fills b, in place, from the system's generator.
func random(b []byte) error {
	_, err := rand.Read(b)
	return err
}
