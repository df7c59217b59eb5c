//! The threads that carry connections, by number, and how many clients each has.
//!
//! `app::runtime` starts them; lower rooms ask here on which they run and where to put a task. Worker 0 is the main
//! thread, which also runs the process' own services. How many of the others take part at a time is `app::balance`'s
//! decision: a transaction whose client and server live on one thread wakes no other, so work is spread only when there
//! is enough.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::runtime::Handle;

use super::compute::Compute;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The worker threads' runtimes.
#[derive(Clone, Debug)]
pub struct Workers {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    handles: Box<[Handle]>,
    /// The threads beside them, for what would hold them up.
    compute: Compute,
    /// Clients of each worker.
    clients: Box<[AtomicUsize]>,
    /// Workers that new clients go to: the first so many. `1 <= taking <= handles.len()`.
    taking: AtomicUsize,
}

impl Workers {
    /// These runtimes, in order of number; at least one. New clients go to the first alone, to begin with.
    pub fn new(handles: Vec<Handle>) -> Workers {
        assert!(!handles.is_empty(), "a process without workers carries nothing");
        let clients = handles.iter().map(|_| AtomicUsize::new(0)).collect();
        let (handles, compute) = (handles.into(), Compute::new(compute_threads()));
        Workers { shared: Arc::new(Inner { handles, compute, clients, taking: AtomicUsize::new(1) }) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.handles.len()
    }

    /// The runtime of one worker.
    pub fn handle(&self, worker: usize) -> &Handle {
        &self.shared.handles[worker % self.count()]
    }

    /// The threads for work that keeps a core busy.
    pub fn compute(&self) -> &Compute {
        &self.shared.compute
    }

    /// How many connections they carry, those not yet logged in included.
    pub fn carried(&self) -> usize {
        self.shared.clients.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// How many take new clients.
    pub fn taking(&self) -> usize {
        self.shared.taking.load(Relaxed)
    }

    /// Says how many take new clients.
    pub fn set_taking(&self, count: usize) {
        self.shared.taking.store(count.clamp(1, self.count()), Relaxed);
    }

    /// Counts a new client at the worker with the fewest, of those that take any.
    pub fn carry(&self) -> Carried {
        let candidates = self.shared.clients.iter().take(self.taking()).enumerate();
        let worker = candidates.min_by_key(|(_, count)| count.load(Relaxed)).map_or(0, |(worker, _)| worker);
        self.shared.clients[worker].fetch_add(1, Relaxed);
        Carried { workers: self.clone(), worker }
    }
}

/// One for every two cores, two at least: a storm of logins leaves the others to the workers.
fn compute_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| (cores.get() / 2).max(2))
}

/// One client, counted at its worker until dropped.
#[derive(Debug)]
pub struct Carried {
    workers: Workers,
    worker: usize,
}

impl Carried {
    /// The worker.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// The worker's runtime.
    pub fn handle(&self) -> &Handle {
        self.workers.handle(self.worker)
    }

    /// The client moves to another worker.
    pub fn move_to(&mut self, worker: usize) {
        let worker = worker % self.workers.count();
        self.workers.shared.clients[self.worker].fetch_sub(1, Relaxed);
        self.workers.shared.clients[worker].fetch_add(1, Relaxed);
        self.worker = worker;
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.workers.shared.clients[self.worker].fetch_sub(1, Relaxed);
    }
}

/// The number of the worker that runs the calling thread; 0 on any other thread.
#[inline]
pub fn current() -> usize {
    CURRENT.with(Cell::get)
}

/// Numbers the calling thread. Called once, by the worker as it starts.
pub fn set_current(worker: usize) {
    CURRENT.with(|current| current.set(worker));
}
