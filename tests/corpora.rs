//! Every input in `fuzz/corpora` once: what fuzzing has found to be worth keeping, without a
//! build of its own.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(unreachable_pub, reason = "the fuzzers name them")]
#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn every_input_is_taken() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora");
    for (name, target) in targets::TARGETS {
        let inputs = fs::read_dir(corpora.join(name)).unwrap();
        let mut count = 0;
        for input in inputs {
            let path = input.unwrap().path();
            // The path is printed where it fails.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name}");
    }
}
