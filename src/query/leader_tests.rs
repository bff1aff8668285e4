//! Whatever pieces the stored rows come in: nothing is missing, and nothing counts twice.

use crate::domain::{Hour, ResponseTime, Rollup, SketchConfig};
use crate::format::Token;
use crate::query::request::Consistency;
use crate::query::testing::{Fake, app};
use cluster::PartitionId;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_of_any_size_add_up_to_the_whole(
        stored in prop::collection::vec((0u32..40, 1u64..1000), 0..60),
        open in prop::collection::vec((0u32..40, 1u64..1000), 0..60),
        page_hours in 1usize..12,
        stored_rows_max in 1usize..12,
    ) {
        let mut fake = Fake::new(1);
        fake.stored_rows_max = stored_rows_max;
        stored.iter().for_each(|(hour, ns)| fake.record("a", *hour, *ns));
        fake.checkpoint();
        open.iter().for_each(|(hour, ns)| fake.record("a", *hour, *ns));
        let mut counts = BTreeMap::new();
        for (hour, _) in stored.iter().chain(&open) {
            *counts.entry(Hour(*hour)).or_insert(0u64) += 1;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut pages = BTreeMap::new();
        let mut from = Hour(0);
        loop {
            let deadline = runtime.block_on(async { Instant::now() + Duration::from_secs(1) });
            let (leader, name) = (fake.leader(), app("a"));
            let page = leader.hours(PartitionId(0), &name, from..Hour(40), page_hours, deadline);
            let page = runtime.block_on(page).unwrap();
            prop_assert!(page.rows.len() <= page_hours);
            for row in &page.rows {
                prop_assert!(pages.insert(row.hour, row.version.count).is_none());
            }
            if !page.has_more {
                break;
            }
            from = Hour(page.rows.last().unwrap().hour.0 + 1);
        }
        prop_assert_eq!(pages, counts);
    }

    #[test]
    fn a_summary_that_is_read_in_pieces_of_any_size_is_of_the_whole(
        stored in prop::collection::vec((0u32..40, 1u64..1000), 0..60),
        under_way in prop::collection::vec((0u32..40, 1u64..1000), 0..60),
        open in prop::collection::vec((0u32..40, 1u64..1000), 0..60),
        stored_rows_max in 1usize..12,
        lands_meanwhile: bool,
    ) {
        let mut fake = Fake::new(1);
        fake.stored_rows_max = stored_rows_max;
        stored.iter().for_each(|(hour, ns)| fake.record("a", *hour, *ns));
        fake.checkpoint();
        under_way.iter().for_each(|(hour, ns)| fake.record("a", *hour, *ns));
        fake.begin_checkpoint();
        open.iter().for_each(|(hour, ns)| fake.record("a", *hour, *ns));
        let whole = |events: Vec<&(u32, u64)>| {
            let hours: BTreeSet<_> = events.iter().map(|(hour, _)| hour).collect();
            let mut rollup = Rollup::default();
            events.iter().for_each(|(_, ns)| rollup.record(ResponseTime(*ns), false, &SketchConfig::default()));
            (hours.len() as u64, rollup)
        };
        let (query, name) = (fake.query(), app("a"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for (consistency, (hours, rollup)) in [
            (Consistency::Local(Token::default()), whole(stored.iter().collect())),
            (Consistency::Linearizable, whole(stored.iter().chain(&under_way).chain(&open).collect())),
        ] {
            if lands_meanwhile && consistency == Consistency::Linearizable {
                fake.checkpoint_between();
            }
            let answer = runtime.block_on(query.summary(&name, Hour(0)..Hour(40), &consistency));
            match answer {
                Ok((summary, _)) => prop_assert_eq!((summary.hours, summary.rollup), (hours, rollup)),
                Err(_) => prop_assert_eq!(hours, 0),
            }
        }
    }
}
