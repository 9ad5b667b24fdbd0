//go:build race

package vsock

func init() { raceDetector = true }
