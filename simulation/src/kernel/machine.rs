//! A machine: a host of turmoil and the process on it, which can be started, stopped and paused.

use super::SharedNetwork;
use futures::FutureExt;
use std::cell::RefCell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;

/// What a machine runs. It should not end.
pub type Software = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// How a process ended.
pub type Ended = Result<(), String>;

/// A machine and the process on it, if one runs.
pub struct Machine {
    network: SharedNetwork,
    name: String,
    is_on: bool,
    is_known: bool,
    life: Rc<Life>,
}

/// What the machine and what runs on it tell each other.
#[derive(Default)]
struct Life {
    begin: RefCell<Option<Box<dyn FnOnce() -> Software>>>,
    ended: RefCell<Option<Ended>>,
}

impl Machine {
    /// A machine that is off.
    pub fn new(network: &SharedNetwork, name: &str) -> Machine {
        Machine { network: network.clone(), name: name.to_owned(), is_on: false, is_known: false, life: Rc::default() }
    }

    /// Whether a process runs (or is paused).
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Starts a process; `software` is called on the machine.
    pub fn start(&mut self, software: impl FnOnce() -> Software + 'static) {
        self.stop();
        self.life.begin.replace(Some(Box::new(software)));
        if self.is_known {
            self.network.bounce(&self.name);
        } else {
            let life = self.life.clone();
            self.network.add_host(&self.name, move || live(life.clone()));
        }
        (self.is_on, self.is_known) = (true, true);
    }

    /// Ends the process where it stands; its memory is gone, and its connections are closed as far as the network carries it.
    pub fn stop(&mut self) {
        if std::mem::take(&mut self.is_on) {
            self.network.crash(&self.name);
        }
        self.network.release(&self.name);
        self.life.ended.take();
    }

    /// Holds all that the machine sends and receives. turmoil cannot keep a host from running: its timers go on.
    pub fn pause(&mut self) {
        self.network.hold(&self.name);
    }

    /// Lets what was held arrive.
    pub fn resume(&mut self) {
        self.network.release(&self.name);
    }

    /// How the process ended, if it did by itself since this was asked last.
    pub fn take_ended(&mut self) -> Option<Ended> {
        let ended = self.life.ended.take()?;
        self.stop();
        Some(ended)
    }
}

/// One life of a machine. It does not end, as an error would end the simulation and tasks would live on: the machine is
/// stopped once it has seen how the process ended.
async fn live(life: Rc<Life>) -> turmoil::Result {
    let begin = life.begin.take();
    if let Some(begin) = begin {
        let process = AssertUnwindSafe(async move { begin().await });
        let ended = process.catch_unwind().await.unwrap_or_else(|_| Err("panicked".to_owned()));
        life.ended.replace(Some(ended));
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::super::{Quality, time};
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use turmoil::net::{TcpListener, TcpStream};

    const QUALITY: Quality = Quality { latency_ms: (1, 2), loss_permille: 0 };

    type Seen = Rc<RefCell<Vec<String>>>;

    fn run(network: &SharedNetwork, until_ms: u64) {
        while time::now() < Duration::from_millis(until_ms) {
            network.step().expect("no client fails");
        }
    }

    /// A machine that notes what it is told, and one that tells it something every 100 ms.
    fn pair() -> (SharedNetwork, Machine, Machine, Seen) {
        let network = SharedNetwork::new(1, QUALITY);
        let (mut ear, mut mouth) = (Machine::new(&network, "ear"), Machine::new(&network, "mouth"));
        let seen = Seen::default();
        listen(&mut ear, &seen);
        let noted = seen.clone();
        mouth.start(move || {
            Box::pin(async move {
                let mut stream = TcpStream::connect("ear:80").await.map_err(|error| error.to_string())?;
                while stream.write_all(b"!").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                noted.borrow_mut().push("broken".to_owned());
                Err("the other is gone".to_owned())
            })
        });
        (network, ear, mouth, seen)
    }

    fn listen(ear: &mut Machine, seen: &Seen) {
        let noted = seen.clone();
        ear.start(move || {
            Box::pin(async move {
                let listener = TcpListener::bind("0.0.0.0:80").await.map_err(|error| error.to_string())?;
                loop {
                    let (mut stream, _) = listener.accept().await.map_err(|error| error.to_string())?;
                    while stream.read_u8().await.is_ok() {
                        noted.borrow_mut().push(format!("{}", time::now().as_millis() / 100));
                    }
                }
            })
        });
    }

    #[test]
    fn a_paused_machine_hears_late_what_was_said_meanwhile() {
        let (network, mut ear, _mouth, seen) = pair();
        run(&network, 200);
        ear.pause();
        run(&network, 1000);
        let before = seen.borrow().len();
        ear.resume();
        run(&network, 1050);
        assert!(before <= 3 && seen.borrow().len() >= 10, "{seen:?}");
    }

    #[test]
    fn a_killed_process_closes_its_connections_and_a_machine_without_power_does_not() {
        for has_power in [true, false] {
            let (network, mut ear, mut mouth, seen) = pair();
            run(&network, 200);
            if !has_power {
                network.power_off("ear");
            }
            ear.stop();
            run(&network, 1000);
            assert!(!seen.borrow().contains(&"broken".to_owned()), "nothing answers while it is down: {seen:?}");
            network.power_on("ear");
            listen(&mut ear, &seen);
            run(&network, 2000);
            assert!(seen.borrow().contains(&"broken".to_owned()), "reset once it is up again: {seen:?}");
            assert_eq!(mouth.take_ended(), Some(Err("the other is gone".to_owned())));
            assert!(!mouth.is_on());
        }
    }

    #[test]
    fn a_way_is_open_when_every_cut_is_mended() {
        let (network, _ear, _mouth, seen) = pair();
        run(&network, 200);
        network.cut("ear", "mouth");
        network.cut("ear", "mouth");
        network.mend("ear", "mouth");
        let before = seen.borrow().len();
        run(&network, 1000);
        assert!(seen.borrow().len() > before, "the other direction is open: {seen:?}");
        network.cut("mouth", "ear");
        let before = seen.borrow().len();
        run(&network, 2000);
        assert_eq!(seen.borrow().len(), before, "nothing passes");
    }
}
