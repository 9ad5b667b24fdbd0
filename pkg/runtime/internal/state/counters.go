package state

import (
	"context"
	"database/sql"
	"fmt"
)

// schemaCounters is version 4: counters that outlive boxes. Those of no box are the
// home's.
const schemaCounters = `
ALTER TABLE boxes ADD COLUMN container_id TEXT NOT NULL DEFAULT '';
ALTER TABLE boxes ADD COLUMN timings TEXT NOT NULL DEFAULT '';
CREATE TABLE counters (
	box   TEXT NOT NULL,
	name  TEXT NOT NULL,
	value INTEGER NOT NULL,
	PRIMARY KEY (box, name)
) STRICT, WITHOUT ROWID;`

// Counters of a home, and of its boxes where they have them.
const (
	CounterCreated  = "boxes_created_total"
	CounterFailed   = "boxes_failed_total"
	CounterCommands = "commands_run_total"
	CounterErrors   = "run_errors_total"
	CounterSent     = "bytes_sent_total"
	CounterReceived = "bytes_received_total"
)

// Count adds to the counters of boxes and, with the same names, of the home. What
// belongs to a box that is gone counts for the home only.
func (s *DB) Count(ctx context.Context, boxes map[string]map[string]int64) error {
	err := s.write(ctx, false, func(tx *sql.Tx) error {
		for box, delta := range boxes {
			if err := count(ctx, tx, "", delta); err != nil {
				return err
			}
			if box == "" {
				continue
			}
			var there int
			if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM boxes WHERE id = ?", box).Scan(&there); err != nil {
				return err
			}
			if there == 0 {
				continue
			}
			if err := count(ctx, tx, box, delta); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("state: count: %w", err)
	}
	return nil
}

func count(ctx context.Context, tx *sql.Tx, box string, delta map[string]int64) error {
	for name, n := range delta {
		if n == 0 {
			continue
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO counters (box, name, value) VALUES (?,?,?) ON CONFLICT DO UPDATE SET value = value + excluded.value", box, name, n); err != nil {
			return err
		}
	}
	return nil
}

// Counters returns the counters of a box, or of the home for an empty id. Those
// that never counted are missing.
func (s *DB) Counters(ctx context.Context, box string) (map[string]int64, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT name, value FROM counters WHERE box = ?", box)
	if err != nil {
		return nil, fmt.Errorf("state: counters: %w", s.explain(err))
	}
	defer rows.Close()
	out := map[string]int64{}
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return nil, fmt.Errorf("state: counters: %w", err)
		}
		out[name] = n
	}
	return out, rows.Err()
}

// SetTimings keeps the phases of a box's last boot. A box that is gone is no error.
func (s *DB) SetTimings(ctx context.Context, id, timings string) error {
	err := s.write(ctx, false, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE boxes SET timings = ? WHERE id = ?", timings, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("state: keep the timings of box %s: %w", id, err)
	}
	return nil
}

// SetPorts keeps the ports that lead to a box, as JSON. A box that is gone is no error.
func (s *DB) SetPorts(ctx context.Context, id, ports string) error {
	err := s.write(ctx, false, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE boxes SET ports = ? WHERE id = ?", ports, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("state: keep the ports of box %s: %w", id, err)
	}
	return nil
}
