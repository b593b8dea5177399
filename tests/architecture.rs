//! The layer rule of src/lib.rs, read from the source: a module uses only modules below it.
//! And the rules beside it: who opens files, who may say `unsafe`, what rendering may know.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up. Modules of one row are siblings, and do not use each other.
const LAYERS: &[&[&str]] = &[
    &["cpulist", "error", "sys", "units"],
    &["procfs"],
    &["cgroup"],
    &["kernel"],
    &["container"],
    &["history"],
    &["files", "facts"],
    &["collect", "render"],
    &["vfs"],
    &["fuse", "runtime"],
    // The binary.
    &["commands", "main"],
];

/// Modules that may use nothing but these.
const NARROW: &[(&str, &[&str])] = &[("render", &["facts", "units"]), ("files", &[])];

/// Files that do not know each other.
const STRANGERS: &[(&str, &str)] = &[("src/cgroup/v1.rs", "v2"), ("src/cgroup/v2.rs", "v1")];

/// Who uses a module that is not for everybody above it.
const RESERVED: &[(&str, &[&str])] = &[("cgroup::apply", &["runtime", "commands"])];

/// The layers that are the pipeline, in which only these open or read files.
const PIPELINE_ENDS_WITH: &str = "vfs";
const OPENS_FILES: &[&str] = &[
    "src/sys/",
    "src/procfs/",
    "src/cgroup/dir.rs",
    "src/cgroup/apply.rs",
    "src/history/store.rs",
];
const OPENING: &[&str] = &[
    "std::fs",
    "File::open",
    "fs::open",
    "openat",
    "file::open_at",
    "file::read_at",
    "file::read_record_at",
    "file::open_directory_at",
    "read_to_string",
    "read_dir",
];

/// What rendering cannot do: it is pure, and cannot fail.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::time",
    "std::io",
    "std::process",
    "std::thread",
    "log::",
    "libc",
    "nix::",
    "rustix::",
    "parking_lot",
    "Result<",
    "unwrap(",
    "expect(",
    "panic!",
];

/// One source file.
struct Source {
    /// `src/cgroup/v1.rs`.
    path: String,
    /// `cgroup`.
    module: String,
    /// Without comments, and without the tests at its end.
    code: String,
    /// And without what stands in quotes.
    bare: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directories = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(root, &path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 30, "where is the source?");
    found
}

fn source(root: &Path, path: &Path) -> Source {
    let relative: PathBuf = path.strip_prefix(root).unwrap().into();
    let module = relative.iter().nth(1).unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    Source {
        path: relative.to_str().unwrap().to_owned(),
        module: module.trim_end_matches(".rs").to_owned(),
        code: strip(text, false),
        bare: strip(text, true),
    }
}

/// Source text without comments, and on demand without string literals.
fn strip(text: &str, strings_too: bool) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            let length = string_length(rest);
            out.push_str(if strings_too { "\"\"" } else { &rest[..length] });
            length
        } else if rest.starts_with("'\"'") || rest.starts_with("b'\"'") {
            rest.find("\"'").unwrap() + 2
        } else {
            out.push(first);
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    out
}

/// How long the string literal is that `text` begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The paths below the crate that code names: `a::b` of `crate::a::b`, `lxcfs_rs::a::b` and of
/// each branch of `crate::{a::b, c}`.
fn used(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate::", "lxcfs_rs::"] {
        for (at, _) in code.match_indices(root) {
            // `$crate::` and `mycrate::` are others.
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if !before.is_alphanumeric() && before != '_' {
                branches("", &code[at + root.len()..], &mut found);
            }
        }
    }
    found
}

/// Collects the paths that a use tree begins with; returns how much of `text` it is.
fn branches(prefix: &str, text: &str, found: &mut BTreeSet<String>) -> usize {
    let name_length =
        text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..name_length]);
    if let Some(after) = text[name_length..].strip_prefix("::") {
        return name_length + 2 + branches(&format!("{path}::"), after, found);
    }
    if !text.starts_with('{') {
        found.insert(path);
        return name_length;
    }
    let mut at = 1;
    while at < text.len() && !text[at..].starts_with('}') {
        let blank = text[at..].len() - text[at..].trim_start_matches([' ', '\n', ',']).len();
        at += blank;
        let length = branches(prefix, &text[at..], found);
        // A rename, or the end of the tree.
        let next = text[at + length..].find([',', '}']).unwrap_or(0);
        at += length + next;
    }
    at + 1
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

#[test]
fn a_module_uses_only_modules_below_it() {
    let mut broken = Vec::new();
    for source in sources() {
        if source.path == "src/lib.rs" {
            continue;
        }
        let Some(own) = layer_of(&source.module) else {
            broken.push(format!("{}: its module has no place in LAYERS", source.path));
            continue;
        };
        for path in used(&source.bare) {
            let module = path.split("::").next().unwrap();
            if module == source.module {
                continue;
            }
            match layer_of(module) {
                None => broken.push(format!("{}: {path} has no place in LAYERS", source.path)),
                Some(other) if other >= own => {
                    broken.push(format!("{} uses {path}, which is not below it", source.path));
                }
                Some(_) => {}
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn some_modules_keep_to_themselves() {
    let mut broken = Vec::new();
    for source in sources() {
        let uses = used(&source.bare);
        let mut complain = |path: &str| broken.push(format!("{} uses {path}", source.path));
        for (_, allowed) in NARROW.iter().filter(|(module, _)| *module == source.module) {
            for path in &uses {
                let module = path.split("::").next().unwrap();
                if module != source.module && !allowed.contains(&module) {
                    complain(path);
                }
            }
        }
        for (path, stranger) in STRANGERS.iter().filter(|(path, _)| *path == source.path) {
            assert!(!source.bare.contains(&format!("{stranger}::")), "{path} uses {stranger}");
            assert!(!source.bare.contains(&format!("::{stranger}")), "{path} uses {stranger}");
        }
        for (reserved, users) in RESERVED {
            let home = reserved.split("::").next().unwrap();
            let is_user = source.module == home || users.contains(&source.module.as_str());
            for path in uses.iter().filter(|path| path.starts_with(reserved)) {
                if !is_user {
                    complain(path);
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_code_is_in_one_room() {
    for source in sources() {
        let words = source.bare.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let allowed = source.path.starts_with("src/sys/");
        assert!(allowed || !words.into_iter().any(|word| word == "unsafe"), "{}", source.path);
        let lifted = source.bare.contains("allow(unsafe_code");
        assert!(!lifted || source.path == "src/sys/mod.rs", "{}: lifts the lint", source.path);
    }
}

#[test]
fn in_the_pipeline_only_the_readers_open_files() {
    let last = layer_of(PIPELINE_ENDS_WITH).unwrap();
    for source in sources() {
        let in_pipeline = layer_of(&source.module).is_some_and(|layer| layer <= last);
        if !in_pipeline {
            continue;
        }
        // Every path begins at a root that may be a captured one.
        for literal in ["\"/proc", "\"/sys"] {
            assert!(!source.code.contains(literal), "{}: {literal}…", source.path);
        }
        if OPENS_FILES.iter().any(|path| source.path.starts_with(path)) {
            continue;
        }
        for opening in OPENING {
            assert!(!source.bare.contains(opening), "{}: {opening}", source.path);
        }
    }
}

#[test]
fn rendering_is_pure() {
    for source in sources().iter().filter(|source| source.module == "render") {
        for word in IMPURE {
            assert!(!source.bare.contains(word), "{}: {word}", source.path);
        }
    }
}

#[test]
fn the_layers_are_those_of_the_crate_doc() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = fs::read_to_string(root).unwrap();
    let picture = text.split("```text").nth(1).unwrap().split("```").next().unwrap();
    for module in LAYERS.iter().flat_map(|row| row.iter()) {
        let mut words = picture.split(|letter: char| !letter.is_alphanumeric());
        assert!(words.any(|word| word == *module), "src/lib.rs does not place {module}");
    }
}

#[test]
fn the_reader_of_source_reads_it_right() {
    let code = "use crate::{a::{B, c::D as E}, f};\nlet x = crate::g::H::new(); // crate::no\n\
                let y = \"crate::no\"; let z = '\"'; use lxcfs_rs::i; mycrate::no; crate::j\n";
    let found: Vec<String> = used(&strip(code, true)).into_iter().collect();
    assert_eq!(found, ["a::B", "a::c::D", "f", "g::H::new", "i", "j"]);
}
