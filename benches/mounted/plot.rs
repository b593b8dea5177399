//! The plot: cost by number of containers.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::crowd::Crowded;
use crate::options::Kind;

/// Of one panel.
const SIZE: (u32, u32) = (340, 320);

type Panel<'a> = (&'a str, fn(&Crowded) -> Option<f64>);

/// Side by side.
const PANELS: [Panel<'static>; 3] = [
    ("one container reads again and again: p50, µs", |crowded| Some(crowded.one.p50 / 1e3)),
    ("each reads in turn: p50, µs", |crowded| Some(crowded.in_turn.p50 / 1e3)),
    ("memory of the daemon: RSS, MiB", |crowded| {
        Some(crowded.daemon?.footprint.rss_kib as f64 / 1024.0)
    }),
];

pub(crate) fn write(path: &Path, crowded: &[Crowded]) -> Result<()> {
    draw(path, crowded).with_context(|| path.display().to_string())
}

fn draw(path: &Path, crowded: &[Crowded]) -> Result<()> {
    let size = (SIZE.0 * u32::try_from(PANELS.len())?, SIZE.1);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (area, panel) in area.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
        draw_panel(area, panel, crowded)?;
    }
    Ok(area.present()?)
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    (title, figure): Panel<'_>,
    crowded: &[Crowded],
) -> Result<()> {
    let most = crowded.iter().map(|crowded| crowded.containers).max().context("no figures")?;
    let highest = crowded.iter().filter_map(figure).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 14))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(40)
        .build_cartesian_2d((1.0..most as f64 * 1.2).log_scale(), 0.0..highest * 1.4)?;
    chart
        .configure_mesh()
        .x_desc("containers")
        .x_label_formatter(&|containers| format!("{containers:.0}"))
        .y_label_formatter(&|figure| format!("{figure:.0}"))
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .draw()?;
    for kind in [Kind::LxcfsRs, Kind::Lxcfs, Kind::Floor] {
        let of_kind = crowded.iter().filter(|crowded| crowded.subject == kind);
        let points: Vec<(f64, f64)> =
            of_kind.filter_map(|one| Some((one.containers as f64, figure(one)?))).collect();
        if points.is_empty() {
            continue;
        }
        let color = color(kind);
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(kind.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(|error| anyhow!("{error}"))
}

fn color(kind: Kind) -> RGBColor {
    match kind {
        Kind::LxcfsRs => RGBColor(0x1b, 0x6e, 0xc2),
        Kind::Lxcfs => RGBColor(0xd9, 0x5f, 0x0e),
        Kind::Floor | Kind::Kernel => RGBColor(0x80, 0x80, 0x80),
    }
}
