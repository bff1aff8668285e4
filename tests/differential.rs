//! The quick ways through a line against the exact one: same verdict, same value, on made-up and spoiled lines.
//!
//! The usual run takes 300,000 lines. More of them:
//!
//! ```console
//! HOURMARK_DIFFERENTIAL_LINES=100000000 HOURMARK_DIFFERENTIAL_SEED=7 cargo test --release --test differential -- --nocapture
//! ```

use cluster::PartitionId;
use hourmark::domain::{EventTime, SLOTS, TimeLimits};
use hourmark::format::BatchBuilder;
use hourmark::ingest::ndjson::exact_line;
use hourmark::ingest::{Kind, Reason, Request};

const LINES_DEFAULT: u64 = 300_000;
const BODY_LINES: u64 = 500;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

/// How one program writes its lines.
struct Form {
    order: [usize; 3],
    before_colon: &'static str,
    behind_colon: &'static str,
    behind_comma: &'static str,
    extra: &'static str,
    end: &'static str,
    has_time_numbers: bool,
}

fn form(random: &mut Random) -> Form {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    const EXTRAS: [&str; 8] = [
        "",
        "",
        "",
        "\"region\":\"eu\",",
        "\"n\":1.50,",
        "\"ok\":true,",
        "\"long\":\"a value of more than thirty-two bytes\",",
        "\"tags\":[1,{}],",
    ];
    Form {
        order: ORDERS[random.below(6)],
        before_colon: random.pick(&["", "", " "]),
        behind_colon: random.pick(&["", " "]),
        behind_comma: random.pick(&["", " ", "\t"]),
        extra: EXTRAS[random.below(EXTRAS.len())],
        end: random.pick(&["\n", "\n", "\r\n", " \n"]),
        has_time_numbers: random.one_in(4),
    }
}

fn app_id(random: &mut Random) -> String {
    match random.below(40) {
        0 => random.pick(&["", "a\\\"b", "a\\\\b", "\\u0061bc", "a\\nb", "\\ud800", "a\u{7f}", "\u{1}"]).to_owned(),
        1 => "x".repeat(250 + random.below(10)),
        2..6 => random.pick(&["\u{fc}ber", "checkout service/eu", "\u{65e5}\u{672c}", "\u{1f680}", "a"]).to_owned(),
        _ => format!("app-{:04}", random.below(30)),
    }
}

fn timestamp(random: &mut Random, is_number: bool) -> String {
    if is_number {
        return match random.below(20) {
            0 => random.pick(&["-1", "1e12", "1.5", "01", "9214646400000", "99999999999999999999", "-0"]).to_owned(),
            _ => (1_700_000_000_000 + random.next() % 10_000_000_000).to_string(),
        };
    }
    let date = random.pick(&[
        "2024-02-29",
        "2024-02-29",
        "2023-12-31",
        "2016-12-31",
        "2026-02-30",
        "1969-12-31",
        "2261-12-31",
    ]);
    let (hour, minute, second) = (random.below(25), random.below(61), random.below(62));
    let fraction = match random.below(8) {
        0 => String::new(),
        1 => format!(".{}", random.below(100)),
        2 => format!(".{:06}", random.below(1_000_000)),
        3 => random.pick(&[".", ".12x", ",123", ".123456789012"]).to_owned(),
        _ => format!(".{:03}", random.below(1000)),
    };
    let zone = match random.below(12) {
        0 => random.pick(&["z", "+01:30", "-23:59", "+24:00", "", "+0100"]),
        _ => "Z",
    };
    let mark = if random.one_in(30) { random.pick(&["t", " ", "_"]) } else { "T" };
    format!("\"{date}{mark}{hour:02}:{minute:02}:{second:02}{fraction}{zone}\"")
}

fn response_time(random: &mut Random) -> String {
    match random.below(12) {
        0 => random
            .pick(&[
                "-1",
                "1e3",
                "1.5E-2",
                "01",
                "1.",
                ".5",
                "100000000000",
                "100000000000.1",
                "1e400",
                "-0",
                "null",
                "\"1\"",
            ])
            .to_owned(),
        1 => format!("{}.{}", random.below(1_000_000), random.next()),
        2 => (random.next() >> random.below(40)).to_string(),
        3 => format!("0.{:07}", random.below(10_000_000)),
        4 => format!("{}.{}", random.below(100_000), random.below(1_000_000)),
        _ => format!("{}.{:02}", random.below(1000), random.below(100)),
    }
}

fn line(random: &mut Random, form: &Form) -> Vec<u8> {
    let (is_number, Form { before_colon, behind_colon, .. }) = (form.has_time_numbers != random.one_in(50), form);
    let field = |name: &str, value: String| format!("\"{name}\"{before_colon}:{behind_colon}{value}");
    let fields = [
        field("app_id", format!("\"{}\"", app_id(random))),
        field("timestamp", timestamp(random, is_number)),
        field("response_time_ms", response_time(random)),
    ];
    let fields: Vec<&str> = form.order.iter().map(|place| fields[*place].as_str()).collect();
    format!("{{{}{}}}{}", form.extra, fields.join(&format!(",{}", form.behind_comma)), form.end).into_bytes()
}

/// Changes a byte or two of a line.
fn spoil(random: &mut Random, line: &mut Vec<u8>) {
    for _ in 0..1 + random.below(2) {
        let place = random.below(line.len());
        let special = b"\"\\{}[]:,.-+eEZT0159 \t\r\n\x00\x1f\x7f\xff\xc3";
        let byte = if random.one_in(3) { random.next() as u8 } else { special[random.below(special.len())] };
        match random.below(3) {
            0 => line[place] = byte,
            1 => line.insert(place, byte),
            _ if line.len() > 1 => drop(line.remove(place)),
            _ => {}
        }
    }
}

fn body(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    let mut own = form(random);
    for _ in 0..BODY_LINES {
        if random.one_in(100) {
            own = form(random);
        }
        let mut line = line(random, &own);
        if random.one_in(12) {
            spoil(random, &mut line);
        }
        body.extend_from_slice(&line);
    }
    if random.one_in(4) {
        body.pop();
    }
    body
}

/// What the exact way makes of a body: its batch, and what is refused.
fn exact(body: &[u8], limits: &TimeLimits) -> (Vec<u8>, Vec<(u64, Reason)>) {
    let (mut builder, mut refused) = (BatchBuilder::default(), Vec::new());
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        match exact_line(line, limits) {
            Ok(None) => {}
            Ok(Some(event)) => builder.add(&event.app_id, event.time, event.response_time),
            Err(reason) => refused.push((number, reason)),
        }
    }
    let batch = if builder.is_empty() { Vec::new() } else { builder.finish().to_vec() };
    (batch, refused)
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn quick_ways_agree_with_the_exact_one() {
    let (lines, seed) = (number("HOURMARK_DIFFERENTIAL_LINES", LINES_DEFAULT), number("HOURMARK_DIFFERENTIAL_SEED", 1));
    let slots: Vec<PartitionId> = (0..SLOTS).map(|_| PartitionId(0)).collect();
    let latest = EventTime(4_000_000_000_000);
    let (mut good, mut bad) = (0, 0);
    for round in 0..lines.div_ceil(BODY_LINES) {
        let mut random = Random(seed.wrapping_mul(1 << 40) + round);
        let body = body(&mut random);
        let limits = if round % 8 == 0 { TimeLimits { latest, ..TimeLimits::NONE } } else { TimeLimits::NONE };
        let request = Request::read(&body, Kind::Lines, limits, &slots).expect("one body is no batch too large");
        let events = request.partitions.get(&PartitionId(0)).cloned().unwrap_or_default();
        let (batch, refused) = exact(&body, &limits);
        assert!(
            events.batch == batch && request.rejections.listed == refused,
            "seed {seed}, round {round}: {:?} instead of {refused:?} in\n{}",
            request.rejections.listed,
            String::from_utf8_lossy(&body)
        );
        good += u64::from(events.events);
        bad += refused.len();
        if round % 100_000 == 99_999 {
            println!("{} lines agree, {good} of them good, {bad} bad", (round + 1) * BODY_LINES);
        }
    }
    println!("seed {seed}: all agree, {good} good, {bad} bad");
    assert!(good > lines / 3 && bad as u64 > lines / 50, "{good} good, {bad} bad");
}
