//! Draws cost over size: both axes logarithmic.

use std::fmt::Write;

use crate::Row;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;

/// What is drawn: a name, a colour and what a row says.
type Curve = (&'static str, &'static str, fn(&Row) -> Option<f64>);

const CURVES: [Curve; 4] = [
    ("rsync, nothing changed", "#999999", |row| row.rsync),
    ("look at everything", "#d08020", |row| Some(row.sweep)),
    ("100 files changed", "#2060c0", |row| Some(row.changed_100)),
    ("nothing changed", "#208040", |row| Some(row.unchanged)),
];

/// The picture as SVG.
pub(crate) fn draw(rows: &[Row]) -> String {
    let costs: Vec<f64> = CURVES
        .iter()
        .flat_map(|(_, _, cost)| rows.iter().filter_map(cost))
        .collect();
    let decade = |value: f64, round: fn(f64) -> f64| round(value.log10());
    let low = decade(costs.iter().copied().fold(f64::MAX, f64::min), f64::floor);
    let high = decade(costs.iter().copied().fold(0.0, f64::max), f64::ceil);
    let sizes: Vec<f64> = rows.iter().map(|row| (row.files as f64).log10()).collect();
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    let x = |size: f64| LEFT + (size - first) / (last - first).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |cost: f64| HEIGHT - BOTTOM - (cost - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">Seconds of one cycle, over the number of files</text>\n"
    );
    let mut grid = low;
    while grid <= high {
        let (at, value) = (y(grid), 10_f64.powf(grid));
        let right = WIDTH - RIGHT;
        writeln!(
            text,
            "<line x1=\"{LEFT}\" y1=\"{at}\" x2=\"{right}\" y2=\"{at}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{value}</text>",
            LEFT - 8.0,
            at + 4.0
        )
        .unwrap();
        grid += 1.0;
    }
    for (row, size) in rows.iter().zip(&sizes) {
        writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(*size),
            HEIGHT - BOTTOM + 20.0,
            row.files
        )
        .unwrap();
    }
    for (name, colour, cost) in CURVES {
        let points: Vec<(f64, f64)> = rows
            .iter()
            .zip(&sizes)
            .filter_map(|(row, size)| Some((x(*size), y(cost(row)?.log10()))))
            .collect();
        let line: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        )
        .unwrap();
        if let Some((x, y)) = points.last() {
            writeln!(
                text,
                "<text x=\"{}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
                x + 8.0,
                y + 4.0
            )
            .unwrap();
        }
    }
    text + "</svg>\n"
}
