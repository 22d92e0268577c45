//! Running workers: one, or as many as there are processors.

use std::thread;

use super::Scan;
use super::findings::Findings;
use super::queue::Queue;
use super::worker::Worker;
use crate::error::AgentError;

impl Scan<'_> {
    /// Works through a queue of directories with all workers.
    pub(super) fn all(&self, queue: &Queue) -> Result<Findings, AgentError> {
        if queue.is_empty() {
            return Ok(Findings::default());
        }
        self.in_parallel(|worker| {
            let _stop = StopOnPanic(queue);
            while let Some(task) = queue.take() {
                match worker.visit(&task) {
                    Ok(found) => queue.done(found),
                    Err(error) => {
                        queue.stop();
                        return Err(error);
                    }
                }
            }
            Ok(())
        })
    }

    /// Runs `work` on one worker.
    pub(super) fn alone<T>(
        &self,
        work: impl FnOnce(&mut Worker<'_>) -> Result<T, AgentError>,
    ) -> Result<(T, Findings), AgentError> {
        let reader = self.index.reader()?;
        let mut worker = Worker::new(self, &reader);
        let result = work(&mut worker)?;
        Ok((result, worker.finish()?))
    }

    /// Runs `work` on as many workers as there are processors.
    pub(super) fn in_parallel(
        &self,
        work: impl Fn(&mut Worker<'_>) -> Result<(), AgentError> + Sync,
    ) -> Result<Findings, AgentError> {
        let threads = thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 16);
        let results: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| self.alone(&work)))
                .collect();
            running
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        });
        let mut findings = Findings::default();
        let mut failed = None;
        for result in results {
            match result {
                Ok(((), found)) => findings.merge(found),
                // The error that a worker met says more than that others were told to stop.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(findings), Err)
    }
}

/// Without this the others would wait for a worker that is no more.
struct StopOnPanic<'a>(&'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}
