//! Which tree shows the newest snapshot. An application writes into `live` of a dataset of which this host is not the spare: there the
//! shadow stays as it was when this host was promoted, and whoever reads the newest snapshot reads it.

use understudy_protocol::Role;
use understudy_tree::Directory;

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::{marker, names};

impl Dataset {
    /// Whether understudy alone changes the live tree.
    pub(crate) fn is_spare(&self) -> Result<bool, ReceiverError> {
        Ok(self.standing()?.role == Role::Spare)
    }

    /// The tree that shows the newest snapshot; `None` if there is none. Every reader of that snapshot's files takes it from here.
    ///
    /// Of a dataset of which this host is not the spare that is the shadow, unless `live` shows a later one: then it was absorbed, and only the
    /// role is still to be written. If nobody can tell which part this host plays, the shadow cannot be wrong where both show the same.
    pub(crate) fn newest(&self) -> Result<Option<Directory>, ReceiverError> {
        match self.is_spare() {
            Ok(true) => return self.live(),
            Ok(false) | Err(ReceiverError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let shows = |tree: &Option<Directory>| -> Result<Option<u64>, ReceiverError> {
            let position = tree.as_ref().map(marker::read).transpose()?.flatten();
            Ok(position.map(|position| position.number))
        };
        let (live, shadow) = (self.live()?, self.shadow_if_present()?);
        let is_shadow = shows(&shadow)? >= shows(&live)?;
        Ok(if is_shadow { shadow } else { live })
    }

    fn shadow_if_present(&self) -> Result<Option<Directory>, ReceiverError> {
        match self.control.open_directory(&names::SHADOW) {
            Ok(shadow) => Ok(Some(shadow)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses to change the twins of a dataset of which this host is not the spare.
    pub(crate) fn must_not_be_frozen(&self) -> Result<(), ReceiverError> {
        let standing = self.standing()?;
        let (name, epoch) = (&self.name, standing.epoch);
        let who = match standing.role {
            Role::Spare => return Ok(()),
            Role::Main => "is the main",
            Role::HandedOver => "was the main, and has handed over,",
            Role::Fenced => "was the main",
        };
        Err(ReceiverError::Fenced(format!(
            "this host {who} of dataset `{name}` in epoch {epoch}: an application writes into its live tree, and understudy changes \
             neither that nor the promoted snapshot until `understudy demote {name}` has made it the spare again"
        )))
    }
}
