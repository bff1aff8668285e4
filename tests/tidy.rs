//! The rules of `docs/architecture.md` that the compiler does not check.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources fails")]

use std::path::{Path, PathBuf};

/// An outside library, and the only places that may name it.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("openraft", &["cluster/src/raft/", "src/telemetry.rs"]),
    ("ractor", &["src/aggregate/"]),
    ("sled::", &["src/rollup/"]),
    ("sketches_ddsketch", &["src/domain/sketch.rs"]),
    ("axum", &["src/http/", "src/ingest/http", "src/query/http", "src/admin/http", "src/client", "tests/"]),
    ("clap::", &["src/cli/"]),
    ("reqwest", &["src/client"]),
    ("turmoil", &["simulation/"]),
];

/// Rooms, and rooms they must not name.
const WALLS: &[(&str, &[&str])] = &[
    ("src/domain/", &["format", "ingest", "aggregate", "rollup", "query", "http", "node"]),
    ("src/format/", &["ingest", "aggregate", "rollup", "query", "http", "node"]),
    ("src/ingest/", &["aggregate", "rollup", "query", "node"]),
    ("src/aggregate/", &["ingest", "query", "rollup", "http", "node"]),
    ("src/rollup/", &["ingest", "aggregate", "query", "http", "node"]),
    ("src/query/", &["ingest", "aggregate", "rollup", "node"]),
    ("src/admin/", &["ingest", "aggregate", "rollup", "query", "node"]),
];

const LINES_MAX: usize = 600;

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for room in ["src", "cluster/src", "simulation/src"] {
        collect(&root.join(room), &mut files);
    }
    assert!(files.len() > 100, "the sources are where they were");
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    // Tests may reach further than what they test.
    files.retain(|path| !path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("test")));
    files.into_iter().map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn each_library_is_named_in_its_room_only() {
    for (file, text) in sources() {
        for (library, rooms) in LIBRARIES {
            let is_allowed = rooms.iter().any(|room| file.starts_with(room));
            let named = code(&text).find(|line| line.contains(library));
            assert!(is_allowed || named.is_none(), "{file} names {library}: {}", named.unwrap_or_default());
        }
    }
}

#[test]
fn rooms_do_not_look_over_their_walls() {
    for (file, text) in sources() {
        for (room, others) in WALLS.iter().filter(|(room, _)| file.starts_with(room)) {
            for other in *others {
                let named = code(&text).find(|line| line.contains(&format!("crate::{other}")));
                let is_shared = *other == "http" && file.contains("/http");
                assert!(is_shared || named.is_none(), "{file} of {room} names {other}: {}", named.unwrap_or_default());
            }
        }
    }
}

#[test]
fn the_log_knows_nothing_of_events() {
    for (file, text) in sources().into_iter().filter(|(file, _)| file.starts_with("cluster/")) {
        let named =
            code(&text).find(|line| ["app_id", "rollup", "response_time"].iter().any(|word| line.contains(word)));
        assert!(named.is_none(), "{file}: {}", named.unwrap_or_default());
    }
}

#[test]
fn each_file_says_what_it_is_and_fits_into_the_head() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "{file} has no header");
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{file} has {lines} lines: split it by meaning");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words =
        ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "unimpl".to_owned() + "emented!", "to".to_owned() + "do!"];
    for (file, text) in sources() {
        for word in &words {
            assert!(!text.contains(word), "{file} holds {word}");
        }
    }
}
