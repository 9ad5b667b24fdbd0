// Package agent serves the agent API (pkg/agentapi) inside a guest: it runs as
// part of PID 1, starts executions, carries their bytes and ends the box.
//
// Goroutines: one per connection, one per stream of an execution, one per ending
// execution, and one, the reaper, that alone waits for processes. Locks:
// Server.mu and reaper.mu are leaves, held across no I/O but wait4(WNOHANG) and
// kill.
package agent
