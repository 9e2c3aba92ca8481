//go:build linux

package bench

import (
	"image/color"
	"math"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	_ "gonum.org/v1/plot/vg/vgsvg" // so that plots can be saved as SVG
)

const plotWidth, plotHeight = 16 * vg.Centimeter, 9 * vg.Centimeter

// shade is a colour that can be told from the others also by people who see few, after Okabe and Ito.
func shade(i int) color.Color {
	colours := []color.RGBA{
		{0, 114, 178, 255},
		{213, 94, 0, 255},
		{0, 158, 115, 255},
		{204, 121, 167, 255},
		{230, 159, 0, 255},
		{86, 180, 233, 255},
	}
	return colours[i%len(colours)]
}

// series is a named line.
type series struct {
	name   string
	points plotter.XYs
}

// draw writes a plot for each part that was measured.
func (r *results) draw(dir string) error {
	for _, d := range []struct {
		name string
		draw func(p *plot.Plot) error
	}{
		{"limit", r.drawLimit},
		{"accept-latency", r.drawAcceptLatency},
		{"end-to-end", r.drawEndToEnd},
		{"delivered", r.drawDelivered},
		{"drain", r.drawDrain},
		{"growth", r.drawGrowth},
	} {
		p := plot.New()
		p.BackgroundColor = color.White
		if err := d.draw(p); err != nil {
			return err
		}
		if p.Title.Text == "" {
			continue // nothing was measured
		}
		if err := p.Save(plotWidth, plotHeight, filepath.Join(dir, d.name+".svg")); err != nil {
			return err
		}
	}
	return nil
}

// drawBars draws groups of bars beside each other.
func drawBars(p *plot.Plot, names []string, groups []string, values [][]float64) error {
	const width = 0.7
	each := vg.Points(220 * width / float64(len(groups)) / float64(max(len(names), 1)))
	for i, group := range groups {
		bars, err := plotter.NewBarChart(plotter.Values(values[i]), each)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = shade(i), 0
		bars.Offset = each * vg.Length(float64(i)-float64(len(groups)-1)/2)
		p.Add(bars)
		if len(groups) > 1 {
			p.Legend.Add(group, bars)
		}
	}
	p.NominalX(names...)
	p.Y.Min = 0
	p.Y.Max *= 1.2 // room for the legend
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	return nil
}

func drawLines(p *plot.Plot, all []series) error {
	for i, s := range all {
		line, err := plotter.NewLine(s.points)
		if err != nil {
			return err
		}
		line.Color, line.Width = shade(i), vg.Points(1.5)
		p.Add(line)
		p.Legend.Add(s.name, line)
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	return nil
}

func (r *results) drawLimit(p *plot.Plot) error {
	if len(r.Limit) == 0 {
		return nil
	}
	p.Title.Text, p.Y.Label.Text = "Webhooks accepted and delivered a second", "webhooks/s"
	var names []string
	values := make([][]float64, 2)
	for _, l := range r.Limit {
		names = append(names, brokerName(l.Sink))
		values[0], values[1] = append(values[0], median(l.Limits)), append(values[1], median(l.sustained()))
	}
	return drawBars(p, names, []string{"the limit", "sustained"}, values)
}

// percentiles puts a distribution on an axis where every further nine has the same width.
func percentiles(name string, l *latency) series {
	s := series{name: name}
	for _, point := range l.Curve {
		if point[0] >= 100 {
			break
		}
		s.points = append(s.points, plotter.XY{X: -math.Log10(1 - point[0]/100), Y: point[1]})
	}
	return s
}

// drawPercentiles draws distributions, with the time on a logarithmic axis.
func drawPercentiles(p *plot.Plot, all []series) error {
	p.X.Label.Text, p.Y.Label.Text = "percentile", "ms"
	var ticks plot.ConstantTicks
	for i, label := range []string{"0", "90", "99", "99.9", "99.99", "99.999"} {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: label})
	}
	p.X.Tick.Marker = ticks
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	for _, s := range all {
		for i := range s.points {
			s.points[i].Y = max(s.points[i].Y, 0.01) // a logarithmic axis has no 0
		}
	}
	return drawLines(p, all)
}

func (r *results) drawAcceptLatency(p *plot.Plot) error {
	if len(r.Limit) == 0 {
		return nil
	}
	p.Title.Text = "How long an answer takes at half of what is sustained"
	var all []series
	for _, l := range r.Limit {
		all = append(all, percentiles("delivering to "+brokerName(l.Sink), l.Latency))
	}
	if r.FloorLatency != nil {
		all = append(all, percentiles("floor", r.FloorLatency))
	}
	return drawPercentiles(p, all)
}

func (r *results) drawEndToEnd(p *plot.Plot) error {
	if len(r.EndToEnd) == 0 {
		return nil
	}
	p.Title.Text = "From the sender to a consumer"
	var all []series
	for _, e := range r.EndToEnd {
		all = append(all, percentiles(brokerName(e.Sink)+" at "+whole(float64(e.Rate))+"/s", e.Latency))
	}
	return drawPercentiles(p, all)
}

func (r *results) drawDelivered(p *plot.Plot) error {
	if len(r.Delivered) == 0 {
		return nil
	}
	p.Title.Text, p.Y.Label.Text = "Events delivered a second", "events/s"
	var names []string
	values := make([][]float64, 2)
	for _, d := range r.Delivered {
		names = append(names, brokerName(d.Sink))
		values[0], values[1] = append(values[0], median(d.Alone)), append(values[1], median(d.Client))
	}
	return drawBars(p, names, []string{"from a backlog", "the client alone"}, values)
}

func (r *results) drawDrain(p *plot.Plot) error {
	if len(r.Drain) == 0 {
		return nil
	}
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "A backlog is emptied", "seconds", "events delivered"
	var all []series
	for _, d := range r.Drain {
		s := series{name: brokerName(d.Sink)}
		for _, point := range d.Progress {
			s.points = append(s.points, plotter.XY{X: point[0], Y: point[1]})
		}
		all = append(all, s)
	}
	return drawLines(p, all)
}

func (r *results) drawGrowth(p *plot.Plot) error {
	if len(r.Growth) == 0 {
		return nil
	}
	p.Title.Text, p.Y.Label.Text = "With much waiting, as a part of the rate with none", "ratio"
	var names []string
	values := make([][]float64, 2)
	for _, g := range r.Growth {
		names = append(names, whole(float64(g.Waiting))+" webhooks waiting")
		values[0], values[1] = append(values[0], median(g.AcceptRatio)), append(values[1], median(g.DrainRatio))
	}
	return drawBars(p, names, []string{"accepted", "drained"}, values)
}
