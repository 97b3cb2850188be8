//! A trace as a picture: one bar per span over time.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::receiver::ReceivedSpan;

const WIDTH: u32 = 1_000;
const ROW: u32 = 34;
const LEFT: i32 = 360;
const RIGHT: i32 = 90;
/// Width of a label beside a bar.
const LABEL: i32 = 120;
const VALIDATOR: RGBColor = RGBColor(0, 114, 138);
const CALLER: RGBColor = RGBColor(214, 120, 30);
const FAILED: RGBColor = RGBColor(190, 40, 40);
const GREY: RGBColor = RGBColor(110, 110, 110);

/// Writes spans, which are sorted by their start, as an SVG file.
pub(super) fn write(spans: &[ReceivedSpan], path: &Path) -> Result<()> {
    let rows = u32::try_from(spans.len())?;
    let area = SVGBackend::new(path, (WIDTH, (rows + 1) * ROW + 8)).into_drawing_area();
    draw(&area, spans).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    spans: &[ReceivedSpan],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let start = spans.iter().map(|of| of.span.start_time_unix_nano).min();
    let start = start.context("no span")?;
    let end = spans.iter().map(|of| of.span.end_time_unix_nano).max();
    let total = (end.context("no span")? - start).max(1);
    let bar_width = f64::from(i32::try_from(WIDTH)? - LEFT - RIGHT);
    let x = |at: u64| {
        let share = (at - start) as f64 / total as f64;
        #[expect(clippy::cast_possible_truncation, reason = "pixels")]
        let pixels = (share * bar_width) as i32;
        LEFT + pixels
    };
    let text = |size: i32, colour: RGBColor| ("sans-serif", size).into_font().color(&colour);
    let row = i32::try_from(ROW)?;
    for tenth in 0..=5_u64 {
        let at = start + total / 5 * tenth;
        let (x, bottom) = (x(at), row * i32::try_from(spans.len() + 1)?);
        let label = format!("{:.0} ms", (at - start) as f64 / 1e6);
        area.draw(&Text::new(label, (x + 3, 8), text(12, GREY)))?;
        area.draw(&PathElement::new([(x, 8), (x, bottom)], GREY.mix(0.3)))?;
    }
    let parents: Vec<_> = spans
        .iter()
        .map(|of| (&of.span.span_id, &of.span.parent_span_id))
        .collect();
    let depth = |of: &ReceivedSpan| {
        let mut depth = 0;
        let mut parent = &of.span.parent_span_id;
        // A trace is no deeper than it has spans.
        while let Some((_, next)) = parents.iter().find(|(id, _)| *id == parent)
            && depth < parents.len()
        {
            (depth, parent) = (depth + 1, *next);
        }
        depth
    };
    for (number, of) in (1..).zip(spans) {
        let span = &of.span;
        let top = row * number;
        let is_failed = !of.attribute("error.type").is_empty();
        let colour = match of.service.as_str() {
            _ if is_failed => FAILED,
            "outbox-validator" => VALIDATOR,
            _ => CALLER,
        };
        // Topics have the name of the scenario in front.
        let name = match span.name.split_once('.') {
            Some((_, topic)) => format!("process {topic}"),
            None => format!("{} /payments", span.name),
        };
        let service = of.service.trim_start_matches("outbox-");
        let label = format!("{service}: {name}");
        let indent = 12 + 18 * i32::try_from(depth(of))?;
        area.draw(&Text::new(label, (indent, top + 6), text(15, BLACK)))?;
        let (from, to) = (x(span.start_time_unix_nano), x(span.end_time_unix_nano));
        let corners = [(from, top + 4), (to.max(from + 2), top + row - 8)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let took = (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e6;
        let end = [
            "http.response.status_code",
            "outbox.call.end",
            "outbox.transaction",
        ]
        .map(|name| of.attribute(name))
        .concat();
        let label = format!("{took:.1} ms, {end}");
        // Behind the bar, inside or before it, where there is room.
        let at = match to + LABEL < i32::try_from(WIDTH)? {
            true => ((to + 6, top + 6), BLACK),
            false if to - from > LABEL => ((from + 8, top + 6), WHITE),
            false => ((from - LABEL, top + 6), BLACK),
        };
        area.draw(&Text::new(label, at.0, text(13, at.1)))?;
    }
    area.present()?;
    Ok(())
}
