//! What this process may still do: it confines itself once, before it starts threads, and nothing that runs in it
//! later can take that back. Landlock keeps it to some directories and one port, dropped capabilities to some powers, and a filter
//! of system calls (seccomp) from what Landlock does not see.

mod calls;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::error::{Context, TreeError};

/// Rights that were looked at and tested: those of Linux 6.12. Newer kernels know more, older ones fewer.
const KNOWN: ABI = ABI::V6;
/// Written to by everybody, and kept by nobody.
const NOWHERE: &str = "/dev/null";
/// Where programs ask people for a secret.
const TERMINAL: &str = "/dev/tty";

/// What may be read.
#[derive(Debug, Clone, Copy)]
pub enum Reading<'a> {
    /// Whatever the user may read.
    Everything,
    /// These, what is below them, and what may be written. What is not there is passed over.
    Below(&'a [PathBuf]),
}

/// Which connections there may be, of any kind. Who makes none starts no program either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Any.
    Any,
    /// Those that come in on this TCP port; none is made. 0 stands for the ports that the system picks.
    Listen(u16),
    /// None that is made or listened for; those that are open stay.
    Closed,
}

/// What a process may do.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// Nothing outside these, which must exist, is written, made or removed.
    pub write: &'a [PathBuf],
    /// What may be read.
    pub read: Reading<'a>,
    /// Which connections there may be.
    pub network: Network,
    /// The powers that it keeps, if it has them.
    pub keep: CapabilitySet,
}

/// How much of it the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Of the places and the port (Landlock).
    pub places: Enforced,
    /// Whether calls that are never needed are refused (seccomp).
    pub calls: bool,
}

/// How much the kernel enforces of what Landlock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    /// All.
    Fully,
    /// An older kernel: some ways to write, or the network, are not covered.
    Partly,
    /// Landlock is not there, or cannot allow renames between directories (before Linux 5.19). Capabilities are dropped
    /// all the same.
    Not,
}

/// The capabilities that a spare's files want: owners, modes, file capabilities and devices as on the main, trusted
/// attributes where that is given, and leases to see who has a file open.
pub const FOR_A_SPARE: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN);

/// The capabilities that reading a main wants: every file, whole file systems watched and trusted attributes where that is given, and a
/// priority that may rise again.
pub const FOR_A_MAIN: CapabilitySet = CapabilitySet::DAC_READ_SEARCH
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_NICE);

/// Confines the calling thread and all that it starts from now on. Call it before there are other threads: they are not
/// confined. What this process starts is confined too, and gains nothing by set-user-id bits.
pub fn confine(bounds: &Bounds<'_>) -> Result<Confined, TreeError> {
    for path in bounds.write {
        std::fs::metadata(path).context("look at", path.as_os_str().as_bytes())?;
    }
    set_no_new_privs(true).context("give up new privileges of", b"this process")?;
    let status = restrict(bounds).map_err(|error| refused(&error))?;
    let places = match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Fully,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    };
    keep_only(bounds.keep)?;
    let calls = calls::refuse(bounds.network).map_err(|error| refused(&error))?;
    Ok(Confined { places, calls })
}

/// How much of it this kernel would enforce: a thread that does nothing else tries it.
pub fn trial() -> Result<Confined, TreeError> {
    let bounds = Bounds {
        write: &[],
        read: Reading::Below(&[]),
        network: Network::Closed,
        keep: CapabilitySet::empty(),
    };
    std::thread::scope(|scope| {
        let tried = scope.spawn(|| confine(&bounds)).join();
        tried.unwrap_or_else(|_| Err(refused(&"the thread that tries it has ended")))
    })
}

fn refused(error: &dyn std::fmt::Display) -> TreeError {
    TreeError::new(
        "confine",
        b"this process",
        std::io::Error::other(error.to_string()),
    )
}

fn restrict(bounds: &Bounds<'_>) -> Result<RestrictionStatus, RulesetError> {
    let handled = match bounds.read {
        Reading::Everything => AccessFs::from_write(KNOWN),
        Reading::Below(_) => AccessFs::from_all(KNOWN),
    };
    // Without this right no file could move from one directory to another: then rather no Landlock.
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?;
    let ruleset = match bounds.network {
        Network::Any => ruleset,
        Network::Listen(_) | Network::Closed => ruleset
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?,
    };
    let mut ruleset = ruleset.create()?;
    for path in bounds.write {
        ruleset = allow(ruleset, path, handled & !AccessFs::Execute)?;
    }
    let device = handled & (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev);
    ruleset = allow(ruleset, Path::new(NOWHERE), device | AccessFs::Truncate)?;
    match bounds.read {
        Reading::Everything => ruleset = allow(ruleset, Path::new(TERMINAL), device)?,
        Reading::Below(paths) => {
            for path in paths {
                ruleset = allow(ruleset, path, AccessFs::ReadFile | AccessFs::ReadDir)?;
            }
        }
    }
    if let Network::Listen(port) = bounds.network {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
    }
    ruleset.restrict_self()
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else {
        // What is not there cannot be allowed, and is not missed.
        return Ok(ruleset);
    };
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(KNOWN)
    };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

/// Gives up every other capability, for ever.
fn keep_only(keep: CapabilitySet) -> Result<(), TreeError> {
    let sets = capabilities(None).context("read the capabilities of", b"this process")?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(keep).iter() {
            if !capability_is_in_bounding_set(capability).unwrap_or(false) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // The kernel has none of this number.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => {
                    return Err(TreeError::new(
                        "drop capabilities of",
                        b"this process",
                        error,
                    ));
                }
            }
        }
    }
    let wanted = CapabilitySets {
        effective: sets.effective & keep,
        permitted: sets.permitted & keep,
        inheritable: sets.inheritable & keep,
    };
    if wanted == sets {
        return Ok(());
    }
    set_capabilities(None, wanted).context("drop capabilities of", b"this process")
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tries what a confined thread may do, by any means"
)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Runs `act` on a thread that confines itself first; `None` where the kernel cannot.
    fn confined<T: Send>(bounds: &Bounds<'_>, act: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| match confine(bounds).expect("confine").places {
                Enforced::Fully => Some(act()),
                Enforced::Partly | Enforced::Not => {
                    assert!(
                        std::env::var_os("CI").is_none_or(|value| value != "true"),
                        "this kernel cannot confine"
                    );
                    eprintln!("skipped: this kernel cannot confine");
                    None
                }
            });
            thread.join().expect("thread")
        })
    }

    fn is_refused<T>(result: std::io::Result<T>) -> bool {
        result.is_err_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::CrossesDevices
            )
        })
    }

    #[test]
    fn nothing_is_written_or_read_outside() {
        let scratch = tempfile::tempdir().expect("scratch");
        let (inside, outside) = (
            scratch.path().join("inside"),
            scratch.path().join("outside"),
        );
        for place in [&inside, &outside] {
            fs::create_dir(place).expect("directory");
            fs::create_dir(place.join("deep")).expect("directory");
            fs::write(place.join("file"), "content").expect("file");
        }
        let bounds = Bounds {
            write: std::slice::from_ref(&inside),
            read: Reading::Below(&["/proc".into(), "/no/such/place".into()]),
            network: Network::Closed,
            keep: FOR_A_SPARE,
        };
        let tried = confined(&bounds, || {
            fs::write(inside.join("new"), "x").expect("write inside");
            fs::rename(inside.join("file"), inside.join("deep/file")).expect("move inside");
            fs::hard_link(inside.join("deep/file"), inside.join("link")).expect("link inside");
            fs::read("/proc/self/status").expect("read what is allowed");
            fs::write(NOWHERE, "x").expect("write to nowhere");
            let (ours, theirs) = (inside.join("new"), outside.join("file"));
            for (what, is_refused) in [
                ("read", is_refused(fs::read(&theirs))),
                ("list", is_refused(fs::read_dir(&outside))),
                ("write", is_refused(fs::write(&theirs, "x"))),
                ("make", is_refused(fs::write(outside.join("new"), "x"))),
                ("remove", is_refused(fs::remove_file(&theirs))),
                (
                    "move out",
                    is_refused(fs::rename(&ours, outside.join("new"))),
                ),
                (
                    "move in",
                    is_refused(fs::rename(&theirs, inside.join("theirs"))),
                ),
                (
                    "link",
                    is_refused(fs::hard_link(&theirs, inside.join("theirs"))),
                ),
                (
                    "run",
                    is_refused(std::process::Command::new("/bin/true").status()),
                ),
            ] {
                assert!(is_refused, "{what} is allowed");
            }
        });
        if tried.is_some() {
            assert_eq!(fs::read(outside.join("file")).expect("file"), b"content");
        }
    }

    #[test]
    fn who_may_read_everything_writes_nowhere_else() {
        let scratch = tempfile::tempdir().expect("scratch");
        let inside = scratch.path().join("inside");
        fs::create_dir(&inside).expect("directory");
        fs::write(scratch.path().join("file"), "content").expect("file");
        let bounds = Bounds {
            write: std::slice::from_ref(&inside),
            read: Reading::Everything,
            network: Network::Any,
            keep: FOR_A_MAIN,
        };
        confined(&bounds, || {
            fs::read(scratch.path().join("file")).expect("read");
            fs::write(inside.join("new"), "x").expect("write inside");
            assert!(is_refused(fs::write(scratch.path().join("file"), "x")));
            assert!(is_refused(fs::create_dir(scratch.path().join("new"))));
        });
    }

    #[test]
    fn one_port_is_listened_on_and_none_is_called() {
        let elsewhere = TcpListener::bind("127.0.0.1:0").expect("listen");
        let bounds = |network| Bounds {
            write: &[],
            read: Reading::Everything,
            network,
            keep: CapabilitySet::empty(),
        };
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port")
            .port();
        confined(&bounds(Network::Listen(port)), || {
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen");
            assert!(is_refused(TcpListener::bind("127.0.0.1:0")), "another port");
            assert!(is_refused(TcpStream::connect(
                elsewhere.local_addr().expect("address")
            )));
            drop(listener);
        });
        confined(&bounds(Network::Closed), || {
            assert!(is_refused(TcpListener::bind(("127.0.0.1", port))));
        });
    }

    #[test]
    fn capabilities_that_are_not_needed_go_for_ever() {
        let before = capabilities(None).expect("capabilities");
        let keep = CapabilitySet::CHOWN | CapabilitySet::FOWNER;
        let after = std::thread::spawn(move || {
            keep_only(keep).expect("drop");
            keep_only(keep).expect("once more");
            let raised = CapabilitySets {
                effective: before.permitted,
                ..before
            };
            let again = set_capabilities(None, raised);
            (capabilities(None).expect("capabilities"), again)
        });
        let (after, again) = after.join().expect("thread");
        assert_eq!(after.permitted, before.permitted & keep);
        assert_eq!(after.effective, before.effective & keep);
        assert!(before.permitted == after.permitted || again == Err(Errno::PERM));
    }
}
