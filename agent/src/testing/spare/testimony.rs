//! What is said of a snapshot beside its tree, as the spare in memory takes and tells it.

use understudy_protocol::message::Stated;
use understudy_protocol::{Message, version};

use super::{Spare, Upload};

impl Spare {
    pub(super) fn take_testimony(&mut self, message: Message, upload: &mut Upload) {
        let since = match &message {
            Message::Fuzzy(_) => version::FUZZY,
            Message::SourceRoot(_) => version::SOURCE_ROOT,
            Message::Owners(_) => version::OWNERS,
            _ => version::STATEMENTS,
        };
        assert!(self.speaks(since), "an older version does not know it");
        match message {
            Message::Fuzzy(fuzzy) => {
                for place in fuzzy.places {
                    assert!(upload.fuzzy.insert(place), "a place told to be fuzzy twice");
                }
            }
            Message::SourceRoot(_) => {
                assert!(upload.records.is_empty() && upload.fuzzy.is_empty());
            }
            Message::Owners(owners) => {
                self.owners = crate::chain::merged(&self.owners, &owners);
            }
            Message::Stated(stated) => {
                assert!(upload.stated.is_none(), "stated twice");
                upload.stated = Some(stated.statement);
            }
            other => unreachable!("{} is no testimony", other.name()),
        }
    }

    /// What was said of the newest snapshot.
    pub(super) fn said(&self) -> Option<Message> {
        let number = self.position?.number;
        let stated = self.stated.get(&number).filter(|_| self.newest.is_none())?;
        let statement = stated.clone();
        Some(Message::Stated(Stated { statement }))
    }
}
