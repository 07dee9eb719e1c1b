// Plot draws the throughput of a run of the benchmark, as bars side by side.
//
//	plot RESULTS.json PICTURE
//
// The results are those of bench -publish. The picture's name says its form:
// .svg or .png. It is a module of its own, run by make bench-plot.
package main
