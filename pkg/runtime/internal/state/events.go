package state

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// schemaEvents is what happened to boxes, those included that are gone.
// AUTOINCREMENT: a number is never given twice, so a reader can go on after the
// last one that it has seen.
const schemaEvents = `
CREATE TABLE events (
	seq        INTEGER PRIMARY KEY AUTOINCREMENT,
	time       INTEGER NOT NULL,
	kind       TEXT NOT NULL,
	box        TEXT NOT NULL,
	name       TEXT NOT NULL,
	attributes TEXT NOT NULL
) STRICT;`

// maxEvents is how many events are kept; each new one drops the oldest beyond it.
const maxEvents = 10_000

// maxAttribute bounds the text of an attribute, in bytes: with maxEvents it
// bounds the table.
const maxAttribute = 256

// Event is something that happened to a box.
type Event struct {
	Seq        int64 // 1 and up, in the order of recording; set by the database
	Time       time.Time
	Kind       string
	Box        string // id
	Name       string // that the box had then, empty for none
	Attributes map[string]string
}

// Record adds an event to a box that is being inserted or changed: it is stored
// in the same transaction, with the box's id and its name after the change.
// Texts are cut to maxAttribute.
func (b *Box) Record(kind string, attributes map[string]string) {
	b.events = append(b.events, Event{Time: time.Now(), Kind: kind, Attributes: attributes})
}

// takeEvents empties what Record has gathered.
func (b *Box) takeEvents() []Event {
	out := b.events
	b.events = nil
	for i := range out {
		out[i].Box, out[i].Name = b.ID, b.Name
	}
	return out
}

// AddEvents stores events that go with no change of a box.
func (s *DB) AddEvents(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	err := s.write(ctx, false, func(tx *sql.Tx) error { return addEvents(ctx, tx, events) })
	if err != nil {
		return fmt.Errorf("state: record events: %w", err)
	}
	return nil
}

func addEvents(ctx context.Context, tx *sql.Tx, events []Event) error {
	var last int64
	for _, e := range events {
		cut := make(map[string]string, len(e.Attributes))
		for k, v := range e.Attributes {
			cut[k] = strings.ToValidUTF8(v[:min(len(v), maxAttribute)], "")
		}
		attributes, err := json.Marshal(cut)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, "INSERT INTO events (time, kind, box, name, attributes) VALUES (?,?,?,?,?)",
			e.Time.UnixMicro(), e.Kind, e.Box, e.Name, string(attributes))
		if err != nil {
			return err
		}
		if last, err = res.LastInsertId(); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM events WHERE seq <= ?", last-maxEvents)
	return err
}

// EventFilter chooses events. Zero values choose all.
type EventFilter struct {
	After        int64     // Seq
	Since, Until time.Time // inclusive
	Box          string    // id, prefix of one of at least 4 characters, or the name that the box had
	Kinds        []string
	Newest       bool // begin with the newest
}

// Events returns up to limit events in the order of Seq, or against it.
func (s *DB) Events(ctx context.Context, f EventFilter, limit int) ([]Event, error) {
	where, args := []string{"seq > ?"}, []any{f.After}
	and := func(condition string, values ...any) {
		where, args = append(where, condition), append(args, values...)
	}
	if !f.Since.IsZero() {
		and("time >= ?", f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		and("time <= ?", f.Until.UnixMicro())
	}
	if f.Box != "" {
		id := strings.ToUpper(f.Box)
		if isPrefix(f.Box) {
			and("(box = ? OR name = ? OR box GLOB ?)", id, f.Box, id+"*")
		} else {
			and("(box = ? OR name = ?)", id, f.Box)
		}
	}
	if len(f.Kinds) > 0 {
		and("kind IN (?"+strings.Repeat(",?", len(f.Kinds)-1)+")", anys(f.Kinds)...)
	}
	order := "ASC"
	if f.Newest {
		order = "DESC"
	}
	rows, err := s.db.QueryContext(ctx, "SELECT seq, time, kind, box, name, attributes FROM events WHERE "+
		strings.Join(where, " AND ")+" ORDER BY seq "+order+" LIMIT ?", append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("state: read events: %w", s.explain(err))
	}
	defer rows.Close()
	var out []Event
	for rows.Next() {
		var e Event
		var us int64
		var attributes string
		if err := rows.Scan(&e.Seq, &us, &e.Kind, &e.Box, &e.Name, &attributes); err != nil {
			return nil, fmt.Errorf("state: read events: %w", s.explain(err))
		}
		if err := json.Unmarshal([]byte(attributes), &e.Attributes); err != nil {
			return nil, fmt.Errorf("state: attributes of event %d: %w", e.Seq, err)
		}
		e.Time = time.UnixMicro(us)
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("state: read events: %w", s.explain(err))
	}
	return out, nil
}

// LastEvent is the Seq of the newest event there ever was, 0 for none.
func (s *DB) LastEvent(ctx context.Context) (int64, error) {
	var seq int64
	err := s.db.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'").Scan(&seq)
	if err != nil {
		return 0, fmt.Errorf("state: read events: %w", s.explain(err))
	}
	return seq, nil
}

// Watch sees changes of a database. It is for one goroutine.
type Watch struct {
	db   *sql.DB
	s    *DB
	last int64
}

// Watch begins to look for changes. It has a connection of its own: one does not
// see its own changes as such.
func (s *DB) Watch(ctx context.Context) (*Watch, error) {
	db, err := connect(s.path, "query_only(1)")
	if err != nil {
		return nil, err
	}
	w := &Watch{db: db, s: s}
	if _, err := w.Changed(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return w, nil
}

// Changed reports whether anybody has changed the database since the last call.
// It costs microseconds: SQLite looks at a counter in shared memory.
func (w *Watch) Changed(ctx context.Context) (bool, error) {
	var v int64
	if err := w.db.QueryRowContext(ctx, "PRAGMA data_version").Scan(&v); err != nil {
		return false, fmt.Errorf("state: look for changes: %w", w.s.explain(err))
	}
	changed := v != w.last
	w.last = v
	return changed, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.db.Close() }

func anys[T any](list []T) []any {
	out := make([]any, 0, len(list))
	for _, v := range list {
		out = append(out, v)
	}
	return out
}
