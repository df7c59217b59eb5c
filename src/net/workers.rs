//! The threads that carry connections, by number.
//!
//! `app::runtime` starts them; lower rooms ask here on which they run and where to put a task.

use std::cell::Cell;

use tokio::runtime::Handle;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The worker threads' runtimes.
#[derive(Clone, Debug)]
pub struct Workers {
    handles: std::sync::Arc<[Handle]>,
}

impl Workers {
    /// These runtimes, in order of number; at least one.
    pub fn new(handles: Vec<Handle>) -> Workers {
        assert!(!handles.is_empty(), "a process without workers carries nothing");
        Workers { handles: handles.into() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.handles.len()
    }

    /// The runtime of one worker.
    pub fn handle(&self, worker: usize) -> &Handle {
        &self.handles[worker % self.handles.len()]
    }
}

/// The number of the worker that runs the calling thread; 0 on any other thread.
pub fn current() -> usize {
    CURRENT.with(Cell::get)
}

/// Numbers the calling thread. Called once, by the worker as it starts.
pub fn set_current(worker: usize) {
    CURRENT.with(|current| current.set(worker));
}
