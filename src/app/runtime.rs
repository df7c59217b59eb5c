//! How many threads, and of which flavour.
//!
//! One single-threaded tokio runtime for each worker. Worker 0 is the main thread and also runs the process' own
//! services, so that a process with one worker is one thread, but for the log's and those that run what blocks. A
//! client and the server on loan to it live on one worker, so a transaction wakes no other thread. Pools are shared by
//! all workers: 25 servers are 25, whatever the number of threads.

use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::net::buffers;
use crate::net::workers::{self, Workers};

/// Most worker threads: beyond it the shared pools are the limit, not the cores.
const WORKERS_MAX: usize = 64;

/// Threads of each worker for what waits for others: the system's list of users, a service manager. Key derivations and
/// signatures have threads of their own ([`crate::net::compute`]).
const BLOCKING_THREADS_MAX: usize = 2;

/// The running worker threads, worker 0 not among them. Dropping it ends them, and with them their connections.
#[derive(Debug)]
pub struct WorkerThreads {
    threads: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
    /// The kernel's number of each worker's thread, worker 0 first.
    pub numbers: Vec<i32>,
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

/// Starts the workers beside the first, which is the calling thread with the runtime `first`. `buffer_bytes` is
/// `pkt_buf`.
///
/// # Errors
/// The kernel has no thread or no epoll instance to give.
pub fn start_workers(first: &Handle, count: usize, buffer_bytes: usize) -> io::Result<(Workers, WorkerThreads)> {
    buffers::lend_at_least(buffer_bytes);
    let mut handles = vec![first.clone()];
    let mut started = WorkerThreads { threads: Vec::new(), numbers: vec![thread_number()] };
    for number in 1..count {
        let runtime = new_runtime()?;
        handles.push(runtime.handle().clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            workers::set_current(number);
            buffers::lend_at_least(buffer_bytes);
            let _ = tell.send(thread_number());
            let _ = runtime.block_on(stopped);
            // Blocking work may still run; nobody waits for its result.
            runtime.shutdown_background();
        })?;
        started.threads.push((stop, thread));
        started.numbers.push(told.recv().map_err(io::Error::other)?);
    }
    Ok((Workers::new(handles), started))
}

/// The kernel's number of the calling thread.
fn thread_number() -> i32 {
    rustix::thread::gettid().as_raw_pid()
}

/// A single-threaded runtime.
///
/// # Errors
/// As [`start_workers`].
pub fn new_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()
}
