//! First syncs that are interrupted again and again: each goes on where the one before was.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::needs::needs;
use crate::support::proxy::Proxy;
use crate::support::{Kind, Random, Stage, full, judge};

/// What may be sent again for one interruption: what was on its way, and the records of the files that are left over.
const LOST_BYTES: u64 = 16 << 20;

/// How an upload is interrupted.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `kill -9` of the receiver.
    Receiver,
    /// `kill -9` of the agent.
    Agent,
    /// The connection goes, and both sides live on.
    Connection,
}

/// A stage whose agent reaches its receiver through a proxy.
struct Play {
    stage: Stage,
    proxy: Proxy,
    receiver: String,
    /// Bytes that all runs together have sent.
    sent: u64,
}

impl Play {
    /// With some thousand small files and one large one, none of which can be compressed; returns their bytes too.
    fn new(large: usize) -> (Self, u64) {
        let stage = Stage::new(Kind::Tcp);
        let mut random = Random::new(151);
        let mut total = large;
        for number in 0..4000 {
            let directory = stage.source.join(format!("d{}", number % 60));
            std::fs::create_dir_all(&directory).unwrap();
            let length = random.index(12_000);
            let file = directory.join(format!("f{number}"));
            std::fs::write(file, random.noise(length)).unwrap();
            total += length;
        }
        std::fs::write(stage.source.join("large"), random.noise(large)).unwrap();
        let receiver = stage.spare();
        let mut play = Self {
            proxy: Proxy::to(&receiver),
            receiver,
            stage,
            sent: 0,
        };
        play.hide();
        (play, total as u64)
    }

    /// Has the agent use the proxy.
    fn hide(&mut self) {
        let daemon = self.stage.daemon.as_mut().unwrap();
        daemon.address.clone_from(&self.proxy.address);
    }

    /// A run that is interrupted once it has sent about `after` bytes; whether it was.
    fn interrupt(&mut self, way: Way, after: u64) -> bool {
        let cut = match way {
            Way::Connection => after,
            _ => u64::MAX,
        };
        self.proxy.cut_after(cut, u64::MAX);
        let mut agent = self.stage.sync().spawn(Stdio::null(), Stdio::null());
        let code = if matches!(way, Way::Connection) {
            agent.wait().unwrap().code()
        } else if self.await_sent(&mut agent, after) {
            self.kill(way, &mut agent)
        } else {
            agent.wait().unwrap().code()
        };
        self.sent += match way {
            Way::Connection => after.min(self.passed()),
            _ => self.passed(),
        };
        code != Some(0)
    }

    fn kill(&mut self, way: Way, agent: &mut Child) -> Option<i32> {
        match way {
            Way::Agent => agent.kill().unwrap(),
            _ => {
                self.stage
                    .daemon
                    .as_mut()
                    .unwrap()
                    .address
                    .clone_from(&self.receiver);
                self.stage.restart(None);
                self.hide();
            }
        }
        agent.wait().unwrap().code()
    }

    /// Waits until so much was sent; `false` if the agent ended before.
    fn await_sent(&self, agent: &mut Child, bytes: u64) -> bool {
        while agent.try_wait().unwrap().is_none() {
            if self.passed() >= bytes {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    fn passed(&self) -> u64 {
        self.proxy.passed().0
    }

    /// The last run, which must succeed; returns its report.
    fn finish(&mut self) -> serde_json::Value {
        self.proxy.cut_after(u64::MAX, u64::MAX);
        let outcome = self.stage.sync_soon();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        self.sent += self.passed();
        judge::same(&self.stage.source, &self.stage.live());
        outcome.data()
    }

    fn leftovers(&self) -> PathBuf {
        self.stage.dataset().join(".understudy/leftovers")
    }
}

#[test]
fn interrupted_first_syncs_go_on_where_they_were() {
    needs!("interrupted_first_syncs_go_on_where_they_were": "rsync");
    let ways = [Way::Receiver, Way::Agent, Way::Connection];
    for way in ways {
        let (mut play, total) = Play::new(80 << 20);
        let mut interruptions = 0;
        for part in [1, 3, 5, 6] {
            // A later run gets as far as the former one with little traffic.
            let after = (total * part / 8).saturating_sub(play.sent).max(1 << 20);
            interruptions += u64::from(play.interrupt(way, after));
        }
        assert!(interruptions >= 3, "{way:?}: {interruptions}");
        assert!(play.leftovers().exists());
        let report = play.finish();
        let resumed = report["bytes_resumed"].as_u64().unwrap();
        assert!(resumed > total / 2, "{way:?}: {report}");
        assert_eq!(report["leftovers_refused"], 0, "{report}");
        let most = total + total / 20 + interruptions * LOST_BYTES;
        assert!(play.sent <= most, "{way:?}: {} of {total}", play.sent);
        assert!(!play.leftovers().exists());
        play.stage.ask("verify").ok();
    }
}

#[test]
fn twenty_interruptions_at_random_moments() {
    needs!("twenty_interruptions_at_random_moments": "rsync");
    if !full() {
        return;
    }
    let (mut play, total) = Play::new(800 << 20);
    let mut random = Random::new(152);
    let mut interruptions = 0;
    for _ in 0..20 {
        let way = *random.pick(&[Way::Receiver, Way::Agent, Way::Connection]);
        let left = total.saturating_sub(play.sent).max(8 << 20);
        interruptions += u64::from(play.interrupt(way, random.below(left)));
    }
    let report = play.finish();
    assert_eq!(report["leftovers_refused"], 0, "{report}");
    let again = play.sent.saturating_sub(total);
    println!("{interruptions} interruptions: {again} bytes of {total} were sent again");
    assert!(again <= interruptions * LOST_BYTES, "{again}: {report}");
    play.stage.ask("verify").ok();
}

#[test]
fn a_summary_tells_what_was_not_sent_again() {
    let (mut play, _) = Play::new(8 << 20);
    assert!(play.interrupt(Way::Connection, 12 << 20));
    play.proxy.cut_after(u64::MAX, u64::MAX);
    let outcome = play.stage.soon(&play.stage.sync());
    assert_eq!(outcome.code, Some(0), "{outcome}");
    outcome.mentions(&["resumed", "of an interrupted upload"]);
}
