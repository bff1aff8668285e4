//! `hourmark start`: runs one node until it is told to stop.

use super::cores;
use super::failure::{Exit, Failure, Outcome};
use super::signals::Signals;
use clap::{Arg, ArgAction, ArgMatches};
use cluster::environment::{self, Environment};
use hourmark::config::{Config, Flags, SETTINGS, Setting};
use hourmark::rollup::Engine;
use hourmark::{node, telemetry};
use std::io::Write as _;
use std::path::PathBuf;
use tokio::io::AsyncReadExt as _;

/// Run a node
///
/// A fresh directory makes a one-node cluster; with --join, the node enters the cluster of that member and the cluster
/// grows by itself up to three copies of everything. A node that has run before goes on where it was. It prints one line
/// `ready node=… http=… cluster=…` on stderr once it serves. SIGTERM or Ctrl-C hands leadership over, flushes and exits 0; a
/// second signal exits at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  hourmark start --data-dir n1
  hourmark start --data-dir n2 --join 127.0.0.1:3601 \\
      --http-addr 127.0.0.1:3610 --cluster-addr 127.0.0.1:3611
  hourmark start --data-dir n3 --join 127.0.0.1:3601 \\
      --http-addr 127.0.0.1:3620 --cluster-addr 127.0.0.1:3621

Each setting: the flag, else HOURMARK_* in the environment, else the file of --config, else the
default. -h lists the usual settings, --help all of them.")]
pub struct Arguments {
    /// A TOML file of settings, one key per flag: data_dir = "n1"
    #[arg(long, value_name = "FILE", env = "HOURMARK_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Stop when stdin ends, so that a node does not outlive the process that started it
    #[arg(long, hide = true)]
    exit_with_parent: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

/// A flag for each of [`SETTINGS`].
#[derive(Debug, Default)]
struct SettingFlags(Flags);

impl clap::Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(SETTINGS.iter().map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let values = matches.get_many::<String>(setting.name)?;
            Some((setting.name, values.cloned().collect()))
        });
        Ok(SettingFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default_text() {
        text if text.is_empty() => setting.empty_default.replace('`', ""),
        text => text,
    };
    let what = setting.what.replace('`', "");
    let help = format!("{} [default: {default}]", what.trim_end_matches('.'));
    let long_help = format!(
        "{what}\n\nTakes {}.\n[env: {}] [default: {default}]",
        setting.limit().replace('`', ""),
        setting.variable()
    );
    Arg::new(setting.name)
        .long(setting.name.replace('_', "-"))
        .value_name(setting.placeholder())
        .help(help)
        .long_help(long_help)
        .hide_short_help(!setting.is_basic)
        .allow_hyphen_values(setting.is_quantity())
        .action(if setting.is_list() { ArgAction::Append } else { ArgAction::Set })
}

/// Builds the configuration and runs the node on a runtime of its own.
pub fn run(arguments: &Arguments) -> Outcome {
    let environment = |name: &str| std::env::var(name).ok();
    let config = Config::load(&arguments.settings.0, environment, arguments.config.as_deref())?;
    telemetry::start(&config.log_filter).map_err(|error| {
        Failure::new(Exit::Usage, format!("log_filter: {error}; write it like warn or info,cluster=debug"))
    })?;
    environment::allow_many_open_files();
    let threads = match config.threads {
        0 => cores().max(2),
        threads => usize::from(threads),
    };
    // A task that was just woken waits its turn: until then more comes in for it to take along.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .disable_lifo_slot()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("starting the runtime", &error))?;
    let outcome = runtime.block_on(serve(config, arguments.exit_with_parent));
    runtime.shutdown_background();
    outcome
}

async fn serve(config: Config, exit_with_parent: bool) -> Outcome {
    let mut signals = Signals::new()?;
    if config.data_dir == Config::default().data_dir {
        tell(&format!("data goes to the directory {}; --data-dir names another one", config.data_dir));
    }
    let environment = Environment::system(&config.data_dir)
        .map_err(|error| Failure::io(format!("creating data_dir {}", config.data_dir), &error))?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let shutdown = async {
        // A sender that is gone wants the node stopped too.
        let _ = stopped.await;
    };
    let engine = Engine::Sled { data_directory: config.data_dir.clone().into() };
    let mut node = std::pin::pin!(node::run(config, environment, engine, shutdown, announce));
    let reason = tokio::select! {
        outcome = &mut node => return Ok(outcome?),
        () = signals.next() => "told to by a signal",
        () = parent_gone(), if exit_with_parent => "the process that started this node is gone",
    };
    tell(&format!("stopping: {reason}"));
    // The node may have ended in this very moment: then nobody listens, and its outcome is read below.
    let _ = stop.send(());
    tokio::select! {
        outcome = &mut node => Ok(outcome?),
        () = signals.next() => Err(Failure::new(Exit::Failed, "second signal: stopped at once, nothing acked is lost")),
    }
}

/// The one line that scripts wait for.
fn announce(ready: &node::Ready) {
    let node::Ready { node_name, http_address, cluster_address } = ready;
    tell(&format!("ready node={node_name} http={http_address} cluster={cluster_address}"));
}

fn tell(line: &str) {
    // Nobody may read stderr any more: no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Waits until stdin ends.
async fn parent_gone() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    while matches!(stdin.read(&mut ignored).await, Ok(count) if count > 0) {}
}
