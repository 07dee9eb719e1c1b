package main

import (
	"errors"
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
)

// Measures of the picture.
const (
	width  = 30 * vg.Centimeter
	height = 11 * vg.Centimeter

	// barsWidth is what the bars of a group take together: less than a group's
	// share of the width, so that there is a gap.
	barsWidth = 1.5 * vg.Centimeter

	// headroom is the share of the height above the highest bar: the legend's.
	headroom = 0.25
)

// colours returns those of the contestants, in their order. They can be told
// apart also without colours (Okabe and Ito), ours is the darkest.
func colours() []color.Color {
	return []color.Color{
		color.RGBA{R: 0, G: 114, B: 178, A: 255},
		color.RGBA{R: 86, G: 180, B: 233, A: 255},
		color.RGBA{R: 230, G: 159, B: 0, A: 255},
		color.RGBA{R: 213, G: 94, B: 0, A: 255},
		color.RGBA{R: 0, G: 158, B: 115, A: 255},
		color.RGBA{R: 190, G: 190, B: 190, A: 255},
		color.RGBA{R: 110, G: 110, B: 110, A: 255},
	}
}

// draw makes the picture.
func draw(r results) (*plot.Plot, error) {
	groups := r.groups()
	if len(groups) == 0 {
		return nil, errors.New("no throughput in it")
	}
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Between guest and outside, on %d processors (%s), Linux %s, %.10s", r.Machine.CPUs, r.Machine.Processor, r.Machine.Kernel, r.Machine.When)
	p.Y.Label.Text = "Gbit/s"
	p.Y.Min = 0
	labels := make([]string, len(groups))
	for i, g := range groups {
		labels[i] = g.label
	}
	p.NominalX(labels...)
	p.Legend.Top = true
	p.Legend.Padding = vg.Millimeter
	for _, style := range []*text.Style{
		&p.Title.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle,
	} {
		style.Font.Variant = "Sans"
	}
	p.X.Tick.Label.Font.Size = 7
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	p.Add(grid)
	if err := addBars(p, r, groups); err != nil {
		return nil, err
	}
	p.Y.Max *= 1 + headroom
	return p, nil
}

// addBars adds the bars of each contestant.
func addBars(p *plot.Plot, r results, groups []group) error {
	names, palette := r.names(), colours()
	each := barsWidth / vg.Length(len(names))
	for i, name := range names {
		values := make(plotter.Values, len(groups))
		for j, g := range groups {
			values[j], _ = r.value(name, g.row) // no bar where there is none
		}
		bars, err := plotter.NewBarChart(values, each)
		if err != nil {
			return err
		}
		bars.Color = palette[i%len(palette)]
		bars.LineStyle.Width = 0
		bars.Offset = each * (vg.Length(i) - vg.Length(len(names)-1)/2)
		p.Add(bars)
		p.Legend.Add(name, bars)
	}
	return nil
}
