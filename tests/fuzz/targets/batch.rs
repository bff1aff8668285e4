//! A columnar batch of a client: refused, or taken whole; what is made of it can be read.

#![no_main]

use fuzz::{LIMITS, seal};
use hourmark::format::Batch;
use hourmark::ingest::{Kind, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&seal(bytes));
});

fn check(body: &[u8]) {
    let slots: Vec<_> = (0..cluster::SLOTS).map(|slot| cluster::PartitionId((slot % 3) as u16)).collect();
    let Ok(request) = Request::read(body, Kind::Batch, LIMITS, &slots) else { return };
    let mut events = 0;
    for partition in request.partitions.values() {
        let batch = Batch::decode(&partition.batch).expect("what was made here can be read here");
        assert_eq!(batch.times().count(), partition.events as usize);
        events += u64::from(partition.events);
    }
    if let Ok(batch) = Batch::decode(body) {
        assert_eq!(events + request.rejections.count, batch.times().count() as u64);
    }
}
