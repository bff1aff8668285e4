use super::*;
use std::io::Write as _;

fn flags(given: &[(&'static str, &str)]) -> Flags {
    let mut flags = Flags::new();
    for (name, value) in given {
        flags.entry(name).or_default().push((*value).to_owned());
    }
    flags
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn nothing(_: &str) -> Option<String> {
    None
}

/// The message that refuses the given flags.
fn refusal(given: &[(&'static str, &str)]) -> String {
    Config::load(&flags(given), nothing, None).unwrap_err().to_string()
}

#[test]
fn defaults_start_a_node_untouched() {
    let config = Config::load(&Flags::new(), nothing, None).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.first_name(), "node-3600");
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = file("partitions = 2\nlateness = \"2h\"\nmax_future = \"2m\"\njoin = [\"a:1\", \"b:2\"]\n");
    let environment = |name: &str| match name {
        "HOURMARK_LATENESS" => Some("3h".to_owned()),
        "HOURMARK_MAX_FUTURE" => Some("3m".to_owned()),
        "HOURMARK_CACHE_BYTES" => Some(String::new()),
        _ => None,
    };
    let config = Config::load(&flags(&[("max_future", "off")]), environment, Some(file.path())).unwrap();
    assert_eq!(config.partitions, 2);
    assert_eq!(config.lateness, Duration::from_secs(3 * 3600));
    assert_eq!(config.max_future, None);
    assert_eq!(config.join, ["a:1", "b:2"]);
    assert_eq!(config.cache_bytes, Config::default().cache_bytes);
}

#[test]
fn a_list_takes_commas_and_repeated_flags_and_replaces_the_file() {
    let file = file("join = [\"old:1\"]");
    let given = flags(&[("join", "a:1,b:2"), ("join", "[::1]:3")]);
    let config = Config::load(&given, nothing, Some(file.path())).unwrap();
    assert_eq!(config.join, ["a:1", "b:2", "[::1]:3"]);
}

#[test]
fn every_setting_reads_its_own_default_from_every_place() {
    for setting in SETTINGS {
        let default = setting.default_text();
        if default.is_empty() {
            continue;
        }
        let expected = Config::load(&Flags::new(), nothing, None).unwrap();
        let by_flag = Config::load(&Flags::from([(setting.name, vec![default.clone()])]), nothing, None).unwrap();
        let variable = setting.variable();
        let environment = |name: &str| (name == variable).then(|| default.clone());
        let by_variable = Config::load(&Flags::new(), environment, None).unwrap();
        let file = file(&format!("{} = {default:?}", setting.name));
        let by_file = Config::load(&Flags::new(), nothing, Some(file.path())).unwrap();
        assert_eq!((&by_flag, &by_variable, &by_file), (&expected, &expected, &expected), "{}", setting.name);
    }
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let file = file("max_futur = \"1m\"\n");
    let message = Config::load(&Flags::new(), nothing, Some(file.path())).unwrap_err().to_string();
    assert!(message.contains("unknown setting `max_futur`") && message.contains("--help"), "{message}");
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_refused() {
    let missing = Config::load(&Flags::new(), nothing, Some(Path::new("/no/such/file"))).unwrap_err();
    assert!(matches!(missing, Error::Unreadable { .. }) && missing.to_string().contains("/no/such/file"));
    let broken = file("partitions 6");
    assert!(matches!(Config::load(&Flags::new(), nothing, Some(broken.path())), Err(Error::NotToml { .. })));
}

#[test]
fn a_wrong_value_names_setting_value_origin_and_what_is_taken() {
    assert_eq!(
        refusal(&[("max_future", "10")]),
        "max_future = \"10\" (from --max-future): takes a duration from 0s to 100000d, or `off`"
    );
    let environment = |name: &str| (name == "HOURMARK_PARTITIONS").then(|| "0".to_owned());
    let message = Config::load(&Flags::new(), environment, None).unwrap_err().to_string();
    assert_eq!(message, "partitions = \"0\" (from HOURMARK_PARTITIONS): takes a whole number from 1 to 1024");
    for (name, value) in [
        ("http_addr", "3600"),
        ("http_addr", "http://127.0.0.1:3600"),
        ("http_addr", "::1:99999"),
        ("join", "a:0"),
        ("join", "a:1,,b:2"),
        ("relative_accuracy", "0.001"),
        ("relative_accuracy", "NaN"),
        ("body_bytes_max", "1MiB"),
        ("segment_bytes", "32MiB"),
        ("data_dir", ""),
    ] {
        let message = refusal(&[(name, value)]);
        assert!(message.starts_with(name), "{name} = {value:?} was refused with {message}");
    }
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let wrong = [
        (vec![("http_addr", "127.0.0.1:1"), ("cluster_addr", "127.0.0.1:1")], "different ports"),
        (vec![("cluster_addr", "0.0.0.0:3601")], "other nodes dial"),
        (vec![("cluster_addr", "[::]:3601")], "other nodes dial"),
        (vec![("join", "127.0.0.1:3601")], "only this node itself"),
        (vec![("inflight_bytes_max", "8MiB")], "raise the first"),
        (vec![("segment_bytes", "512MiB")], "shrink by whole files"),
        (vec![("heartbeat_interval", "900ms")], "depose"),
        (vec![("election_timeout_max", "700ms")], "splitting the vote"),
    ];
    for (given, part) in wrong {
        let message = refusal(&given);
        assert!(message.contains(part), "{given:?}: {message}");
    }
}

#[test]
fn two_free_ports_are_not_a_conflict() {
    let given = flags(&[("http_addr", "127.0.0.1:0"), ("cluster_addr", "127.0.0.1:0")]);
    assert_eq!(Config::load(&given, nothing, None).unwrap().http_addr, "127.0.0.1:0");
}

#[test]
fn configuration_page_equals_the_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, documentation()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(page == documentation(), "docs/configuration.md is stale: run with UPDATE=1 to rewrite it");
}
