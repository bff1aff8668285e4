//! The two texts of `/metrics`, and which one a client wants.

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text 0.0.4: what whoever does not ask gets.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// The one that an `Accept` header wants: OpenMetrics where it is named and not liked less than plain text.
    pub fn wanted(accept: &str) -> Exposition {
        let quality = |wanted: &str| {
            let ranges = accept.split(',').map(|range| range.split(';').map(str::trim));
            ranges.filter_map(|mut range| range.next()?.eq_ignore_ascii_case(wanted).then(|| quality_of(range))).max()
        };
        match quality("application/openmetrics-text") {
            Some(liked) if liked > 0 && liked >= quality("text/plain").unwrap_or(0) => Exposition::OpenMetrics,
            _ => Exposition::Prometheus,
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The `q` among a media range's parameters, in thousandths (RFC 9110, section 12.4.2).
fn quality_of<'a>(mut parameters: impl Iterator<Item = &'a str>) -> u32 {
    let quality = parameters.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
    let quality = quality.map_or(Some(1.0), |text| text.parse::<f64>().ok().filter(|q| (0.0..=1.0).contains(q)));
    (quality.unwrap_or(0.0) * 1e3) as u32
}

/// OpenMetrics text as Prometheus text: counters are described under the name of their sample, with `_total`; there are no
/// units (they stand in the names) and no mark of the end.
pub fn prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let describes_counter =
            is_counter(line) || line.starts_with("# HELP ") && lines.peek().is_some_and(|next| is_counter(next));
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", keyword, name, rest] if describes_counter => {
                text.extend(["# ", keyword, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use Exposition::{OpenMetrics, Prometheus};

    #[test]
    fn open_metrics_is_for_those_who_like_it() {
        for (accept, wanted) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/html, text/plain;q=0.9", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; q=0, */*", Prometheus),
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", OpenMetrics),
            ("application/openmetrics-text;q=0.1, text/plain", Prometheus),
            ("application/openmetrics-text;q=much", Prometheus),
        ] {
            assert_eq!(Exposition::wanted(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn counters_are_described_under_the_name_of_their_samples() {
        let open_metrics = "# HELP a Of a.\n# TYPE a counter\n# UNIT a bytes\na_total 7\n\
                            # HELP b Of b.\n# TYPE b gauge\nb{x=\"# TYPE b counter\"} 1\n# EOF\n";
        let text = "# HELP a_total Of a.\n# TYPE a_total counter\na_total 7\n\
                    # HELP b Of b.\n# TYPE b gauge\nb{x=\"# TYPE b counter\"} 1\n";
        assert_eq!(prometheus(open_metrics), text);
    }
}
