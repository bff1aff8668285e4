//! One node process: how it is started, what it says, how it is stopped.

use super::super::failure::{Exit, Failure, Outcome};
use super::directory::Directory;
use cluster::environment::Tasks;
use hourmark::config::Config;
use hourmark::telemetry::FILTER_QUIET;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::sync::{oneshot, watch};

/// How a node is to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Where it serves clients; other nodes on the port after it.
    pub http_port: u16,
    /// Cluster port of the node to join by.
    pub join_port: Option<u16>,
    /// Its own directory.
    pub data_dir: PathBuf,
    /// What the user adds.
    pub flags: Vec<String>,
    /// Whether all its log lines are wanted.
    pub is_verbose: bool,
}

impl Plan {
    /// The node with this number from 1, on ports and in a directory of its own, joining by the first one.
    pub fn numbered(number: u16, base_port: u16, directory: &Directory) -> Plan {
        Plan {
            name: format!("node-{number}"),
            http_port: base_port + 10 * (number - 1),
            join_port: (number > 1).then_some(base_port + 1),
            data_dir: directory.of_node(number),
            flags: Vec::new(),
            is_verbose: false,
        }
    }

    /// Where it serves clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The arguments that start it, without those that tie it to this process.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "start".to_owned(),
            "--data-dir".to_owned(),
            self.data_dir.display().to_string(),
            "--http-addr".to_owned(),
            format!("127.0.0.1:{}", self.http_port),
            "--cluster-addr".to_owned(),
            format!("127.0.0.1:{}", self.http_port + 1),
            "--node-name".to_owned(),
            self.name.clone(),
        ];
        if let Some(port) = self.join_port {
            arguments.extend(["--join".to_owned(), format!("127.0.0.1:{port}")]);
        }
        arguments.extend(self.flags.iter().cloned());
        arguments
    }

    /// Refuses ports that somebody listens on already, before anything is started.
    pub fn check_ports(&self) -> Outcome {
        for port in [self.http_port, self.http_port + 1] {
            std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| {
                let message = format!("port {port} for {}: {error}; choose other ports with --base-port", self.name);
                Failure::new(Exit::Failed, message)
            })?;
        }
        Ok(())
    }
}

/// What a node gets of the machine that it shares with the others of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Threads for its requests.
    pub threads: usize,
    /// Partitions of a new cluster, where the default is too many.
    pub partitions: Option<u16>,
}

impl Share {
    /// Each node's share of so many cores, and two threads at least, as a node has by itself: one that leads alone does more than its
    /// share of the work, and with a single thread whatever it agrees on waits while it folds.
    ///
    /// Several partitions let several nodes lead at once. Where those outnumber the cores that gains nothing, and one partition costs
    /// less: all requests share its rounds, and one with an identity takes one round instead of two.
    pub fn of(cores: usize, nodes: usize) -> Share {
        let leaders = nodes.min(Config::default().partitions.into());
        Share { threads: (cores / nodes.max(1)).max(2), partitions: (cores < leaders).then_some(1) }
    }

    /// What to add to the environment of a node that is started with these flags. Nothing that the user says is overruled.
    fn variables(
        self,
        flags: &[String],
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Vec<(&'static str, String)> {
        let is_said = |name| environment(name).is_some_and(|value| !value.is_empty());
        // A file may say it, and the environment would come before it.
        let has_file = is_said("HOURMARK_CONFIG") || flags.iter().any(|flag| flag.starts_with("--config"));
        let partitions =
            self.partitions.filter(|_| !has_file).map(|partitions| ("HOURMARK_PARTITIONS", partitions.to_string()));
        let threads = ("HOURMARK_THREADS", self.threads.to_string());
        [Some(threads), partitions].into_iter().flatten().filter(|(name, _)| !is_said(name)).collect()
    }
}

/// A node process.
pub struct Child {
    /// How it was started.
    pub plan: Plan,
    process_id: u32,
    /// Its end asks the node to stop.
    stdin: Option<ChildStdin>,
    kill: Option<oneshot::Sender<()>>,
    ready: watch::Receiver<bool>,
    status: watch::Receiver<Option<ExitStatus>>,
}

impl Child {
    /// Starts the process. It is killed when `tasks` are dropped with the runtime, and stops by itself when we die.
    /// It keeps to its share of the machine, unless the user says otherwise.
    pub fn spawn(plan: &Plan, share: Share, tasks: &Tasks) -> Result<Child, Failure> {
        let failed = |error| Failure::io(format!("starting {}", plan.name), &error);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(plan.arguments()).arg("--exit-with-parent").env_remove("HOURMARK_JOIN");
        if !plan.is_verbose && std::env::var_os("HOURMARK_LOG_FILTER").is_none() {
            command.env("HOURMARK_LOG_FILTER", FILTER_QUIET);
        }
        command.envs(share.variables(&plan.flags, |name| std::env::var_os(name)));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
        let process_id = process.id().expect("it has not been waited for");
        let stdin = process.stdin.take();
        let stderr = process.stderr.take().expect("stderr was asked for as a pipe");
        let (ready_sender, ready) = watch::channel(false);
        let (status_sender, status) = watch::channel(None);
        let (kill, killed) = oneshot::channel();
        let lines = tasks.spawn("node lines", relay(plan.name.clone(), stderr, ready_sender));
        tasks.spawn("node process", async move {
            let ended = tokio::select! {
                ended = process.wait() => ended,
                Ok(()) = killed => {
                    // It may have ended in this very moment.
                    let _ = process.start_kill();
                    process.wait().await
                }
            };
            // Its last words come before the news of its death.
            let _ = lines.await;
            status_sender.send_replace(Some(ended.unwrap_or_default()));
        });
        Ok(Child { plan: plan.clone(), process_id, stdin, kill: Some(kill), ready, status })
    }

    /// The operating system's number of the process.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Turns true when the node serves.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&self) -> bool {
        self.status.borrow().is_none()
    }

    /// Waits until the process has ended.
    pub async fn wait(&self) {
        // An error means that the task which waits for the process is gone, and the process with it.
        let _ = self.status.clone().wait_for(Option::is_some).await;
    }

    /// How the process ended; asked only after [`Child::wait`].
    pub fn ended(&self) -> ExitStatus {
        self.status.borrow().unwrap_or_default()
    }

    /// Asks the node to come to a good end.
    pub fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            // An error means that it has ended.
            let _ = kill.send(());
        }
    }
}

/// Passes a node's lines on with its name before them, and notes when it says that it serves.
async fn relay(name: String, stderr: ChildStderr, ready: watch::Sender<bool>) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        if line.starts_with("ready ") {
            ready.send_replace(true);
        }
        eprintln!("{name} | {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_that_outnumber_the_cores_become_one() {
        let share = |threads, partitions| Share { threads, partitions };
        assert_eq!(Share::of(2, 3), share(2, Some(1)));
        assert_eq!(Share::of(1, 2), share(2, Some(1)));
        assert_eq!(Share::of(3, 3), share(2, None));
        assert_eq!(Share::of(4, 9), share(2, None));
        assert_eq!(Share::of(12, 3), share(4, None));
        assert_eq!(Share::of(1, 1), share(2, None));
    }

    #[test]
    fn nothing_that_the_user_says_is_overruled() {
        let names = |flags: &[&str], said: &[(&str, &str)]| {
            let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let environment = |name: &str| said.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            let variables = Share::of(2, 3).variables(&flags, environment);
            variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        let (threads, partitions) = ("HOURMARK_THREADS=2", "HOURMARK_PARTITIONS=1");
        assert_eq!(names(&[], &[]), [threads, partitions]);
        assert_eq!(names(&[], &[("HOURMARK_THREADS", "1")]), [partitions]);
        assert_eq!(names(&[], &[("HOURMARK_PARTITIONS", "6")]), [threads]);
        assert_eq!(names(&[], &[("HOURMARK_PARTITIONS", "")]), [threads, partitions]);
        assert_eq!(names(&[], &[("HOURMARK_CONFIG", "h.toml")]), [threads]);
        assert_eq!(names(&["--config", "h.toml"], &[]), [threads]);
        assert_eq!(names(&["--config=h.toml"], &[]), [threads]);
    }
}
