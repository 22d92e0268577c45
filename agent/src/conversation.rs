//! Talking with the spare: messages out, answers in, and the reason when it hangs up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use understudy_protocol::transport::{Channel, Incoming, Outgoing};
use understudy_protocol::{Failure, FailureCode, Message, ProtocolError, limits};

use crate::Cancel;
use crate::clock::Moment;
use crate::effort::{Effort, Tuning};
use crate::error::AgentError;

/// Decoded answers waiting to be taken.
const ANSWERS: usize = 4;
/// How soon a wait notices that somebody asked for the end.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a spare may work without a word before it is taken for dead: more than any commit takes.
const SILENCE: Duration = Duration::from_secs(60 * 60);
/// How long a spare that hung up may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A greeted connection. Answers are received and decoded by a thread of its own, which ends with the connection.
pub(crate) struct Conversation {
    /// The version of the protocol that is spoken.
    pub(crate) version: u32,
    /// For sending; clones go to the workers.
    pub(crate) outgoing: Outgoing,
    /// How the time of those who send is spent; the level of compression follows it.
    pub(crate) effort: Arc<Effort>,
    answers: Receiver<Result<Message, ProtocolError>>,
    cancel: Cancel,
}

impl Conversation {
    /// Greets the spare.
    pub(crate) fn open(mut channel: Channel, cancel: &Cancel) -> Result<Self, AgentError> {
        let version = channel.greet()?;
        let Channel {
            outgoing,
            mut incoming,
        } = channel;
        let effort = Arc::<Effort>::default();
        let (sender, answers) = sync_channel(ANSWERS);
        // Not the sending half itself, which would keep the connection open.
        let mut tuning = Tuning::new(outgoing.lanes().cloned(), Arc::clone(&effort));
        thread::Builder::new()
            .name("answers".to_owned())
            .spawn(move || {
                receive(&mut incoming, &mut tuning, |answer| {
                    sender.send(answer).is_ok()
                });
            })
            .map_err(ProtocolError::Io)?;
        Ok(Self {
            version,
            outgoing,
            effort,
            answers,
            cancel: cancel.clone(),
        })
    }

    /// Sends a message.
    pub(crate) fn tell(&self, message: &Message) -> Result<(), AgentError> {
        self.outgoing
            .send_message(message)
            .map_err(|error| self.explain(error.into()))
    }

    /// Sends a message that may as well be left out, unless the spare is busy or gone; whether it was sent. Never blocks.
    pub(crate) fn offer(&self, message: &Message) -> Result<bool, AgentError> {
        Ok(self.outgoing.offer(message)?)
    }

    /// Waits for the next answer.
    pub(crate) fn hear(&self) -> Result<Message, AgentError> {
        let began = Moment::now();
        loop {
            self.cancel.check()?;
            match self.answers.recv_timeout(PATIENCE) {
                Ok(answer) => return Ok(answer?),
                Err(RecvTimeoutError::Timeout) if began.elapsed() >= SILENCE => {
                    tracing::warn!(
                        "the spare said nothing for {} minutes",
                        SILENCE.as_secs() / 60
                    );
                    return Err(ProtocolError::Cut.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(ProtocolError::Cut.into()),
            }
        }
    }

    /// Tells the spare why this side gives up, as far as it is this side's reason.
    pub(crate) fn give_up(&self, error: &AgentError) {
        let code = match error {
            AgentError::Spare(_) | AgentError::OutOfStep { .. } | AgentError::Interrupted => return,
            AgentError::BecameEmpty { .. } => FailureCode::Refused,
            _ => FailureCode::Internal,
        };
        // The connection may be what failed.
        let _ = self
            .outgoing
            .send_message(&Message::Failure(Failure::new(code, told(error))));
    }

    /// Puts the spare's own words, or what became of the program that carried them, in the place of "the connection was cut".
    pub(crate) fn explain(&self, error: AgentError) -> AgentError {
        if !matches!(error, AgentError::Spare(ProtocolError::Cut)) {
            return error;
        }
        while let Ok(answer) = self.answers.recv_timeout(LAST_WORDS) {
            if let Err(failed @ (ProtocolError::Failed(_) | ProtocolError::Carrier(_))) = answer {
                return failed.into();
            }
        }
        error
    }
}

/// The error as the spare may hear it.
pub(crate) fn told(error: &AgentError) -> String {
    let mut text = error.to_string();
    while text.len() > limits::TEXT_BYTES {
        text.pop();
    }
    text
}

/// An answer that does not belong here.
pub(crate) fn unexpected(got: &Message, wanted: &'static str) -> AgentError {
    ProtocolError::Unexpected {
        got: got.name(),
        wanted,
    }
    .into()
}

/// Gives answers on until the connection ends. What the spare tells of its waiting is no answer: nobody takes answers
/// while the source is read, and it must not stand in the way of a failure.
fn receive(
    incoming: &mut Incoming,
    tuning: &mut Tuning,
    give: impl Fn(Result<Message, ProtocolError>) -> bool,
) {
    loop {
        let answer = incoming.receive_message();
        if let Ok(Message::Waited(waited)) = &answer
            && tuning.hear(waited)
        {
            continue;
        }
        let is_last = answer.is_err();
        if !give(answer) || is_last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use understudy_protocol::lane::SendingLanes;
    use understudy_protocol::message::Waited;
    use understudy_protocol::transport::in_process;

    use super::*;

    fn heard(tuning: &mut Tuning) -> Vec<Result<Message, ProtocolError>> {
        let (mut ours, theirs) = in_process();
        let waited = Message::Waited(Waited {
            milliseconds: 1,
            of_milliseconds: 2,
        });
        // More than the connection holds.
        std::thread::spawn(move || {
            for _ in 0..2 * ANSWERS {
                theirs.outgoing.send_message(&waited).expect("send");
            }
            let failure = Message::Failure(Failure::new(FailureCode::NoSpace, "full"));
            theirs.outgoing.send_message(&failure).expect("send");
        });
        let answers = Mutex::default();
        receive(&mut ours.incoming, tuning, |answer| {
            let mut answers = answers.lock().expect("answers");
            Vec::push(&mut answers, answer);
            true
        });
        answers.into_inner().expect("answers")
    }

    #[test]
    fn what_the_spare_tells_of_its_waiting_is_in_nobodys_way() {
        let mut tuning = Tuning::new(Some(SendingLanes::default()), Arc::default());
        let heard = heard(&mut tuning);
        assert!(
            matches!(heard.as_slice(), [Err(ProtocolError::Failed(_))]),
            "{heard:?}"
        );
    }

    #[test]
    fn where_it_changes_nothing_it_is_not_expected() {
        let heard = heard(&mut Tuning::new(None, Arc::default()));
        assert!(matches!(heard.first(), Some(Ok(Message::Waited(_)))));
    }
}
