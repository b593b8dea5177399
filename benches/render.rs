//! What it costs to make a file's text from its facts: nothing is read.
//!
//! `cargo bench --bench render`; with `-- --test` each is made once, and nothing is measured.
#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "../tests/fixtures/mod.rs"]
#[allow(dead_code, reason = "each user has its part")]
mod fixtures;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use fixtures::Fixture;
use lxcfs_rs::files::TABLE;
use lxcfs_rs::render::render;

/// By the container `c1` of two captured hosts: of two CPUs, and of eight.
fn files(criterion: &mut Criterion) {
    for name in ["hybrid-6.18", "manycpu-6.1"] {
        let fixture = Fixture::named(name);
        let who = fixture.reader(fixture.init_of("c1"));
        for row in TABLE {
            let Ok(facts) = fixture.collector().collect(row.file, &who, fixture.now) else {
                continue;
            };
            criterion.bench_function(&format!("render/{name}/{}", row.path), |bencher| {
                bencher.iter_batched(|| facts.clone(), render, BatchSize::SmallInput);
            });
        }
    }
}

criterion_group!(benches, files);
criterion_main!(benches);
