package agent

import (
	"github.com/anthropics/boxlite/initramfs/init/tarfs"
	"github.com/anthropics/boxlite/pkg/agentapi"
)

// maxArchives bounds the archives that are made or unpacked at one time: each has
// a thread, two buffers of 64 KiB and, deep in a tree, many descriptors.
const maxArchives = 32

// archive carries out an ArchiveGet or ArchivePut whose connection is the stream
// of an id: work gets it, and what work returns is the answer.
func (c *control) archive(id uint32, t agentapi.Type, h agentapi.StreamHeader, work func(Conn) error) {
	c.answer(id, t.String(), func() (agentapi.Message, error) {
		s := c.s
		s.mu.Lock()
		grace := s.setup.StreamGrace
		s.mu.Unlock()
		// The connection is taken also when the answer is no: closing it tells whoever
		// reads it, or writes, to look at the answer.
		l := newLink(s.streams.claim(h))
		defer s.streams.release(h)
		defer l.stop()
		done := make(chan struct{})
		defer close(done)
		go func() { // whoever asked is gone, or the box ends: so does the copy
			select {
			case <-c.gone:
			case <-s.ending:
			case <-done:
			}
			l.stop()
		}()
		conn := l.get(grace)
		if err := s.beginArchive(t); err != nil {
			return nil, err
		}
		defer s.endArchive()
		if conn == nil {
			return nil, fail(agentapi.CodeState, t.String(), "the connection of the archive did not come in time", nil)
		}
		if err := work(conn); err != nil {
			return nil, err
		}
		return &agentapi.OK{}, nil
	})
}

// beginArchive counts a copy, or refuses it.
func (s *Server) beginArchive(t agentapi.Type) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != stateReady:
		return fail(agentapi.CodeState, t.String(), "the box is not ready, or shutting down", nil)
	case s.archives == maxArchives:
		return fail(agentapi.CodeLimit, t.String(), itoa(maxArchives)+" copies are running, the limit", nil)
	}
	s.archives++
	s.archiving.Add(1)
	return nil
}

func (s *Server) endArchive() {
	s.mu.Lock()
	s.archives--
	s.mu.Unlock()
	s.archiving.Done()
}

func (c *control) archiveGet(id uint32, m *agentapi.ArchiveGet) {
	c.archive(id, m.Type(), agentapi.StreamHeader{Exec: m.ID, Stream: agentapi.Stdout}, func(conn Conn) error {
		err := tarfs.Pack(conn, m.Path, m.Follow)
		conn.CloseWrite()
		return err
	})
}

func (c *control) archivePut(id uint32, m *agentapi.ArchivePut) {
	c.archive(id, m.Type(), agentapi.StreamHeader{Exec: m.ID, Stream: agentapi.Stdin}, func(conn Conn) error {
		var owner *tarfs.Owner
		if m.Own {
			owner = &tarfs.Owner{UID: m.UID, GID: m.GID}
		}
		return tarfs.Unpack(conn, m.Path, owner)
	})
}

func (s *Server) statPath(m *agentapi.StatPath) (agentapi.Message, error) {
	if err := s.needReady("stat"); err != nil {
		return nil, err
	}
	info, err := tarfs.Stat(m.Path, m.Follow)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// needReady refuses what makes no sense before Setup: the root is another one.
func (s *Server) needReady(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateReady {
		return fail(agentapi.CodeState, op, "the box is not ready, or shutting down", nil)
	}
	return nil
}
