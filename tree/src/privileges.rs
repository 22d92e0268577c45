//! What this process may do to files that are not its own.

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

/// Capabilities that matter for trees, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Owners and groups can be set.
    pub chown: bool,
    /// Permission bits do not stop it.
    pub override_permissions: bool,
    /// Device nodes can be made.
    pub make_devices: bool,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

impl Privileges {
    /// Those of this process.
    pub fn current() -> Self {
        // A kernel that does not tell is treated as one that grants nothing.
        let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
        Self {
            chown: effective.contains(CapabilitySet::CHOWN | CapabilitySet::FOWNER),
            override_permissions: effective
                .contains(CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER),
            make_devices: effective.contains(CapabilitySet::MKNOD),
            uid: Uid::as_raw(geteuid()),
            gid: Gid::as_raw(getegid()),
        }
    }
}
