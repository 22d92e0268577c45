//! A connection that can be cut after some frames, or be held up at one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use understudy_protocol::transport::{Channel, Incoming, Outgoing, in_process};

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// It is cut once so many frames have gone in one direction.
    Cut {
        way: Way,
        frames: u64,
    },
    /// It is held up there, until it is let go.
    Hold {
        way: Way,
        frames: u64,
    },
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToSpare,
    ToMain,
}

/// Both ends, and the wire between them.
pub(crate) struct Wire {
    pub(crate) main: Channel,
    pub(crate) spare: Channel,
    pub(crate) between: Between,
}

/// What is between both ends.
#[derive(Default)]
pub(crate) struct Between {
    threads: Vec<JoinHandle<()>>,
    /// Something comes, or nobody will send it any more, when a frame is held up or everything has gone.
    pub(crate) reached: Option<Receiver<()>>,
    /// Dropped to let go.
    pub(crate) hold: Option<Sender<()>>,
}

impl Between {
    /// Waits for its threads, once both ends are gone.
    pub(crate) fn end(&mut self) {
        self.hold = None;
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// A connection.
pub(crate) fn wire(trouble: Trouble) -> Wire {
    let (main, near) = in_process();
    if trouble == Trouble::None {
        return Wire {
            main,
            spare: near,
            between: Between::default(),
        };
    }
    let (far, spare) = in_process();
    let mut between = Between::default();
    let (told, reached) = channel();
    let (hold, held) = channel();
    (between.reached, between.hold) = (Some(reached), Some(hold));
    let held = Arc::new(Mutex::new(held));
    let ways = [
        (Way::ToSpare, near.incoming, far.outgoing),
        (Way::ToMain, far.incoming, near.outgoing),
    ];
    let struck = Arc::new(AtomicBool::new(false));
    for (way, incoming, outgoing) in ways {
        let relay = Relay {
            way,
            trouble,
            told: told.clone(),
            held: Arc::clone(&held),
            struck: Arc::clone(&struck),
        };
        let thread = std::thread::spawn(move || relay.run(incoming, &outgoing));
        between.threads.push(thread);
    }
    Wire {
        main,
        spare,
        between,
    }
}

struct Relay {
    way: Way,
    trouble: Trouble,
    told: Sender<()>,
    held: Arc<Mutex<Receiver<()>>>,
    struck: Arc<AtomicBool>,
}

impl Relay {
    fn run(self, mut incoming: Incoming, outgoing: &Outgoing) {
        let mut gone = 0;
        loop {
            // The other direction ends with this one, as a connection does.
            match incoming.receive_within(Duration::from_millis(5)) {
                Ok(None) if self.is_cut() => return,
                Ok(None) => continue,
                Ok(Some(_)) if self.is_cut() => return,
                Ok(Some(frame)) => {
                    if self.strikes(gone) {
                        return;
                    }
                    gone += 1;
                    if outgoing.send(frame).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn is_cut(&self) -> bool {
        matches!(self.trouble, Trouble::Cut { .. }) && self.struck.load(Ordering::SeqCst)
    }

    /// Cuts or holds up, if this is the frame; whether it is cut.
    fn strikes(&self, gone: u64) -> bool {
        match self.trouble {
            Trouble::Cut { way, frames } if way == self.way && gone == frames => {
                self.struck.store(true, Ordering::SeqCst);
                true
            }
            Trouble::Hold { way, frames } if way == self.way && gone == frames => {
                self.struck.store(true, Ordering::SeqCst);
                let _ = self.told.send(());
                // Ends when the other side lets go.
                let _ = self.held.lock().unwrap().recv();
                false
            }
            _ => false,
        }
    }
}
