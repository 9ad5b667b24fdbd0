// Package agent serves the agent API (pkg/agentapi) inside a guest: it runs as
// part of PID 1, starts executions, carries their bytes, copies files, tells what
// the box does and ends it.
//
// Goroutines: one per connection, one per stream of an execution, one per ending
// execution, two per copy, one per question about the box, and one, the reaper,
// that alone waits for processes. Locks: Server.mu and reaper.mu are leaves, held
// across no I/O but wait4(WNOHANG) and kill.
package agent
