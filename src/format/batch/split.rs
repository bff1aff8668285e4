//! A batch of many apps into one for each share of them: what a node does with a batch that a client made.

use super::Batch;
use super::builder::{Grouped, encode};
use crate::domain::EventTime;
use bytes::Bytes;

impl Batch<'_> {
    /// The events whose times are taken, as a batch for each share that has some: share, number of events, batch,
    /// ascending by share. `share_of` tells the share of an app.
    pub fn split_by(
        self,
        share_of: impl Fn(&str) -> u16,
        is_taken: impl Fn(EventTime) -> bool,
    ) -> Vec<(u16, u32, Bytes)> {
        let mut groups: Vec<(u16, &str, std::ops::Range<usize>)> = Vec::with_capacity(self.apps);
        let mut start = 0;
        self.for_each_group(|app_id, count| {
            groups.push((share_of(app_id), app_id, start..start + count));
            start += count;
        });
        // Stable: apps stay in the order that they have in the batch.
        groups.sort_by_key(|(share, _, _)| *share);
        let mut events: Vec<Grouped> = Vec::with_capacity(self.events.len());
        let mut batches = Vec::new();
        for groups in groups.chunk_by(|one, other| one.0 == other.0) {
            let mut directory: Vec<(&[u8], u32)> = Vec::with_capacity(groups.len());
            events.clear();
            for (_, app_id, places) in groups {
                let before = events.len();
                events.extend(self.events[places.clone()].iter().filter(|(time, _)| is_taken(*time)));
                let count = u32::try_from(events.len() - before).expect("fewer events than a batch has bytes");
                if count > 0 {
                    directory.push((app_id.as_bytes(), count));
                }
            }
            if !directory.is_empty() {
                let names_bytes = directory.iter().map(|(name, _)| name.len()).sum();
                let count = directory.iter().map(|(_, count)| count).sum();
                batches.push((groups[0].0, count, encode(&directory, &events, names_bytes)));
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ResponseTime;
    use crate::format::BatchBuilder;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn splitting_a_batch_is_building_batches(
            events in prop::collection::vec(("[a-f]{1,2}", 0u64..100, 0u64..1_000_000), 0..100),
            latest in 0u64..120,
        ) {
            let share = |app: &str| u16::from(app.as_bytes()[0]) % 3;
            let (mut whole, mut taken) = (BatchBuilder::default(), BatchBuilder::default());
            for (app, time, value) in &events {
                whole.add(app, EventTime(*time), ResponseTime(*value));
            }
            // What is left out may be what brought an app in: the order of apps is that of the whole batch.
            let bytes = whole.finish();
            let batch = Batch::decode(&bytes).unwrap();
            Batch::decode(&bytes).unwrap().for_each_app(|app, own| {
                own.iter().filter(|(time, _)| time.0 < latest).for_each(|(time, value)| taken.add(app, *time, *value));
            });
            prop_assert_eq!(batch.split_by(share, |time| time.0 < latest), taken.finish_by(share));
        }
    }
}
