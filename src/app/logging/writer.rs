//! The log's queue, its thread, and the files it writes.
//!
//! [`Queue::push`] stamps a line and copies it to the queue's end under one short lock; the thread takes all there is
//! and writes it in as few calls as it can. A line that comes alone is written at once. After a write the thread rests
//! for [`LINGER`], so that a flood of lines costs one write for each rest instead of a wake-up and a write for each
//! line.
//!
//! Nothing here can stop a client: where more than [`PENDING_MAX`] bytes wait, further lines are dropped and counted; a
//! stderr that nobody reads, a closed one, or a full disk loses its lines, alone and counted, and the other output goes
//! on. The count is written as soon as lines can be written again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::line::{Format, Level, Record};
use super::stamp::Stamps;
use crate::net::world;

/// How long the thread lets lines gather after a write.
pub const LINGER: Duration = Duration::from_millis(50);

/// How long a flush, the end of the process, or one write to a reader that does not read may take.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that may wait to be written.
pub const PENDING_MAX: usize = 1 << 20;

/// The log's thread. Dropping it ends it, after what is left is written.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel has no thread to give.
    pub fn start(outputs: Outputs, zone: TimeZone) -> io::Result<Writer> {
        let notices = Notices { stamps: Stamps::new(zone.clone()), format: Format::Pgbouncer };
        let queue = Arc::new(Queue::new(zone));
        let served = queue.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || served.serve(outputs, notices))?;
        Ok(Writer { queue })
    }

    /// The queue that the thread serves.
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// Waits until what was pushed so far is written, at most [`PATIENCE`].
    pub fn flush(&self) {
        self.queue.flush();
    }

    /// Writes to these outputs from now on.
    pub fn replace(&self, outputs: Outputs) {
        self.queue.lock().replacement = Some(outputs);
        self.queue.work.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.flush();
        self.queue.lock().ended = true;
        self.queue.work.notify_all();
    }
}

/// Lines on their way to the thread.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// The thread waits here for work; woken by a push when `idle`, by a flush, a replacement and the end.
    work: Condvar,
    /// Who flushes waits here for `written`.
    progress: Condvar,
    pid: u32,
}

#[derive(Debug)]
struct State {
    pending: String,
    stamps: Stamps,
    /// The format of the last line.
    format: Format,
    /// Lines ever queued, and of these written: `written <= pushed`.
    pushed: u64,
    written: u64,
    /// Lines dropped since the last batch, for want of room.
    dropped: u64,
    /// The thread waits for a line, and a push must wake it.
    idle: bool,
    flushing: u32,
    replacement: Option<Outputs>,
    ended: bool,
}

impl Queue {
    fn new(zone: TimeZone) -> Queue {
        let state = State {
            pending: String::new(),
            stamps: Stamps::new(zone),
            format: Format::Pgbouncer,
            pushed: 0,
            written: 0,
            dropped: 0,
            idle: false,
            flushing: 0,
            replacement: None,
            ended: false,
        };
        Queue { state: Mutex::new(state), work: Condvar::new(), progress: Condvar::new(), pid: std::process::id() }
    }

    /// Queues a line. `clock` is read under the lock, so that the lines stand in the order of their stamps.
    pub fn push(&self, level: Level, record: &Record, clock: impl FnOnce() -> SystemTime) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.pending.len() >= PENDING_MAX {
            state.dropped += 1;
            return;
        }
        state.format = record.format();
        let stamp = state.stamps.stamp(clock(), state.format);
        record.print(&mut state.pending, stamp, self.pid, level);
        state.pushed += 1;
        if std::mem::take(&mut state.idle) {
            self.work.notify_one();
        }
    }

    fn flush(&self) {
        let mut state = self.lock();
        let wanted = state.pushed;
        state.flushing += 1;
        self.work.notify_all();
        let waited = self.progress.wait_timeout_while(state, PATIENCE, |state| state.written < wanted);
        waited.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }

    /// The thread's life.
    fn serve(&self, mut outputs: Outputs, mut notices: Notices) {
        let mut batch = String::new();
        let mut state = self.lock();
        loop {
            while state.pending.is_empty() && state.replacement.is_none() && !state.ended {
                state.idle = true;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle = false;
            if let Some(replacement) = state.replacement.take() {
                outputs = replacement;
            }
            if state.pending.is_empty() && state.ended {
                return;
            }
            batch.clear();
            std::mem::swap(&mut batch, &mut state.pending);
            let upto = state.pushed;
            notices.format = state.format;
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            if dropped > 0 {
                batch.push_str(&notices.lost(dropped, "they came faster than they could be written"));
            }
            outputs.write(batch.as_bytes(), &mut notices);
            state = self.lock();
            state.written = upto;
            self.progress.notify_all();
            let urgent = |state: &mut State| state.flushing == 0 && state.replacement.is_none() && !state.ended;
            let rest = self.work.wait_timeout_while(state, LINGER, urgent);
            state = rest.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where lines are written.
#[derive(Debug)]
pub struct Outputs {
    /// Standard error.
    pub stderr: Option<Output>,
    /// `logfile`.
    pub file: Option<Output>,
}

impl Outputs {
    /// The file first: stderr may make us wait.
    fn write(&mut self, lines: &[u8], notices: &mut Notices) {
        for output in self.file.iter_mut().chain(&mut self.stderr) {
            output.write(lines, notices);
        }
    }
}

/// A file or terminal that takes lines, and the count of those it did not take.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// How long one write may wait for a reader.
    patience: Duration,
    lost: Losses,
}

#[derive(Debug, Default)]
struct Losses {
    lines: u64,
    /// Why, of the last one.
    reason: String,
    /// The last write ended inside a line.
    torn: bool,
}

impl Output {
    /// Standard error, through a descriptor of its own.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn stderr() -> io::Result<Output> {
        Ok(Output::new(File::from(io::stderr().as_fd().try_clone_to_owned()?)))
    }

    /// This file, created where there is none, written at its end.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn file(path: &Path) -> io::Result<Output> {
        Ok(Output::new(OpenOptions::new().append(true).create(true).open(path)?))
    }

    fn new(file: File) -> Output {
        Output { file, patience: PATIENCE, lost: Losses::default() }
    }

    fn write(&mut self, lines: &[u8], notices: &mut Notices) {
        if self.lost.lines > 0 {
            let tear = if self.lost.torn { "\n" } else { "" };
            let notice = format!("{tear}{}", notices.lost(self.lost.lines, &self.lost.reason));
            // No patience for one who has just made us wait.
            match self.write_part(notice.as_bytes(), Duration::ZERO) {
                Ok(()) => self.lost = Losses::default(),
                Err(_) => return self.lose(lines),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(part_len(rest));
            if let Err(error) = self.write_part(part, self.patience) {
                self.lost.reason = error.to_string();
                return self.lose(rest);
            }
            rest = after;
        }
    }

    /// Writes at most [`PART_MAX`] bytes, once the other end can take them: then a pipe's reader that sleeps cannot
    /// block us.
    fn write_part(&mut self, part: &[u8], patience: Duration) -> io::Result<()> {
        let patience = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut watched = [PollFd::new(&self.file, PollFlags::OUT)];
        if rustix::event::poll(&mut watched, Some(&patience))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads them"));
        }
        let mut rest = part;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.lost.torn |= rest.len() < part.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn lose(&mut self, lines: &[u8]) {
        self.lost.lines += lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
    }
}

/// What POSIX lets a pipe take without blocking once it is said to be writable.
const PART_MAX: usize = 4096;

/// The longest run of whole lines that is one part; where the first line is longer, a piece of it.
fn part_len(lines: &[u8]) -> usize {
    if lines.len() <= PART_MAX {
        return lines.len();
    }
    match lines[..PART_MAX].iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => newline + 1,
        None => PART_MAX,
    }
}

/// Writes the line that stands for those that are missing.
#[derive(Debug)]
struct Notices {
    stamps: Stamps,
    /// The format of the lines around it.
    format: Format,
}

impl Notices {
    fn lost(&mut self, lines: u64, reason: &str) -> String {
        let mut out = String::new();
        let stamp = self.stamps.stamp(world::wall_clock(), self.format);
        let text = format!("{lines} log lines lost: {reason}");
        Record::of(self.format, text).print(&mut out, stamp, std::process::id(), Level::Warning);
        out
    }
}

#[cfg(test)]
mod tests;
