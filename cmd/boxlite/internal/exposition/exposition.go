// Package exposition writes metrics in the text format of Prometheus
// (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4).
package exposition

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Type says how a metric's values go together.
type Type string

// Types.
const (
	Counter Type = "counter" // only grows; its name ends in _total
	Gauge   Type = "gauge"
)

// Label tells samples of one metric apart.
type Label struct{ Name, Value string }

// Sample is a value.
type Sample struct {
	Labels []Label
	Value  float64
}

// Metric is a named family of samples.
type Metric struct {
	Name    string
	Help    string // one sentence
	Type    Type
	Samples []Sample
}

// Add adds a sample. Labels are name, value, name, value.
func (m *Metric) Add(value float64, labels ...string) {
	s := Sample{Value: value}
	for i := 0; i+1 < len(labels); i += 2 {
		s.Labels = append(s.Labels, Label{labels[i], labels[i+1]})
	}
	m.Samples = append(m.Samples, s)
}

var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

	helpEscape  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Write writes the metrics that have samples. A name that the format does not
// allow is an error.
func Write(w io.Writer, metrics ...*Metric) error {
	out := bufio.NewWriter(w)
	for _, m := range metrics {
		if len(m.Samples) == 0 {
			continue
		}
		if !metricName.MatchString(m.Name) {
			return fmt.Errorf("metric of the name %q", m.Name)
		}
		fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", m.Name, helpEscape.Replace(m.Help), m.Name, m.Type)
		for _, s := range m.Samples {
			out.WriteString(m.Name)
			for i, l := range s.Labels {
				if !labelName.MatchString(l.Name) {
					return fmt.Errorf("label of the name %q", l.Name)
				}
				sep := ","
				if i == 0 {
					sep = "{"
				}
				fmt.Fprintf(out, `%s%s="%s"`, sep, l.Name, labelEscape.Replace(strings.ToValidUTF8(l.Value, "\ufffd")))
			}
			if len(s.Labels) > 0 {
				out.WriteByte('}')
			}
			out.WriteByte(' ')
			out.WriteString(number(s.Value))
			out.WriteByte('\n')
		}
	}
	return out.Flush()
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64) // "NaN" included
}
