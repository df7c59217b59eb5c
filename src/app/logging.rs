//! The log: `tracing` events become PgBouncer's lines, or JSON, on stderr and in `logfile`.
//!
//! Everybody logs with the ordinary macros of `tracing`. Three fields mean something here: `conn`, a
//! [`Tag`](crate::stats::lines::Tag), puts the connection's prefix before the text; `fatal = true` on an error makes it
//! FATAL; any other field follows the text as ` name=value`, and is a member of its own in JSON. Spans are not looked
//! at: a span for each of ten thousand idle clients would cost more memory than the client.
//!
//! ```text
//! event ─► Recorder ─► line::Record ─► writer::Queue (one short lock) ─► the log's thread ─► stderr, logfile,
//!                                                                                            syslog, the journal
//! ```
//!
//! A level that is off costs its caller one relaxed load. A line that is on costs the formatting and a copy under a
//! lock; the log's own thread writes, so that a slow disk or a stuck terminal delays no client.
//!
//! - [`mod@line`]: what a line looks like
//! - [`stamp`]: the time of day in front of it
//! - [`writer`]: the queue, the thread, the files
//! - [`records`]: the outputs that take one record at a time, [`syslog`] and the [`journal`]

pub mod journal;
pub mod line;
pub mod records;
pub mod stamp;
pub mod syslog;
pub mod writer;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record as SpanRecord};
use tracing::subscriber::{Interest, SetGlobalDefaultError};
use tracing::{Event, Metadata, Subscriber};

use crate::net::world;
use journal::Journal;
use line::{Format, Level, Record};
use records::{Receiver, Records};
use syslog::Syslog;
use writer::{Output, Outputs, Writer};

/// Where the log goes and how much of it, from the settings and the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Write to stderr; `-q` says no.
    pub stderr: bool,
    /// Where stderr is the journal: send it entries instead.
    pub journal: Option<Journal>,
    /// `logfile`.
    pub file: Option<PathBuf>,
    /// `syslog` and its kin; none where it is off.
    pub syslog: Option<Syslog>,
    /// `job_name`, where it is not the default.
    pub job: Option<String>,
    /// `log_format`.
    pub format: Format,
    /// `verbose`, or the number of `-v`: 0 up to LOG, 1 adds DEBUG, 2 and more add NOISE.
    pub verbose: u8,
}

impl Default for LogOptions {
    /// What holds until the configuration was read: stderr, PgBouncer's format, no DEBUG.
    fn default() -> LogOptions {
        LogOptions {
            stderr: true,
            journal: None,
            file: None,
            syslog: None,
            job: None,
            format: Format::Pgbouncer,
            verbose: 0,
        }
    }
}

impl LogOptions {
    /// What the command line and the environment say, before the configuration is read: nothing on stderr where
    /// `quiet`, entries for the journal where stderr is the stream of `journal_stream` (the variable JOURNAL_STREAM),
    /// under the name of this program.
    pub fn from_start(quiet: bool, verbose: u8, journal_stream: Option<&str>, program: &str) -> LogOptions {
        let is_journal = !quiet && journal_stream.is_some_and(|stream| journal::is_journal(&io::stderr(), stream));
        let journal = is_journal.then(|| Journal { socket: journal::SOCKET.into(), ident: program.to_owned() });
        LogOptions { stderr: !quiet, journal, verbose, ..LogOptions::default() }
    }
}

/// The running log; all clones are one. Dropping the last writes what is left, waiting at most
/// [`writer::LAST_PATIENCE`].
#[derive(Clone, Debug)]
pub struct Log {
    dial: Arc<Dial>,
    writer: Arc<Writer>,
    zone: TimeZone,
}

impl Log {
    /// Starts the log of this process: from here on the macros of `tracing` write it. Once per process.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not be started.
    pub fn start(options: &LogOptions) -> Result<Log, LogError> {
        let (log, recorder) = Log::open(options, stamp::local_zone())?;
        tracing::subscriber::set_global_default(recorder).map_err(LogError::Twice)?;
        Ok(log)
    }

    /// A log and the subscriber that feeds it.
    fn open(options: &LogOptions, zone: TimeZone) -> Result<(Log, Recorder), LogError> {
        let dial = Arc::new(Dial::default());
        let (outputs, _) = outputs(options, &zone)?;
        let writer = Arc::new(Writer::start(outputs, zone.clone()).map_err(LogError::Start)?);
        let recorder = Recorder { dial: dial.clone(), queue: writer.queue() };
        let log = Log { dial, writer, zone };
        log.set(options);
        Ok((log, recorder))
    }

    /// Opens the file again and obeys changed options: RELOAD and SIGHUP. What was logged before is written first, to
    /// where it belongs.
    ///
    /// # Errors
    /// The file cannot be opened; then everything stays as it was. A syslog that is not there is a warning only: it may
    /// come.
    pub fn reopen(&self, options: &LogOptions) -> Result<(), LogError> {
        let (outputs, silent) = outputs(options, &self.zone)?;
        self.writer.flush(writer::PATIENCE);
        self.writer.replace(outputs, options.job.clone());
        self.set(options);
        if let (Some(error), Some(syslog)) = (silent, &options.syslog) {
            tracing::warn!("syslog: nobody listens on {}: {error}; lines for it are lost", syslog.socket.display());
        }
        Ok(())
    }

    /// Waits until everything logged so far is written, at most [`writer::LAST_PATIENCE`]. Before `exit`, which drops
    /// nothing.
    pub fn flush(&self) {
        self.writer.flush(writer::LAST_PATIENCE);
    }

    /// Ends when everything logged so far is written, or after [`writer::MOMENT`].
    pub fn written(&self) -> impl Future<Output = ()> + Send + use<> {
        let queue = self.writer.queue();
        async move { queue.written().await }
    }

    fn set(&self, options: &LogOptions) {
        self.dial.json.store(options.format == Format::Json, Relaxed);
        self.dial.verbose.store(options.verbose, Relaxed);
        let silent = !options.stderr && options.file.is_none() && options.syslog.is_none();
        self.dial.silent.store(silent, Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Logs why the process cannot go on, as FATAL.
pub fn fatal(reason: &dyn fmt::Display) {
    tracing::error!(fatal = true, "{reason}");
}

/// Makes every panic a line in the log, in place of Rust's own message on stderr.
///
/// The panic's text is left out where it quotes something: it might be a client's.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let text = text.filter(|text| !text.contains(['"', '\'', '`']));
        let text = text.unwrap_or("(its text is withheld: it quotes data)");
        match panic.location() {
            Some(place) => tracing::error!("panic at {}:{}: {text}", place.file(), place.line()),
            None => tracing::error!("panic: {text}"),
        }
    }));
}

/// The outputs, and why syslog is not one that works.
fn outputs(options: &LogOptions, zone: &TimeZone) -> Result<(Outputs, Option<io::Error>), LogError> {
    let mut records = Vec::new();
    let mut silent = None;
    if let Some(syslog) = &options.syslog {
        let (syslog, error) = Records::open(Receiver::Syslog(syslog.clone()), zone.clone(), writer::PATIENCE);
        records.push(syslog);
        silent = error;
    }
    let mut stderr = options.stderr;
    if let Some(journal) = options.journal.as_ref().filter(|_| stderr) {
        // Where nobody takes entries, stderr still takes lines.
        if let (journal, None) = Records::open(Receiver::Journal(journal.clone()), zone.clone(), writer::PATIENCE) {
            records.push(journal);
            stderr = false;
        }
    }
    let stderr = if stderr { Some(Output::stderr().map_err(LogError::Start)?) } else { None };
    let file = match &options.file {
        Some(path) => Some(Output::file(path).map_err(|source| LogError::Open { path: path.clone(), source })?),
        None => None,
    };
    Ok((Outputs { stderr, file, records }, silent))
}

/// What can be turned while the log runs.
#[derive(Debug, Default)]
struct Dial {
    json: AtomicBool,
    verbose: AtomicU8,
    /// There is nobody to write to.
    silent: AtomicBool,
}

/// The subscriber: decides whether an event is wanted, and turns it into a line.
#[derive(Debug)]
struct Recorder {
    dial: Arc<Dial>,
    queue: Arc<writer::Queue>,
}

impl Recorder {
    fn level(&self) -> LevelFilter {
        if self.dial.silent.load(Relaxed) {
            return LevelFilter::OFF;
        }
        match self.dial.verbose.load(Relaxed) {
            0 => LevelFilter::INFO,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }
}

impl Subscriber for Recorder {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of the libraries' chatter only what may be wrong.
        let ours = metadata.target().starts_with(env!("CARGO_PKG_NAME"));
        let limit = if ours { self.level() } else { self.level().min(LevelFilter::WARN) };
        metadata.is_event() && *metadata.level() <= limit
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level())
    }

    fn event(&self, event: &Event<'_>) {
        let format = if self.dial.json.load(Relaxed) { Format::Json } else { Format::Pgbouncer };
        let mut record = Record::new(format);
        event.record(&mut record);
        let level = Level::of(*event.metadata().level(), record.is_fatal());
        self.queue.push(level, &record, world::wall_clock);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &SpanRecord<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Why there is no log.
#[derive(Debug)]
pub enum LogError {
    /// `logfile` cannot be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No thread, or no descriptor for stderr.
    Start(io::Error),
    /// This process has a log already.
    Twice(SetGlobalDefaultError),
}

impl fmt::Display for LogError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Open { path, source } => {
                write!(out, "cannot open logfile \"{}\": {source}", path.display())
            }
            LogError::Start(source) => write!(out, "cannot start the log: {source}"),
            LogError::Twice(source) => write!(out, "the log runs already: {source}"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogError::Open { source, .. } | LogError::Start(source) => Some(source),
            LogError::Twice(source) => Some(source),
        }
    }
}

#[cfg(test)]
mod tests;
