//go:build !race

package erofs

const raceEnabled = false
