//! Work that keeps a core busy: key derivations and the signatures of TLS handshakes. Away from the I/O threads, in
//! short turns, shared fairly.
//!
//! ```text
//!   login ─► run(origin, work) ─► turns ─► a thread: one turn ─► done ─► the login goes on
//!                                   ▲                  └► more ─┘
//! ```
//!
//! Work comes from strangers: whoever may try to log in makes us derive keys. So it is done a turn at a time, a
//! fraction of a millisecond each where it can be cut (a derivation can, a signature cannot), and `turns` says whose
//! turn is next: no address and no user can keep the others waiting. Work that nobody waits for any more is dropped at
//! once, or at the end of its turn.
//!
//! The threads are the process' own, few, so that a storm of logins leaves the cores to the workers. They start with
//! the first work and end when there is none for a while. Nothing else runs on them: what waits for a disk or a
//! directory has tokio's threads (`app::runtime`), [`outside`](super::outside) or processes of its own.
//!
//! The lock is held for no more than a look at who is next; never while work is done or dropped.

mod turns;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use super::buffers::Inbox;
use super::stream::Stream;
pub use turns::{Origin, Source, network};
use turns::{Taken, Turns};

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// The threads for work that keeps a core busy. A clone is the same.
#[derive(Clone)]
pub struct Compute {
    owner: Arc<Owner>,
}

/// What all handles share; with the last of them the threads end.
struct Owner {
    shared: Arc<Shared>,
}

struct Shared {
    threads_max: usize,
    state: Mutex<State>,
    /// Rings when there is work for a thread that waits, or none any more.
    work: Condvar,
}

#[derive(Default)]
struct State {
    turns: Turns<Box<dyn Job>>,
    /// How many have come so far: their numbers.
    jobs: u64,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// Nobody can bring more work.
    over: bool,
}

/// Why there is no result.
#[derive(Debug)]
pub enum NotComputed {
    /// Who wanted it has left.
    Gone,
    /// The work did not come to an end: no thread could be started, or it panicked.
    Failed(io::Error),
}

impl fmt::Display for NotComputed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotComputed::Gone => f.write_str("who wanted it has left"),
            NotComputed::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for NotComputed {}

impl Compute {
    /// No thread yet; `threads_max` at most.
    pub fn new(threads_max: usize) -> Compute {
        let (state, work) = (Mutex::default(), Condvar::new());
        Compute { owner: Arc::new(Owner { shared: Arc::new(Shared { threads_max, state, work }) }) }
    }

    /// The result of `work`, which is called until it has one, each time for a short turn.
    ///
    /// # Errors
    /// [`NotComputed::Failed`].
    ///
    /// Cancel safe: work that nobody waits for gets no further turn.
    pub async fn run<T, W>(&self, origin: Origin, work: W) -> Result<T, NotComputed>
    where
        T: Send + 'static,
        W: FnMut() -> Option<T> + Send + 'static,
    {
        let (answer, mut answered) = oneshot::channel();
        let job = Box::new(Piecework { work, answer: Some(answer) });
        let id = self.owner.shared.enter(origin, job).map_err(NotComputed::Failed)?;
        let mut place = Place { shared: &self.owner.shared, id, answered: &mut answered };
        (&mut place.answered).await.map_err(|_| NotComputed::Failed(io::Error::other("the work was given up")))
    }

    /// As [`Compute::run`], for somebody at the other end of this stream: the work ends when they leave. What they say
    /// meanwhile is in the inbox.
    ///
    /// # Errors
    /// See [`NotComputed`].
    ///
    /// Cancel safe, as [`Compute::run`].
    pub async fn run_for<T, W>(
        &self,
        origin: Origin,
        stream: &mut Stream,
        inbox: &mut Inbox,
        work: W,
    ) -> Result<T, NotComputed>
    where
        T: Send + 'static,
        W: FnMut() -> Option<T> + Send + 'static,
    {
        let mut running = pin!(self.run(origin, work));
        poll_fn(|cx| match running.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => stream.poll_gone(cx, inbox).map(|()| Err(NotComputed::Gone)),
        })
        .await
    }

    /// Has a turn on the calling thread, if somebody waits for one.
    #[cfg(test)]
    pub(super) fn turn(&self) -> bool {
        let shared = &self.owner.shared;
        let taken = shared.lock().turns.take();
        taken.map(|taken| shared.have_turn(taken)).is_some()
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.owner.shared.lock().turns.len()
    }
}

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.owner.shared.lock();
        write!(f, "Compute({} threads, {} jobs wait)", state.threads, state.turns.len())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    /// Takes in a job, and sees to it that there is a thread for it.
    fn enter(self: &Arc<Self>, origin: Origin, job: Box<dyn Job>) -> io::Result<turns::Id> {
        let mut state = self.lock();
        state.jobs += 1;
        let id = state.jobs;
        state.turns.put(Taken { id, origin, job });
        if state.turns.len() <= state.idle {
            self.work.notify_one();
        } else if state.threads < self.threads_max {
            let shared = self.clone();
            let thread = std::thread::Builder::new().name("compute".to_owned()).spawn(move || shared.work());
            match thread {
                Ok(_) => state.threads += 1,
                // The others are to do it.
                Err(_) if state.threads > 0 => {}
                Err(error) => {
                    let job = state.turns.remove(id);
                    drop(state);
                    drop(job);
                    return Err(error);
                }
            }
        }
        Ok(id)
    }

    /// What a thread does.
    fn work(self: &Arc<Self>) {
        let mut state = self.lock();
        loop {
            if let Some(taken) = state.turns.take() {
                drop(state);
                self.have_turn(taken);
                state = self.lock();
                continue;
            }
            if !state.over {
                state.idle += 1;
                let (woken, waited) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                state.idle -= 1;
                if !waited.timed_out() || state.turns.len() > 0 {
                    continue;
                }
            }
            state.threads -= 1;
            return;
        }
    }

    /// A job's turn; then it waits for the next one, if it wants any.
    fn have_turn(&self, mut taken: Taken<Box<dyn Job>>) {
        // A panic has been logged by then; the job is dropped, and who waits for it hears of that.
        let over = catch_unwind(AssertUnwindSafe(|| taken.job.advance())).unwrap_or(true);
        if over {
            return;
        }
        let mut state = self.lock();
        // Who leaves says so first and looks for the job here afterwards.
        if !taken.job.is_unwanted() {
            state.turns.put(taken);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but for want of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits for a job's result. Dropped, the job goes too.
struct Place<'a, T> {
    shared: &'a Shared,
    id: turns::Id,
    answered: &'a mut oneshot::Receiver<T>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.answered.close();
        let job = self.shared.lock().turns.remove(self.id);
        drop(job);
    }
}

/// Work, whatever its result.
trait Job: Send {
    /// Has a turn. Is it over?
    fn advance(&mut self) -> bool;

    /// Does nobody wait for it any more?
    fn is_unwanted(&self) -> bool;
}

struct Piecework<T, W> {
    work: W,
    /// `None` once it has been given.
    answer: Option<oneshot::Sender<T>>,
}

impl<T: Send, W: FnMut() -> Option<T> + Send> Job for Piecework<T, W> {
    fn advance(&mut self) -> bool {
        if self.is_unwanted() {
            return true;
        }
        let Some(result) = (self.work)() else { return false };
        if let Some(answer) = self.answer.take() {
            // Nobody hears it who has left meanwhile.
            let _ = answer.send(result);
        }
        true
    }

    fn is_unwanted(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

#[cfg(test)]
mod tests;
