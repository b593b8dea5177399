//! What a read costs without FUSE: who is asking, collect and render. On captured hosts, whose
//! files are plain ones, with what is read at every read; and on this machine who this process is.
//!
//! `cargo bench --bench read_path`; with `-- --test` each is done once, and nothing is measured.
#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "../tests/fixtures/mod.rs"]
#[allow(dead_code, reason = "each user has its part")]
mod fixtures;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::{Fixture, NAMES};
use lxcfs_rs::container::Resolver;
use lxcfs_rs::files::TABLE;
use lxcfs_rs::kernel::Kernel;
use lxcfs_rs::render::render;

/// A container's later reads: what is remembered is.
fn files(criterion: &mut Criterion) {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let pid = fixture.init_of("c1");
        let who = fixture.reader(pid);
        let collector = fixture.collector();
        for row in TABLE {
            let read = || collector.collect(row.file, &who, fixture.now).map(render);
            if read().is_err() {
                continue;
            }
            criterion.bench_function(&format!("read/{name}/{}", row.path), |bencher| {
                bencher.iter(|| black_box(read()));
            });
        }
        criterion.bench_function(&format!("find/{name}"), |bencher| {
            bencher.iter(|| black_box(fixture.container(pid)));
        });
    }
}

/// Who this process is: a thread that has not read before, and one that has.
fn resolve(criterion: &mut Criterion) {
    let Ok(kernel) = Kernel::open(Path::new("/")) else { return };
    let kernel = Arc::new(kernel);
    let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
    let Ok(resolver) = Resolver::new(Arc::clone(&kernel)) else { return };
    criterion.bench_function("resolve/known", |bencher| {
        bencher.iter(|| black_box(resolver.resolve(tid)));
    });
    criterion.bench_function("resolve/new", |bencher| {
        bencher.iter_batched(
            || Resolver::new(Arc::clone(&kernel)),
            |resolver| black_box(resolver.map(|resolver| resolver.resolve(tid))),
            criterion::BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, files, resolve);
criterion_main!(benches);
