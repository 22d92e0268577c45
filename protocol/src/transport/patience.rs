//! Waiting for something on a thread, but not for ever.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What comes next, as `blocking_recv`; `None` if nothing does for as long as `limit`.
pub(super) fn recv_within<T>(
    receiver: &mut mpsc::Receiver<T>,
    limit: Duration,
) -> Option<Option<T>> {
    let began = Instant::now();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(item) = receiver.poll_recv(&mut context) {
            return Some(item);
        }
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_the_end_are_told_and_nothing_is_waited_for_in_vain() {
        let (sender, mut receiver) = mpsc::channel(1);
        assert_eq!(recv_within(&mut receiver, Duration::ZERO), None);
        let thread = std::thread::spawn(move || {
            sender.blocking_send(1).expect("send");
        });
        let long = Duration::from_secs(60);
        assert_eq!(recv_within(&mut receiver, long), Some(Some(1)));
        assert_eq!(recv_within(&mut receiver, long), Some(None));
        thread.join().expect("thread");
    }
}
