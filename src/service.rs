//! What a daemon tells its service manager (systemd). Without one, that is without `NOTIFY_SOCKET`, nothing happens.

use sd_notify::NotifyState;

/// It is ready to work.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration again; [`ready`] ends that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// What `systemctl status` shows.
pub(crate) fn status(text: &str) {
    // A line break would begin another assignment.
    let line = understudy_protocol::escape(text.as_bytes());
    tell(&[NotifyState::Status(&line)]);
}

/// It still does its work: call it from the loop whose end would be noticed last, never from a thread of its own.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// It is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("cannot reach the service manager: {error}");
    }
}
