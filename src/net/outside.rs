//! Where others check passwords in our place: off the I/O threads, so many at a time, in a line that has an end.
//!
//! What checks of one kind wait for happens on one thread of theirs, started by the first login that needs it, so that
//! neither a checker's slowness nor its silence holds up a client. Who gives up waiting takes its check with it.

use std::fmt;
use std::future::{self, Future};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// As many checks of one kind run at a time.
const RUNNING_MAX: usize = 32;

/// As many more wait in line.
const WAITING_MAX: usize = 10_000;

/// Why a user is not let in, for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub(super) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Those who check passwords in one way, and who waits for them.
pub(super) struct Line {
    /// Their name.
    checker: &'static str,
    /// Places to run.
    running: Arc<Semaphore>,
    /// Places to run and in line.
    present: Semaphore,
    thread: Mutex<Option<Handle>>,
}

impl Line {
    /// Nothing runs yet.
    pub(super) fn new(checker: &'static str) -> Line {
        Line::of(checker, RUNNING_MAX, WAITING_MAX)
    }

    fn of(checker: &'static str, running_max: usize, waiting_max: usize) -> Line {
        Line {
            checker,
            running: Arc::new(Semaphore::new(running_max)),
            present: Semaphore::new(running_max + waiting_max),
            thread: Mutex::default(),
        }
    }

    /// What comes of `check`, which has its turn when a place is free.
    ///
    /// # Errors
    /// What `check` says, or that too many wait.
    ///
    /// Cancel safe: a check that nobody waits for is dropped.
    pub(super) async fn run<C>(&self, check: C) -> Result<(), Refusal>
    where
        C: Future<Output = Result<(), Refusal>> + Send + 'static,
    {
        let checker = self.checker;
        let place = self.present.try_acquire();
        let _place = place.map_err(|_| Refusal(format!("too many logins wait for {checker}")))?;
        let thread = self.thread().map_err(|error| Refusal(format!("cannot start the {checker} thread: {error}")))?;
        let running = self.running.clone();
        let mut task = EndedOnDrop(thread.spawn(async move {
            let _turn = running.acquire().await.map_err(|_| Refusal("the process ends".into()))?;
            check.await
        }));
        (&mut task.0).await.unwrap_or_else(|_| Err(Refusal(format!("the answer of {checker} could not be read"))))
    }

    fn thread(&self) -> io::Result<Handle> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = &*thread {
            return Ok(handle.clone());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        // It ends with the process.
        let name = self.checker.to_lowercase();
        std::thread::Builder::new().name(name).spawn(move || runtime.block_on(future::pending::<()>()))?;
        Ok(thread.insert(handle).clone())
    }
}

struct EndedOnDrop(JoinHandle<Result<(), Refusal>>);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::sync::oneshot;

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn so_many_run_so_many_wait_and_the_next_is_refused() {
        let line = Line::of("checker", 1, 1);
        let (ran, mut first_ran) = oneshot::channel();
        let mut first = pin!(line.run(async move {
            let _ = ran.send(());
            future::pending().await
        }));
        assert!(poll(first.as_mut()).is_pending());
        (&mut first_ran).await.unwrap();
        let (ran, mut second_ran) = oneshot::channel();
        {
            let mut second = pin!(line.run(async move {
                let _ = ran.send(());
                Ok(())
            }));
            assert!(poll(second.as_mut()).is_pending());
            let third = line.run(async { Ok(()) }).await;
            assert_eq!(third, Err(Refusal("too many logins wait for checker".into())));
            assert!(second_ran.try_recv().is_err(), "its turn comes after the first one's");
        }

        // It left, so that there is room for another.
        assert!(second_ran.await.is_err(), "who left is not checked");
        let mut fourth = pin!(line.run(async { Err(Refusal("no".into())) }));
        assert!(poll(fourth.as_mut()).is_pending());
    }

    #[tokio::test]
    async fn who_gives_up_makes_room_for_the_next() {
        let line = Line::of("checker", 1, 1);
        {
            let (ran, running) = oneshot::channel();
            let mut stuck = pin!(line.run(async move {
                let _ = ran.send(());
                future::pending().await
            }));
            assert!(poll(stuck.as_mut()).is_pending());
            running.await.unwrap();
        }

        assert_eq!(line.run(async { Err(Refusal("no".into())) }).await, Err(Refusal("no".into())));
        assert_eq!(line.run(async { Ok(()) }).await, Ok(()));
    }
}
