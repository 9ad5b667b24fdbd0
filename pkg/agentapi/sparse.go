package agentapi

// A file with holes is archived whole, and says so in a pax record "comment", which
// every program passes over (POSIX.1-2024, pax, "pax Extended Header Keyword
// Precedence"): who unpacks it need not write the zeros.
const (
	PaxComment    = "comment"
	SparseComment = "boxlite: sparse"
)
