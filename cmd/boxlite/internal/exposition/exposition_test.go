package exposition

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWrite(t *testing.T) {
	a := &Metric{Name: "boxlite_a_total", Help: "Line one\nand \\ two.", Type: Counter}
	a.Add(3)
	a.Add(1<<40, "box", "ID", "name", "a \"b\" \\ c\nd\xff")
	b := &Metric{Name: "boxlite_b", Help: "Values.", Type: Gauge}
	for _, v := range []float64{0.25, math.Inf(1), math.Inf(-1), math.NaN(), 1e300, -2} {
		b.Add(v)
	}
	var out strings.Builder
	require.NoError(t, Write(&out, a, &Metric{Name: "boxlite_none", Type: Gauge}, b))
	require.Equal(t, `# HELP boxlite_a_total Line one\nand \\ two.
# TYPE boxlite_a_total counter
boxlite_a_total 3
boxlite_a_total{box="ID",name="a \"b\" \\ c\nd`+"\ufffd"+`"} 1099511627776
# HELP boxlite_b Values.
# TYPE boxlite_b gauge
boxlite_b 0.25
boxlite_b +Inf
boxlite_b -Inf
boxlite_b NaN
boxlite_b 1e+300
boxlite_b -2
`, out.String())
}

func TestNames(t *testing.T) {
	for _, m := range []*Metric{
		{Name: "1a", Samples: []Sample{{}}}, {Name: "a b", Samples: []Sample{{}}}, {Samples: []Sample{{}}},
		{Name: "a", Samples: []Sample{{Labels: []Label{{"a:b", ""}}}}},
	} {
		require.Error(t, Write(&strings.Builder{}, m))
	}
}
