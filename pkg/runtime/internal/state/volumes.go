package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// schemaVolumes is version 6: the volumes of a home, and which boxes name them.
const schemaVolumes = `
CREATE TABLE volumes (
	name       TEXT PRIMARY KEY,
	created_at INTEGER NOT NULL,
	labels     TEXT NOT NULL,
	anonymous  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE volume_uses (
	volume TEXT NOT NULL,
	box    TEXT NOT NULL,
	own    INTEGER NOT NULL, -- the volume was made for the box, and may go with it
	PRIMARY KEY (volume, box)
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_uses_of_box ON volume_uses (box);`

// schemaMadeVolumes is version 7: which volumes are there for one box only.
const schemaMadeVolumes = `
-- The volume was added with the box, and nobody else has named it since.
ALTER TABLE volume_uses ADD COLUMN made INTEGER NOT NULL DEFAULT 0;`

// Errors about which volume is meant.
var (
	ErrNoVolume    = errors.New("no such volume")
	ErrVolumeInUse = errors.New("volume is in use")
)

// VolumeInUseError is an ErrVolumeInUse that says which boxes name the volume.
type VolumeInUseError struct{ Boxes []string }

func (e *VolumeInUseError) Error() string {
	return fmt.Sprintf("%v by %s", ErrVolumeInUse, strings.Join(e.Boxes, ", "))
}

func (e *VolumeInUseError) Unwrap() error { return ErrVolumeInUse }

// Volume is a volume of a home: what is known of it but its content.
type Volume struct {
	Name      string
	CreatedAt time.Time
	Labels    string   // JSON, empty for none
	Anonymous bool     // its name was made up
	Boxes     []string // that name it: names, or ids of those without; sorted; set by Volumes and FindVolume
}

// AddVolume adds a volume. It reports false where there is one of that name, which from
// then on is not only that of the box that it was made with.
func (s *DB) AddVolume(ctx context.Context, v Volume) (added bool, err error) {
	err = s.write(ctx, true, func(tx *sql.Tx) error {
		if added, err = addVolume(ctx, tx, &v); added || err != nil {
			return err
		}
		return shareVolume(ctx, tx, v.Name, "")
	})
	if err != nil {
		return false, fmt.Errorf("state: add volume %q: %w", v.Name, err)
	}
	return added, nil
}

func addVolume(ctx context.Context, tx *sql.Tx, v *Volume) (bool, error) {
	res, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO volumes (name, created_at, labels, anonymous) VALUES (?,?,?,?)",
		v.Name, v.CreatedAt.UnixMicro(), v.Labels, v.Anonymous)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// useVolumes adds the volumes of a box that are not there, and notes that it names them.
func useVolumes(ctx context.Context, tx *sql.Tx, b *Box) error {
	for i := range b.Volumes {
		v := &b.Volumes[i]
		added, err := addVolume(ctx, tx, v)
		if err == nil && !added {
			err = shareVolume(ctx, tx, v.Name, b.ID)
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "INSERT OR IGNORE INTO volume_uses (volume, box, own, made) VALUES (?,?,?,?)", v.Name, b.ID, v.Anonymous, added); err != nil {
			return err
		}
	}
	return nil
}

// shareVolume notes that a volume is there for more than the box it was made with,
// because another box names it, or somebody created it once more.
func shareVolume(ctx context.Context, tx *sql.Tx, name, box string) error {
	_, err := tx.ExecContext(ctx, "UPDATE volume_uses SET made = 0 WHERE volume = ? AND made AND box <> ?", name, box)
	return err
}

// leaveVolumes forgets that a box names volumes, and returns those that were made
// for it, and that no other box names: a name that was made up for another box, and
// given to this one, is a volume that somebody wants. With made it also returns those
// that were made with it and that nobody else has named since.
func leaveVolumes(ctx context.Context, tx *sql.Tx, box string, made bool) (own []Volume, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT name, created_at, anonymous FROM volume_uses u JOIN volumes v ON v.name = u.volume
		WHERE box = ?1 AND (own OR made AND ?2) AND NOT EXISTS (SELECT 1 FROM volume_uses o WHERE o.volume = u.volume AND o.box <> ?1) ORDER BY name`, box, made)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		v, created := Volume{}, int64(0)
		if err := rows.Scan(&v.Name, &created, &v.Anonymous); err != nil {
			return nil, err
		}
		v.CreatedAt = time.UnixMicro(created)
		own = append(own, v)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM volume_uses WHERE box = ?", box)
	return own, err
}

// RemoveVolume removes a volume that no box names; a [VolumeInUseError] says which do. take
// moves its content away before anybody can see that the volume is gone; where it
// fails, nothing is removed.
func (s *DB) RemoveVolume(ctx context.Context, name string, take func(Volume) error) error {
	err := s.write(ctx, true, func(tx *sql.Tx) error {
		boxes, err := texts(ctx, tx, usersOf, name)
		if err != nil {
			return err
		}
		if len(boxes) > 0 {
			return &VolumeInUseError{boxes}
		}
		var created int64
		err = tx.QueryRowContext(ctx, "DELETE FROM volumes WHERE name = ? RETURNING created_at", name).Scan(&created)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoVolume
		} else if err != nil {
			return err
		}
		return take(Volume{Name: name, CreatedAt: time.UnixMicro(created)})
	})
	if err != nil {
		return fmt.Errorf("state: remove volume %q: %w", name, err)
	}
	return nil
}

// Judge lets do ask which volumes there are, while nobody adds or removes one.
func (s *DB) Judge(ctx context.Context, do func(exists func(name string, created time.Time) (bool, error)) error) error {
	err := s.write(ctx, false, func(tx *sql.Tx) error {
		return do(func(name string, created time.Time) (bool, error) {
			var n int
			err := tx.QueryRowContext(ctx, "SELECT count(*) FROM volumes WHERE name = ? AND created_at = ?", name, created.UnixMicro()).Scan(&n)
			return n > 0, err
		})
	})
	if err != nil {
		return fmt.Errorf("state: judge volumes: %w", err)
	}
	return nil
}

// usersOf asks for the boxes that name a volume.
const usersOf = `SELECT coalesce(b.name, u.box) FROM volume_uses u LEFT JOIN boxes b ON b.id = u.box WHERE u.volume = ? ORDER BY 1`

// Volumes returns all volumes by name.
func (s *DB) Volumes(ctx context.Context) ([]Volume, error) {
	list, err := s.volumes(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("state: list volumes: %w", s.explain(err))
	}
	return list, nil
}

// FindVolume returns the volume of that name, or ErrNoVolume.
func (s *DB) FindVolume(ctx context.Context, name string) (Volume, error) {
	list, err := s.volumes(ctx, "WHERE v.name = ?", name)
	if err == nil && len(list) == 0 {
		err = ErrNoVolume
	}
	if err != nil {
		return Volume{}, fmt.Errorf("state: find volume %q: %w", name, s.explain(err))
	}
	return list[0], nil
}

func (s *DB) volumes(ctx context.Context, where string, args ...any) ([]Volume, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT v.name, v.created_at, v.labels, v.anonymous, coalesce(b.name, u.box)
		FROM volumes v LEFT JOIN volume_uses u ON u.volume = v.name LEFT JOIN boxes b ON b.id = u.box `+where+` ORDER BY v.name, 5`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Volume
	for rows.Next() {
		var v Volume
		var created int64
		var box sql.NullString
		if err := rows.Scan(&v.Name, &created, &v.Labels, &v.Anonymous, &box); err != nil {
			return nil, err
		}
		if n := len(out); n == 0 || out[n-1].Name != v.Name {
			v.CreatedAt = time.UnixMicro(created)
			out = append(out, v)
		}
		if box.Valid {
			last := &out[len(out)-1]
			last.Boxes = append(last.Boxes, box.String)
		}
	}
	return out, rows.Err()
}

// texts are the results of a query for one column.
func texts(ctx context.Context, tx *sql.Tx, query string, args ...any) (out []string, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}
