//! What the product says about itself while it runs: its log messages, seen as an operator with all levels on sees them.
//!
//! This is the simulator's only look inside: who leads, what is applied, what was purged, which rare situation was reached.
//! It is also where an aggregator is made to panic, at the moment in which it says what it folds.

use crate::coverage;
use crate::invariants::Watch;
use crate::kernel::time;
use crate::timeline;
use crate::trace;
use cluster::HISTORY;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;
use tracing::field::{Field, Visit};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Folding one entry panics so often at most: one more, and the product would set the entry aside.
const PANICS_MAX: u32 = 2;

thread_local! {
    static OBSERVER: RefCell<Observer> = RefCell::new(Observer::default());
}

/// Who is told what the product says.
#[derive(Default)]
struct Observer {
    watch: Option<Rc<RefCell<Watch>>>,
    /// How many aggregators to fold an entry next panic: on a machine, or (`None`) on any.
    panics_left: BTreeMap<Option<String>, u64>,
    poisons_left: u64,
    /// How often folding an entry that is no poison has panicked.
    panics: BTreeMap<(u64, u64), u32>,
    /// Entries that make every aggregator panic that folds them: offset and checksum.
    poisoned: BTreeSet<(u64, u64)>,
}

/// A message of the product.
#[derive(Debug, Default)]
pub struct Message {
    /// The machine it comes from.
    pub machine: String,
    /// The text.
    pub text: String,
    /// Fields that are numbers.
    pub numbers: Vec<(&'static str, u64)>,
    /// All other fields.
    pub rest: String,
}

impl Message {
    /// A field by its name.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// Listens until the guard is dropped; `watch` is told what concerns the replicated log.
pub fn listen(watch: Rc<RefCell<Watch>>) -> DefaultGuard {
    OBSERVER.with_borrow_mut(|observer| *observer = Observer { watch: Some(watch), ..Observer::default() });
    tracing::subscriber::set_default(Ear)
}

/// The next so many aggregators to fold an entry panic: on a machine, or on any.
pub fn panic_aggregators(times: u64, on: Option<&str>) {
    OBSERVER.with_borrow_mut(|observer| {
        *observer.panics_left.entry(on.map(str::to_owned)).or_default() += times;
    });
}

/// The next entry to be folded is poison.
pub fn poison_next_entry() {
    OBSERVER.with_borrow_mut(|observer| observer.poisons_left += 1);
}

/// A node has panicked, and was not made to.
pub fn panicked(machine: &str, what: &str) {
    let watch = OBSERVER.with_borrow(|observer| observer.watch.clone());
    // If the watch itself panics, the run ends anyway.
    if let Some(Ok(mut watch)) = watch.as_deref().map(RefCell::try_borrow_mut) {
        watch.panicked(machine, what);
    }
}

/// No aggregator panics any more, except over entries that are poison.
pub fn stop_panics() {
    OBSERVER.with_borrow_mut(|observer| {
        observer.panics_left.clear();
        observer.poisons_left = 0;
    });
}

/// Hears the product, and from turmoil whose turn it is.
struct Ear;

impl Subscriber for Ear {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        // What is no span is an event, or the question whether there would be one: on the answer depends what entries hash to.
        let is_ours = target == HISTORY || target.starts_with("cluster") || target.starts_with("hourmark");
        is_turn(metadata) || !metadata.is_span() && is_ours
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut turn = Turn::default();
        span.record(&mut turn);
        span::Id::from_u64(turn.0 as u64 + 1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message { machine: time::running(), ..Message::default() };
        event.record(&mut Fields(&mut message));
        hear(event.metadata(), &message);
    }

    fn enter(&self, turn: &span::Id) {
        time::enter(turn.into_u64() as usize - 1);
    }

    fn exit(&self, _: &span::Id) {
        time::leave();
    }
}

/// Whether a span is the one that turmoil runs each host in.
fn is_turn(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == "node" && metadata.target().starts_with("turmoil")
}

/// The number of the host that a turn is of.
#[derive(Default)]
struct Turn(usize);

impl Visit for Turn {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            self.0 = time::number(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

fn hear(metadata: &Metadata<'_>, message: &Message) {
    coverage::heard(message);
    timeline::heard(message);
    let level = *metadata.level();
    // The log's history is too long to be shown.
    let is_shown = metadata.target() != HISTORY;
    if is_shown && level <= Level::INFO {
        trace::line(format_args!("{} {level}: {}{}", message.machine, message.text, shown(message)));
    } else if is_shown && level == Level::DEBUG {
        trace::aside(format_args!("{} {level}: {}{}", message.machine, message.text, shown(message)));
    }
    let watch = OBSERVER.with_borrow(|observer| observer.watch.clone());
    if let Some(watch) = watch {
        watch.borrow_mut().heard(message);
    }
    if message.text == "folding" && must_panic(message) {
        panic!("simulated: folding entry {:?} panics", message.number("offset"));
    }
}

fn must_panic(message: &Message) -> bool {
    let entry = (message.number("offset").unwrap_or(0), message.number("hash").unwrap_or(0));
    OBSERVER.with_borrow_mut(|observer| {
        if observer.poisons_left > 0 {
            observer.poisons_left -= 1;
            observer.poisoned.insert(entry);
        }
        if observer.poisoned.contains(&entry) {
            return true;
        }
        let is_meant = |on: &Option<String>| on.as_ref().is_none_or(|machine| *machine == message.machine);
        let left = observer.panics_left.iter_mut().find(|(on, left)| is_meant(on) && **left > 0);
        let panics = observer.panics.entry(entry).or_default();
        match left {
            Some((_, left)) if *panics < PANICS_MAX => {
                *panics += 1;
                *left -= 1;
                true
            }
            _ => false,
        }
    })
}

fn shown(message: &Message) -> String {
    let mut text = message.rest.clone();
    for (name, value) in &message.numbers {
        // Writing to a String cannot fail.
        let _ = write!(text, " {name}={value}");
    }
    text
}

struct Fields<'a>(&'a mut Message);

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.numbers.push((field.name(), value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.numbers.push((field.name(), value.cast_unsigned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0.text, "{value:?}"),
            name => write!(self.0.rest, " {name}={value:?}"),
        };
    }
}
