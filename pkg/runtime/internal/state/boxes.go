package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

const columns = "id, name, created_at, updated_at, options, image, status, reason, pid, pid_start, boot_id, ephemeral, exit_code, started_at, finished_at, container_id, timings, ports"

// marks has a place for each of them.
const marks = "?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?"

// changed are all columns but the key.
var changed = strings.TrimPrefix(columns, "id, ")

// Insert adds a box, with the events recorded in it. A name in use is ErrExists.
func (s *DB) Insert(ctx context.Context, b *Box) error {
	err := s.write(ctx, !b.Ephemeral || len(b.Volumes) > 0, func(tx *sql.Tx) error {
		if err := nameFree(ctx, tx, b); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO boxes ("+columns+") VALUES ("+marks+")", b.values()...); err != nil {
			return err
		}
		if err := useVolumes(ctx, tx, b); err != nil {
			return err
		}
		if err := count(ctx, tx, "", map[string]int64{CounterCreated: 1}); err != nil {
			return err
		}
		return addEvents(ctx, tx, b.takeEvents())
	})
	if err != nil {
		return fmt.Errorf("state: add box: %w", err)
	}
	return nil
}

// NameError is of a name that the beginning of a box's id is, and that would hide that
// box from who calls it so.
type NameError struct{ Box string } // its name, or its id if it has none

func (e *NameError) Error() string { return "it is the beginning of the id of box " + e.Box }

// nameFree is ErrExists when another box has this one's name, and a [NameError] when
// Find takes it for the id of another.
func nameFree(ctx context.Context, tx *sql.Tx, b *Box) error {
	if b.Name == "" {
		return nil
	}
	var other string
	err := tx.QueryRowContext(ctx, "SELECT id FROM boxes WHERE name = ? AND id <> ?", b.Name, b.ID).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return noPrefix(ctx, tx, b)
	} else if err != nil {
		return err
	}
	return fmt.Errorf("%q belongs to box %s: %w", b.Name, other, ErrExists)
}

func noPrefix(ctx context.Context, tx *sql.Tx, b *Box) error {
	if !isPrefix(b.Name) {
		return nil
	}
	var other string
	err := tx.QueryRowContext(ctx, "SELECT coalesce(name, id) FROM boxes WHERE id GLOB ? AND id <> ? LIMIT 1", strings.ToUpper(b.Name)+"*", b.ID).Scan(&other)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	} else if err != nil {
		return err
	}
	return &NameError{other}
}

// Update changes a box in one transaction: change sees the row as it is now, and
// an error from it changes nothing. Events that change records in the box are
// stored with it. A new name that is in use is ErrExists.
func (s *DB) Update(ctx context.Context, id string, change func(*Box) error) (*Box, error) {
	var b *Box
	err := s.write(ctx, s.lasting(ctx, id), func(tx *sql.Tx) (err error) {
		if b, err = scan(tx.QueryRowContext(ctx, "SELECT "+columns+" FROM boxes WHERE id = ?", id)); err != nil {
			return err
		}
		status, name := b.Status, b.Name
		if err := change(b); err != nil {
			return err
		}
		if b.Status != status {
			b.UpdatedAt = time.Now()
		}
		if b.Name != name {
			if err := nameFree(ctx, tx, b); err != nil {
				return err
			}
		}
		values := append(b.values()[1:], id)
		if _, err := tx.ExecContext(ctx, "UPDATE boxes SET ("+changed+") = ("+marks[2:]+") WHERE id = ?", values...); err != nil {
			return err
		}
		return addEvents(ctx, tx, b.takeEvents())
	})
	if err != nil {
		return nil, fmt.Errorf("state: change box %s: %w", id, err)
	}
	return b, nil
}

// Find returns the box with this id, name, or unique prefix of an id, in that
// order. Prefixes are at least 4 characters.
func (s *DB) Find(ctx context.Context, key string) (*Box, error) {
	b, err := scan(s.db.QueryRowContext(ctx, "SELECT "+columns+" FROM boxes WHERE id = ?1 OR name = ?2 ORDER BY id = ?1 DESC", strings.ToUpper(key), key))
	if err == nil || !errors.Is(err, ErrNotFound) {
		return b, s.wrapFind(key, err)
	}
	if !isPrefix(key) {
		return nil, s.wrapFind(key, ErrNotFound)
	}
	rows, err := s.query(ctx, "SELECT "+columns+" FROM boxes WHERE id GLOB ? LIMIT 2", strings.ToUpper(key)+"*")
	switch {
	case err != nil:
		return nil, s.wrapFind(key, err)
	case len(rows) == 0:
		return nil, s.wrapFind(key, ErrNotFound)
	case len(rows) > 1:
		return nil, s.wrapFind(key, ErrAmbiguous)
	}
	return rows[0], nil
}

// isPrefix reports whether a key may be the beginning of an id.
func isPrefix(key string) bool {
	return len(key) >= 4 && strings.Trim(strings.ToUpper(key), "0123456789ABCDEFGHJKMNPQRSTVWXYZ") == ""
}

func (s *DB) wrapFind(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("state: find box %q: %w", key, s.explain(err))
}

// List returns all boxes, newest first.
func (s *DB) List(ctx context.Context) ([]*Box, error) {
	rows, err := s.query(ctx, "SELECT "+columns+" FROM boxes ORDER BY id DESC")
	if err != nil {
		return nil, fmt.Errorf("state: list boxes: %w", s.explain(err))
	}
	return rows, nil
}

// Delete removes a box and records an event of this kind about it. One that is
// not there is no error, and no event. With take, the anonymous volumes that were
// made for it go as well, and with made also others that were added with it and that
// nobody else has named since: take moves their content away before anybody can see
// that they are gone.
func (s *DB) Delete(ctx context.Context, id, kind string, made bool, take func([]Volume) error) error {
	err := s.write(ctx, s.lasting(ctx, id), func(tx *sql.Tx) error {
		var name sql.NullString
		err := tx.QueryRowContext(ctx, "DELETE FROM boxes WHERE id = ? RETURNING name", id).Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM counters WHERE box = ?", id); err != nil {
			return err
		}
		own, err := leaveVolumes(ctx, tx, id, made)
		if err != nil {
			return err
		}
		if err := addEvents(ctx, tx, []Event{{Time: time.Now(), Kind: kind, Box: id, Name: name.String}}); err != nil {
			return err
		}
		if take == nil || len(own) == 0 {
			return nil
		}
		for _, v := range own {
			if _, err := tx.ExecContext(ctx, "DELETE FROM volumes WHERE name = ?", v.Name); err != nil {
				return err
			}
		}
		return take(own)
	})
	if err != nil {
		return fmt.Errorf("state: delete box %s: %w", id, err)
	}
	return nil
}

func (s *DB) query(ctx context.Context, q string, args ...any) ([]*Box, error) {
	rows, err := s.db.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []*Box
	for rows.Next() {
		b, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rows.Err()
}

func (b *Box) values() []any {
	name := sql.NullString{String: b.Name, Valid: b.Name != ""}
	return []any{
		b.ID, name, b.CreatedAt.UnixMicro(), b.UpdatedAt.UnixMicro(), b.Options, b.Image,
		b.Status, b.Reason, b.PID, int64(b.PIDStart), b.BootID, b.Ephemeral,
		b.ExitCode, micros(b.StartedAt), micros(b.FinishedAt), b.ContainerID, b.Timings, b.Ports,
	}
}

// micros is a time as it is stored; 0 is the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us)
}

func scan(row interface{ Scan(...any) error }) (*Box, error) {
	var b Box
	var name sql.NullString
	var created, updated, start, started, finished int64
	var code sql.NullInt64
	err := row.Scan(&b.ID, &name, &created, &updated, &b.Options, &b.Image, &b.Status, &b.Reason, &b.PID, &start, &b.BootID, &b.Ephemeral,
		&code, &started, &finished, &b.ContainerID, &b.Timings, &b.Ports)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	} else if err != nil {
		return nil, err
	}
	b.Name, b.PIDStart = name.String, uint64(start)
	b.CreatedAt, b.UpdatedAt = time.UnixMicro(created), time.UnixMicro(updated)
	b.StartedAt, b.FinishedAt = fromMicros(started), fromMicros(finished)
	if code.Valid {
		n := int(code.Int64)
		b.ExitCode = &n
	}
	return &b, nil
}
