//! Plot of a growing store: speed, and time of a look-up, over the number of keys.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::figures::as_float;
use crate::growth::Slice;

const SIZE: (u32, u32) = (800, 640);
const BLUE_GREEN: RGBColor = RGBColor(0, 114, 138);
const GREY: RGBColor = RGBColor(120, 120, 120);

/// A line: its name, its colour, and its points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// Writes the plot as an SVG file.
pub(crate) fn write(slices: &[Slice], machine: &str, path: &Path) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    draw(&area, slices, machine).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    slices: &[Slice],
    machine: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let area = area.titled(machine, ("sans-serif", 13).into_font().color(&GREY))?;
    let (upper, lower) = area.split_vertically(300);
    let millions = |slice: &Slice| as_float(slice.keys) / 1e6;
    let compared = |figure: fn(&crate::growth::Comparison) -> f64| -> Vec<(f64, f64)> {
        let points = slices
            .iter()
            .filter_map(|slice| Some((millions(slice), figure(slice.comparison.as_ref()?))));
        points.collect()
    };
    let drained = slices
        .iter()
        .map(|slice| (millions(slice), slice.orders_per_second / 1e3));
    let speeds: [Line<'_>; 2] = [
        ("validator", BLUE_GREEN, drained.collect()),
        ("bare loop", GREY, compared(|of| of.bare_orders_per_second / 1e3)),
    ];
    panel(&upper, "thousand orders/s", &speeds)?;
    let look_ups: [Line<'_>; 2] = [
        ("99th percentile", BLUE_GREEN, compared(|of| of.look_up_p99_us)),
        ("median", GREY, compared(|of| of.look_up_p50_us)),
    ];
    panel(&lower, "look-up of a new key, µs", &look_ups)?;
    area.present()?;
    Ok(())
}

/// Draws lines over the number of keys.
fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    what: &str,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, _, points)| points);
    let end = |value: fn(&(f64, f64)) -> f64| points().map(value).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end(|(keys, _)| *keys), 0.0..end(|(_, value)| *value))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("million random keys in the stores")
        .y_desc(what)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (name, colour, points) in lines {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(2))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(GREY)
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}
