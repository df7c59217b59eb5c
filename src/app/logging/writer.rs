//! The log's queue, its thread, and the files it writes. (Syslog and the journal: [`super::records`].)
//!
//! [`Queue::push`] stamps a line and copies it to the queue's end under one short lock; the thread takes all there is
//! and writes it in as few calls as it can. Lines are written as they come, so that an operator finds in the log what a
//! client has just been told; after [`PROMPT_WRITES`] writes within one [`LINGER`] the thread rests for the remainder
//! of it, so that a flood of lines costs one write for each rest instead of a wake-up and a write for each line.
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
use tokio::sync::Notify;

use super::line::{self, Format, Level, Record};
use super::records::Records;
use super::stamp::Stamps;
use crate::net::world;
use crate::stats::moment::Moment;

/// How long the thread lets lines gather when many come.
pub const LINGER: Duration = Duration::from_millis(50);

/// Writes within one [`LINGER`] before the thread lets lines gather.
pub const PROMPT_WRITES: u32 = 16;

/// How long a reload waits for what was logged before it, and one write for a reader that does not read.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long the end of the process waits for its last lines, which mostly say why it ends. Longer than a busy disk
/// takes; nobody is kept waiting by it but who stops the process.
pub const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client's last message may wait for the line that says why.
pub const MOMENT: Duration = Duration::from_millis(100);

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
        let by = line::Writer::this_process();
        let notices = Notices { stamps: Stamps::new(zone.clone()), format: Format::Pgbouncer, by };
        let queue = Arc::new(Queue::new(zone));
        let served = queue.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || served.serve(outputs, notices))?;
        Ok(Writer { queue })
    }

    /// The queue that the thread serves.
    pub fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }

    /// Waits until what was pushed so far is written, at most so long.
    pub fn flush(&self, patience: Duration) {
        self.queue.flush(patience);
    }

    /// Writes to these outputs from now on, under the name of this job.
    pub fn replace(&self, outputs: Outputs, job: Option<String>) {
        let mut state = self.queue.lock();
        state.replacement = Some(outputs);
        state.by.job = job;
        self.queue.work.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.flush(LAST_PATIENCE);
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
    /// So does who awaits it.
    progressed: Notify,
}

#[derive(Debug)]
struct State {
    pending: Batch,
    stamps: Stamps,
    by: line::Writer,
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
            pending: Batch::default(),
            stamps: Stamps::new(zone),
            by: line::Writer::this_process(),
            format: Format::Pgbouncer,
            pushed: 0,
            written: 0,
            dropped: 0,
            idle: false,
            flushing: 0,
            replacement: None,
            ended: false,
        };
        Queue { state: Mutex::new(state), work: Condvar::new(), progress: Condvar::new(), progressed: Notify::new() }
    }

    /// Queues a line. `clock` is read under the lock, so that the lines stand in the order of their stamps.
    pub fn push(&self, level: Level, record: &Record, clock: impl FnOnce() -> SystemTime) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.pending.text.len() >= PENDING_MAX {
            state.dropped += 1;
            return;
        }
        state.format = record.format();
        let at = clock();
        let stamp = state.stamps.stamp(at, state.format);
        let text = record.print(&mut state.pending.text, stamp, &state.by, level);
        state.pending.end_line(text, level, at);
        state.pushed += 1;
        if std::mem::take(&mut state.idle) {
            self.work.notify_one();
        }
    }

    fn flush(&self, patience: Duration) {
        let mut state = self.lock();
        let wanted = state.pushed;
        state.flushing += 1;
        self.work.notify_all();
        let waited = self.progress.wait_timeout_while(state, patience, |state| state.written < wanted);
        waited.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }

    /// Ends when what was pushed so far is written, or after [`MOMENT`].
    pub async fn written(&self) {
        let wanted = {
            let mut state = self.lock();
            if state.written >= state.pushed {
                return;
            }
            state.flushing += 1;
            self.work.notify_all();
            state.pushed
        };
        let _hurry = Hurry { queue: self };
        let done = async {
            loop {
                let progressed = self.progressed.notified();
                if self.lock().written >= wanted {
                    return;
                }
                progressed.await;
            }
        };
        let _ = tokio::time::timeout(MOMENT, done).await;
    }

    /// The thread's life.
    fn serve(&self, mut outputs: Outputs, mut notices: Notices) {
        let mut batch = Batch::default();
        let mut pace = Pace::new(world::now());
        let mut state = self.lock();
        loop {
            while state.pending.text.is_empty() && state.replacement.is_none() && !state.ended {
                state.idle = true;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.idle = false;
            if let Some(replacement) = state.replacement.take() {
                outputs = replacement;
            }
            if state.pending.text.is_empty() && state.ended {
                return;
            }
            batch.clear();
            std::mem::swap(&mut batch, &mut state.pending);
            let upto = state.pushed;
            notices.format = state.format;
            notices.by.clone_from(&state.by);
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            if dropped > 0 {
                let losses =
                    Losses { lines: dropped, reason: "they came faster than they could be written".to_owned() };
                notices.append(&mut batch, &losses);
            }
            outputs.write(&batch, &mut notices);
            state = self.lock();
            state.written = upto;
            self.progress.notify_all();
            self.progressed.notify_waiters();
            let rest = pace.rest_after_write(world::now());
            if !rest.is_zero() {
                let urgent = |state: &mut State| state.flushing == 0 && state.replacement.is_none() && !state.ended;
                let rested = self.work.wait_timeout_while(state, rest, urgent);
                state = rested.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for what he has pushed: the thread does not rest meanwhile.
struct Hurry<'a> {
    queue: &'a Queue,
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.queue.lock().flushing -= 1;
    }
}

/// How fast writes follow each other.
#[derive(Debug)]
struct Pace {
    /// Since when `writes` are counted.
    since: Moment,
    writes: u32,
}

impl Pace {
    fn new(now: Moment) -> Pace {
        Pace { since: now, writes: 0 }
    }

    /// How long to let lines gather after a write at `now`.
    fn rest_after_write(&mut self, now: Moment) -> Duration {
        let passed = now.since(self.since);
        if passed >= LINGER {
            *self = Pace { since: now, writes: 1 };
            return Duration::ZERO;
        }
        self.writes += 1;
        if self.writes < PROMPT_WRITES { Duration::ZERO } else { LINGER - passed }
    }
}

/// Lines on their way out.
#[derive(Debug, Default)]
pub struct Batch {
    /// All of them, each with its end.
    text: String,
    /// For those who take them one by one.
    pub lines: Vec<Line>,
}

/// One line of a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its weight.
    pub level: Level,
    /// When it was logged.
    pub at: SystemTime,
    /// What a receiver that notes time, process and level by itself is told, in the batch's text: `text <= end`.
    text: usize,
    end: usize,
}

impl Batch {
    fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
    }

    /// What was appended since the last line's end is a line; its text begins at `text`, and its end is there.
    pub(super) fn end_line(&mut self, text: usize, level: Level, at: SystemTime) {
        self.lines.push(Line { level, at, text, end: self.text.len().saturating_sub(1) });
    }

    /// A line of this text, logged at the beginning of time.
    #[cfg(test)]
    pub(super) fn append(&mut self, stamp: &str, text: &str, level: Level) {
        self.text.push_str(stamp);
        let start = self.text.len();
        self.text.push_str(text);
        self.text.push('\n');
        self.end_line(start, level, SystemTime::UNIX_EPOCH);
    }

    /// The line without stamp and end.
    pub fn text_of(&self, line: &Line) -> &str {
        self.text.get(line.text..line.end).unwrap_or_default()
    }
}

/// Where lines are written.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Standard error.
    pub stderr: Option<Output>,
    /// `logfile`.
    pub file: Option<Output>,
    /// Syslog, and the journal in the place of standard error.
    pub records: Vec<Records>,
}

impl Outputs {
    /// The file first: the others may make us wait.
    fn write(&mut self, batch: &Batch, notices: &mut Notices) {
        if let Some(file) = &mut self.file {
            file.write(batch.text.as_bytes(), notices);
        }
        for records in &mut self.records {
            records.write(batch, world::wall_clock());
        }
        if let Some(stderr) = &mut self.stderr {
            stderr.write(batch.text.as_bytes(), notices);
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
    /// The last write ended inside a line.
    torn: bool,
}

/// What an output did not take.
#[derive(Debug, Default)]
pub struct Losses {
    /// How many lines.
    pub lines: u64,
    /// Why, of the last one.
    pub reason: String,
}

impl Losses {
    /// The line that stands for those that are missing.
    pub fn text(&self) -> String {
        format!("{} log lines lost: {}", self.lines, self.reason)
    }
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
        Output { file, patience: PATIENCE, lost: Losses::default(), torn: false }
    }

    fn write(&mut self, lines: &[u8], notices: &mut Notices) {
        if self.lost.lines > 0 {
            let mut notice = Batch::default();
            if self.torn {
                notice.text.push('\n');
            }
            notices.append(&mut notice, &self.lost);
            // No patience for one who has just made us wait.
            match self.write_part(notice.text.as_bytes(), Duration::ZERO) {
                Ok(()) => (self.lost, self.torn) = (Losses::default(), false),
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
                    self.torn |= rest.len() < part.len();
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
    by: line::Writer,
}

impl Notices {
    fn append(&mut self, batch: &mut Batch, losses: &Losses) {
        let now = world::wall_clock();
        let stamp = self.stamps.stamp(now, self.format);
        let text = Record::of(self.format, losses.text()).print(&mut batch.text, stamp, &self.by, Level::Warning);
        batch.end_line(text, Level::Warning, now);
    }
}

#[cfg(test)]
mod tests;
