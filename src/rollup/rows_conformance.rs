//! What every row store must do, held against each engine.

use super::{RowBatch, RowStore};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

/// Opens a store; called again after `close`, it must find what was there.
pub trait Open: Fn() -> Box<dyn RowStore> {}
impl<F: Fn() -> Box<dyn RowStore>> Open for F {}

/// Runs the whole suite. The store must be empty at first and is left empty.
pub fn run(open: impl Open) {
    rows_come_back_in_key_order(&open);
    a_later_change_of_a_key_wins_within_a_batch(&open);
    big_values_and_batches_survive_reopening(&open);
    behaves_like_an_ordered_map(&open);
}

fn clear(rows: &dyn RowStore) {
    let mut batch = RowBatch::default();
    for (key, _) in rows.scan(&[], &[0xff; 8], usize::MAX).unwrap() {
        batch.remove(key);
    }
    rows.apply(batch).unwrap();
    assert!(rows.scan(&[], &[0xff; 8], usize::MAX).unwrap().is_empty());
}

fn rows_come_back_in_key_order(open: &impl Open) {
    let rows = open();
    let mut batch = RowBatch::default();
    for key in [&b"b"[..], b"a\0", b"a", b"c", b"a\xff"] {
        batch.put(key.to_vec(), [key, b"!"].concat());
    }
    rows.apply(batch).unwrap();
    let keys = |rows: Vec<(Vec<u8>, Vec<u8>)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(rows.scan(b"a", b"c", 10).unwrap()), [&b"a"[..], b"a\0", b"a\xff", b"b"]);
    assert_eq!(keys(rows.scan(b"a\0", b"d", 2).unwrap()), [&b"a\0"[..], b"a\xff"]);
    assert!(rows.scan(b"c", b"c", 10).unwrap().is_empty() && rows.scan(b"d", b"a", 10).unwrap().is_empty());
    assert_eq!(rows.last(b"a", b"b").unwrap().unwrap().0, b"a\xff");
    assert_eq!(rows.last(b"d", b"e").unwrap(), None);
    assert_eq!(rows.last(b"e", b"d").unwrap(), None);
    assert_eq!(rows.get(b"a\0").unwrap().unwrap(), b"a\0!");
    assert_eq!(rows.get(b"zz").unwrap(), None);
    clear(&*rows);
    rows.close().unwrap();
}

fn a_later_change_of_a_key_wins_within_a_batch(open: &impl Open) {
    let rows = open();
    let mut batch = RowBatch::default();
    batch.put(b"k".to_vec(), b"1".to_vec());
    batch.remove(b"k".to_vec());
    batch.put(b"k".to_vec(), b"2".to_vec());
    batch.put(b"gone".to_vec(), b"1".to_vec());
    batch.remove(b"gone".to_vec());
    rows.apply(batch).unwrap();
    assert_eq!(rows.get(b"k").unwrap().unwrap(), b"2");
    assert_eq!(rows.get(b"gone").unwrap(), None);
    clear(&*rows);
    rows.close().unwrap();
}

fn big_values_and_batches_survive_reopening(open: &impl Open) {
    let rows = open();
    let mut batch = RowBatch::default();
    for number in 0..5_000u32 {
        batch.put(number.to_be_bytes().to_vec(), vec![number as u8; 200]);
    }
    batch.put(b"big".to_vec(), vec![7; 40_000]);
    rows.apply(batch).unwrap();
    rows.flush().unwrap();
    rows.close().unwrap();
    drop(rows);
    let rows = open();
    assert_eq!(rows.scan(&[], &[0xff; 8], usize::MAX).unwrap().len(), 5_001);
    assert_eq!(rows.get(b"big").unwrap().unwrap(), vec![7; 40_000]);
    clear(&*rows);
    rows.close().unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(u8, Option<u8>)>),
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = proptest::collection::vec((0u8..24, proptest::option::of(any::<u8>())), 0..12);
    prop_oneof![6 => changes.prop_map(Step::Apply), 1 => Just(Step::Flush), 1 => Just(Step::Reopen)]
}

fn behaves_like_an_ordered_map(open: &impl Open) {
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let steps = proptest::collection::vec(step(), 1..20);
    runner.run(&steps, |steps| compare(open, steps)).unwrap();
}

fn compare(open: &impl Open, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut rows = open();
    for step in steps {
        match step {
            Step::Apply(changes) => {
                let mut batch = RowBatch::default();
                for (key, value) in changes {
                    match value {
                        Some(value) => {
                            model.insert(vec![key], vec![value]);
                            batch.put(vec![key], vec![value]);
                        }
                        None => {
                            model.remove(&vec![key]);
                            batch.remove(vec![key]);
                        }
                    }
                }
                rows.apply(batch).unwrap();
            }
            Step::Flush => rows.flush().unwrap(),
            Step::Reopen => {
                rows.close().unwrap();
                drop(rows);
                rows = open();
            }
        }
        let all: Vec<_> = model.clone().into_iter().collect();
        prop_assert_eq!(rows.scan(&[], &[0xff; 8], usize::MAX).unwrap(), all);
        let upto_ten = model.range(..vec![10]).next_back().map(|(key, value)| (key.clone(), value.clone()));
        prop_assert_eq!(rows.last(&[], &[10]).unwrap(), upto_ten);
    }
    clear(&*rows);
    rows.close().unwrap();
    Ok(())
}
