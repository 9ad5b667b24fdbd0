package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Rename gives a box another name. One that another box has is ErrExists; a box
// that has the name already keeps it.
func (s *DB) Rename(ctx context.Context, id, name string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		var other string
		err := tx.QueryRowContext(ctx, "SELECT id FROM boxes WHERE name = ? AND id != ?", name, id).Scan(&other)
		if err == nil {
			return fmt.Errorf("%q belongs to box %s: %w", name, other, ErrExists)
		} else if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		res, err := tx.ExecContext(ctx, "UPDATE boxes SET name = ? WHERE id = ?", name, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return ErrNotFound
	})
	if err != nil {
		return fmt.Errorf("state: rename box %s: %w", id, err)
	}
	return nil
}
