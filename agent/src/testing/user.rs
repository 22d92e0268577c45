//! Tests that mean something only to an ordinary user, for root reads everything.

use std::panic::resume_unwind;
use std::thread;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Debian's `nobody`.
const USER: u32 = 65534;

/// Runs a test as an ordinary user: if this process is root's, on a thread that is not, as are those that it starts.
pub(crate) fn as_ordinary_user(test: impl FnOnce() + Send) {
    if !geteuid().is_root() {
        test();
        return;
    }
    let run = || {
        let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
        set_thread_groups(&[]).expect("groups");
        set_thread_res_gid(group, group, group).expect("group");
        set_thread_res_uid(user, user, user).expect("user");
        test();
    };
    let ran = thread::scope(|scope| scope.spawn(run).join());
    ran.unwrap_or_else(|panic| resume_unwind(panic));
}
