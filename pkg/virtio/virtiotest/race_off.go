//go:build !race

package virtiotest

const raceEnabled = false
