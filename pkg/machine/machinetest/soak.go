package machinetest

import "os"

// SoakEnv asks for the long forms of tests. Its value is how often the test of kills
// kills.
const SoakEnv = "BOXLITE_SOAK"

// Soak is whether the long forms of tests are to run.
func Soak() bool { return os.Getenv(SoakEnv) != "" }
