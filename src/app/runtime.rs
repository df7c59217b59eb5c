//! How many threads, and of which flavour.
//!
//! One single-threaded tokio runtime for each worker, and one for the process' own services on the main thread. A
//! client and the server on loan to it live on one worker, so a transaction wakes no other thread. Pools are shared by
//! all workers: 25 servers are 25, whatever the number of threads. Everything is `Send`, so that the other flavour (one
//! work-stealing runtime) is a change of this file; measured with 50 busy clients, it costs a tenth more per
//! transaction.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::net::workers::{self, Workers};

/// Most worker threads: beyond it the shared pools are the limit, not the cores.
const WORKERS_MAX: usize = 64;

/// Threads that run key derivations, name look-ups and other work that blocks; few, so that a login storm leaves the
/// cores to the workers.
const BLOCKING_THREADS_MAX: usize = 2;

/// The running worker threads. Dropping it ends them, and with them every connection.
#[derive(Debug)]
pub struct WorkerThreads {
    threads: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        for (stop, thread) in self.threads.drain(..) {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// How many workers `worker_threads` means: that many, or for 0 one for each core.
pub fn worker_count(setting: u32) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    match usize::try_from(setting) {
        Ok(0) | Err(_) => cores().min(WORKERS_MAX),
        Ok(count) => count.min(WORKERS_MAX),
    }
}

/// Starts the workers.
///
/// # Errors
/// The kernel has no thread or no epoll instance to give.
pub fn start_workers(count: usize) -> io::Result<(Workers, WorkerThreads)> {
    let mut handles = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for number in 0..count.max(1) {
        let runtime = new_runtime()?;
        handles.push(runtime.handle().clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            workers::set_current(number);
            let _ = runtime.block_on(stopped);
            // Blocking work may still run; nobody waits for its result.
            runtime.shutdown_background();
        })?;
        threads.push((stop, thread));
    }
    Ok((Workers::new(handles), WorkerThreads { threads }))
}

/// A single-threaded runtime, for a worker or for the services.
///
/// # Errors
/// As [`start_workers`].
pub fn new_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()
}
