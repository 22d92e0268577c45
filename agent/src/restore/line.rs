//! The connection of a restore, made again when it is cut.

use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::transport::Channel;
use understudy_protocol::{FailureCode, ProtocolError};

use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::{Cancel, Context, Progress};

/// How long to wait before each try to connect again. They begin anew whenever something has come.
const PAUSES_MILLISECONDS: [u64; 8] = [200, 1000, 2000, 5000, 10_000, 20_000, 30_000, 60_000];

/// Makes another connection, if there is a way to.
pub type Reconnect<'a> = Option<&'a mut (dyn FnMut() -> Result<Channel, ProtocolError> + 'a)>;

/// A connection that may be made again.
pub(super) struct Line<'a> {
    conversation: Conversation,
    reconnect: Reconnect<'a>,
    progress: Arc<Progress>,
    cancel: Cancel,
    /// Tries in a row.
    tries: usize,
    /// What had come when it was cut last.
    before: (u64, u64),
}

impl<'a> Line<'a> {
    /// Greets the spare.
    pub(super) fn open(
        channel: Channel,
        reconnect: Reconnect<'a>,
        context: &Context,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            conversation: Conversation::open(channel, &context.cancel)?,
            reconnect,
            progress: Arc::clone(&context.progress),
            cancel: context.cancel.clone(),
            tries: 0,
            before: (0, 0),
        })
    }

    /// The version of the protocol that is spoken.
    pub(super) fn version(&self) -> u32 {
        self.conversation.version
    }

    /// The connection as it is now.
    pub(super) fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Does something without which it goes on as well: if the connection is cut, whoever needs it next finds out.
    pub(super) fn attempt(&self, attempt: impl FnOnce(&Conversation) -> Result<(), AgentError>) {
        if let Err(error) = attempt(&self.conversation) {
            tracing::debug!("the spare is not told how far the restore is: {error}");
        }
    }

    /// Does something that needs the connection, again if that is cut; `attempt` must be able to carry on.
    pub(super) fn persist<T>(
        &mut self,
        mut attempt: impl FnMut(&Conversation) -> Result<T, AgentError>,
    ) -> Result<T, AgentError> {
        loop {
            let error = match attempt(&self.conversation) {
                Ok(value) => return Ok(value),
                Err(error) => self.conversation.explain(error),
            };
            if !is_cut(&error) {
                return Err(error);
            }
            self.connect_again(error)?;
        }
    }

    fn connect_again(&mut self, error: AgentError) -> Result<(), AgentError> {
        let Some(reconnect) = &mut self.reconnect else {
            return Err(error);
        };
        let progress = &self.progress;
        let came = (progress.files_done(), progress.bytes_done());
        if came != self.before {
            self.tries = 0;
            self.before = came;
        }
        let version = self.conversation.version;
        while let Some(&pause) = PAUSES_MILLISECONDS.get(self.tries) {
            self.tries += 1;
            let pause = Duration::from_millis(pause);
            tracing::warn!("{error}; connecting again in {} s", pause.as_secs_f64());
            self.cancel.wait(pause)?;
            let opened = reconnect()
                .map_err(AgentError::from)
                .and_then(|channel| Conversation::open(channel, &self.cancel));
            match opened {
                // What is under way may need what this version has.
                Ok(conversation) if conversation.version >= version => {
                    self.conversation = conversation;
                    return Ok(());
                }
                Ok(_) => return Err(error),
                Err(failed) if is_cut(&failed) => {}
                Err(failed) => return Err(failed),
            }
        }
        Err(error)
    }
}

/// Whether another connection may do better.
fn is_cut(error: &AgentError) -> bool {
    match error {
        AgentError::Spare(ProtocolError::Failed(failure)) => {
            failure.code == FailureCode::Interrupted
        }
        AgentError::Spare(error) => error.is_away(),
        _ => false,
    }
}
