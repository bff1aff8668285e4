//! Golden bytes of the tests: committed images of every layout that old data may be in.

use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the committed image; writes it instead where `UPDATE_GOLDEN` is set.
pub fn check(name: &str, bytes: &[u8]) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path("")).unwrap();
        std::fs::write(path(name), bytes).unwrap();
    }
    assert_eq!(bytes, read(name), "the layout of {name} has changed; UPDATE_GOLDEN=1 writes it anew");
}

/// The committed image.
pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}
