package netstack

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	vnet "github.com/anthropics/boxlite/pkg/virtio/net"
	"github.com/stretchr/testify/require"
)

// lossyCard loses one frame to the guest in so many.
type lossyCard struct {
	*guestLink
	mu  sync.Mutex
	rnd *rand.Rand
	one int
}

func (c *lossyCard) Send(q int, h *vnet.Header, v [][]byte) vnet.Status {
	c.mu.Lock()
	lost := c.rnd.IntN(c.one) == 0
	c.mu.Unlock()
	if lost {
		return vnet.Sent
	}
	return c.guestLink.Send(q, h, v)
}

// TestTCPLossy loses frames both ways, which no virtio card does: what was sent arrives.
func TestTCPLossy(t *testing.T) {
	var card *lossyCard
	g := newGuestWith(t, Config{}, func(g *guest) NIC {
		card = &lossyCard{guestLink: g.link, rnd: rand.New(rand.NewPCG(1, 2)), one: 30}
		return card
	})
	g.link.lose = 200
	g.net.tcp.repeat = 5 * time.Millisecond
	addr := echoServer(t)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			data := make([]byte, 1<<20)
			rand.NewChaCha8([32]byte{byte(i)}).Read(data)
			c, err := g.dial(addr)
			require.NoError(t, err)
			defer c.Close()
			go func() {
				c.Write(data)
				c.(half).CloseWrite()
			}()
			sum := sha256.New()
			n, err := io.Copy(sum, c)
			require.NoError(t, err)
			require.EqualValues(t, len(data), n)
			want := sha256.Sum256(data)
			require.Equal(t, want[:], sum.Sum(nil))
		})
	}
	all.Wait()
	g.requireNothing()
}
