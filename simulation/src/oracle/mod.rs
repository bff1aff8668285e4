//! What clients sent and were told, and so what the cluster must answer.
//!
//! An event is *acked*, *refused* (certain not to count), or *unknown*: a call that failed says nothing. Producers with an
//! identity retry until they know, so what they sent is acked in the end ([`Ledger::shared`]). A careless client's outcome
//! may stay unknown; its requests have apps of their own and values that show in the sum which of them count
//! ([`Markers`]).

mod account;
mod markers;

pub use account::{Account, Seen, Tally};
pub use markers::{Markers, Outcome};

use std::collections::{BTreeMap, VecDeque};

/// An app and an hour (hours since the Unix epoch).
pub type Key = (String, u64);

/// The events of one request: app, time in ms since the epoch, response time in ns.
pub type Events = Vec<(String, u64, u64)>;

/// The hour of a time in ms.
pub fn hour_of(time_ms: u64) -> u64 {
    time_ms / 3_600_000
}

/// Receipts that clients keep to read by: the newest.
const RECEIPTS_MAX: usize = 32;

/// An ack, to read one's own writes by.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// What it named.
    pub token: String,
    /// What a read with this token must hold: the request's events, and those that were acked before it was first sent.
    pub holds: BTreeMap<Key, Tally>,
}

/// Everything that clients know.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Apps that producers share.
    pub shared: BTreeMap<Key, Account>,
    /// Apps of careless clients, each with its only hour.
    pub markers: BTreeMap<Key, Markers>,
    /// Events that were acked.
    pub acked_events: u64,
    /// The newest acks.
    pub receipts: VecDeque<Receipt>,
}

impl Ledger {
    /// A producer is about to send these.
    pub fn sent(&mut self, events: &Events) {
        for (app, time, value) in events {
            self.shared.entry((app.clone(), hour_of(*time))).or_default().sent.add(*value);
        }
    }

    /// What a read that follows the ack of these, which are not sent yet, must hold of their apps and hours.
    pub fn up_to(&self, events: &Events) -> BTreeMap<Key, Tally> {
        let mut holds = BTreeMap::new();
        for (app, time, value) in events {
            let key = (app.clone(), hour_of(*time));
            let acked = self.shared.get(&key).map_or_else(Tally::default, |account| account.acked);
            holds.entry(key).or_insert(acked).add(*value);
        }
        holds
    }

    /// Keeps a receipt.
    pub fn keep(&mut self, receipt: Receipt) {
        self.receipts.push_back(receipt);
        if self.receipts.len() > RECEIPTS_MAX {
            self.receipts.pop_front();
        }
    }

    /// They were acked.
    pub fn acked(&mut self, events: &Events) {
        self.acked_events += events.len() as u64;
        for (app, time, value) in events {
            let account = self.shared.entry((app.clone(), hour_of(*time))).or_default();
            account.acked.add(*value);
            account.values.push(*value);
        }
    }

    /// All hours together of an app that producers share.
    pub fn whole(&self, app: &str) -> Account {
        let mut whole = Account::default();
        self.hours_of(app).for_each(|account| whole.merge(account));
        whole
    }

    /// How many hours of an app that producers share have acked events.
    pub fn hours_acked(&self, app: &str) -> u64 {
        self.hours_of(app).filter(|account| account.acked.count > 0).count() as u64
    }

    fn hours_of(&self, app: &str) -> impl Iterator<Item = &Account> {
        let hours = self.shared.range((app.to_owned(), 0)..=(app.to_owned(), u64::MAX));
        hours.map(|(_, account)| account)
    }

    /// All apps that anything was sent of.
    pub fn apps(&self) -> std::collections::BTreeSet<&str> {
        self.shared.keys().chain(self.markers.keys()).map(|(app, _)| app.as_str()).collect()
    }
}
