package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kinds of events, by Docker's words.
const (
	EventCreate  = "create"
	EventStart   = "start"
	EventStop    = "stop" // somebody asked for it
	EventDie     = "die"  // the VM has ended
	EventRename  = "rename"
	EventDestroy = "destroy"
)

// Statuses that matter here, as the runtime writes them.
const (
	statusRunning  = "running"
	statusStopping = "stopping"
)

// maxEvents is how many events a home keeps; older ones go. It bounds the file:
// an event takes some 200 bytes.
const maxEvents = 10_000

// Event is something that happened to a box.
type Event struct {
	ID    int64 // ascending, never used twice
	At    time.Time
	Kind  string
	Box   string
	Name  string // of the box then
	Image string
	Attrs map[string]string
}

// changed records what the change of a row means.
func changed(ctx context.Context, tx *sql.Tx, before, after *Box) error {
	active := func(b *Box) bool { return b.Status == statusRunning || b.Status == statusStopping }
	switch {
	case active(after) && !active(before):
		return happened(ctx, tx, EventStart, after, nil)
	case after.Status == statusStopping && before.Status == statusRunning:
		return happened(ctx, tx, EventStop, after, nil)
	case active(before) && !active(after):
		attrs := map[string]string{}
		if after.ExitCode != nil {
			attrs["exitCode"] = strconv.Itoa(*after.ExitCode)
		}
		if after.Reason != "" {
			attrs["reason"] = after.Reason
		}
		return happened(ctx, tx, EventDie, after, attrs)
	}
	return nil
}

func happened(ctx context.Context, tx *sql.Tx, kind string, b *Box, attrs map[string]string) error {
	if attrs == nil {
		attrs = map[string]string{}
	}
	text, err := json.Marshal(attrs)
	if err != nil {
		return err
	}
	r, err := tx.ExecContext(ctx, "INSERT INTO events (at, kind, box, name, image, attrs) VALUES (?,?,?,?,?,?)",
		time.Now().UnixMicro(), kind, b.ID, b.Name, b.Image, string(text))
	if err != nil {
		return err
	}
	// Now and then is enough, and spares the rest of the writes the search.
	if id, err := r.LastInsertId(); err == nil && id%100 == 0 {
		_, err = tx.ExecContext(ctx, "DELETE FROM events WHERE id <= ?", id-maxEvents)
		return err
	}
	return nil
}

// EventFilter selects events. The zero value selects all.
type EventFilter struct {
	After        int64 // only events with greater ids
	Since, Until time.Time
	Box          string // id
	Kinds        []string
}

// Events returns at most limit events that a filter selects, oldest first.
func (s *DB) Events(ctx context.Context, f EventFilter, limit int) ([]Event, error) {
	q := "SELECT id, at, kind, box, name, image, attrs FROM events WHERE id > ?"
	args := []any{f.After}
	if !f.Since.IsZero() {
		q, args = q+" AND at >= ?", append(args, f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		q, args = q+" AND at < ?", append(args, f.Until.UnixMicro())
	}
	if f.Box != "" {
		q, args = q+" AND box = ?", append(args, f.Box)
	}
	if len(f.Kinds) > 0 {
		q += " AND kind IN (?" + strings.Repeat(",?", len(f.Kinds)-1) + ")"
		for _, k := range f.Kinds {
			args = append(args, k)
		}
	}
	rows, err := s.db.QueryContext(ctx, q+" ORDER BY id LIMIT ?", append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("state: events: %w", err)
	}
	defer rows.Close()
	var out []Event
	for rows.Next() {
		var e Event
		var at int64
		var attrs string
		if err := rows.Scan(&e.ID, &at, &e.Kind, &e.Box, &e.Name, &e.Image, &attrs); err != nil {
			return nil, fmt.Errorf("state: events: %w", err)
		}
		e.At = time.UnixMicro(at)
		if err := json.Unmarshal([]byte(attrs), &e.Attrs); err != nil {
			return nil, fmt.Errorf("state: event %d: %w", e.ID, err)
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// LastEvent is the id of the latest event, 0 for none.
func (s *DB) LastEvent(ctx context.Context) (id int64, err error) {
	if err := s.db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM events").Scan(&id); err != nil {
		return 0, fmt.Errorf("state: events: %w", err)
	}
	return id, nil
}
