//! What this process may do to files that are not its own, and what it is to make of them.

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

/// What becomes of set-user-id and set-group-id bits of files, of file capabilities and of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Specials {
    /// They are made like everything else.
    #[default]
    Materialise,
    /// They are only recorded: whoever can enter the tree gains nothing by it.
    Record,
}

/// Capabilities that matter for trees, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Owners and groups can be set.
    pub chown: bool,
    /// Permission bits do not stop it.
    pub override_permissions: bool,
    /// Device nodes can be made.
    pub make_devices: bool,
    /// Attributes in `trusted.`, and those in `security.` that no module of the kernel cares for, can be read and set.
    pub trusted: bool,
    /// What gives rights, or stands for a device, is made.
    pub specials: Specials,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Permission bits that new files do not get.
    pub umask: u16,
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
            trusted: effective.contains(CapabilitySet::SYS_ADMIN),
            specials: Specials::Materialise,
            uid: Uid::as_raw(geteuid()),
            gid: Gid::as_raw(getegid()),
            umask: umask(),
        }
    }

    /// The same for a tree whose specials are treated like this.
    #[must_use]
    pub fn with(self, specials: Specials) -> Self {
        Self {
            make_devices: self.make_devices && specials == Specials::Materialise,
            specials,
            ..self
        }
    }
}

/// The file creation mask, which only a call that changes it returns. Where the kernel does not tell, no bit can be
/// relied on.
fn umask() -> u16 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    told.and_then(|octal| u16::from_str_radix(octal.trim(), 8).ok())
        .unwrap_or(0o777)
}
