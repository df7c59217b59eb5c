//! What the console and the signals ask of the process: reload, shut down, change a setting.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::logging::line::Format;
use super::logging::{Log, LogOptions};
use crate::admin::{ProcessControl, ShutdownMode};
use crate::auth::KeyCache;
use crate::config::{self, Config, LogFormat, Sources};
use crate::net::world;
use crate::pool::Registry;

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Running,
    /// It leaves when the last client has left.
    WaitForClients,
    /// It leaves when the last server is free.
    WaitForServers,
    /// It leaves now.
    Stopping,
}

/// The process, as others may ask things of it.
pub struct Control {
    sources: Sources,
    /// -q and -v of the command line, which outrank the settings.
    quiet: bool,
    verbose: u8,
    log: Log,
    keys: KeyCache,
    registry: OnceLock<Arc<Registry>>,
    phase: watch::Sender<Phase>,
    /// One reload or SET at a time.
    changing: Mutex<()>,
}

impl Control {
    /// A process that runs, configured from `sources`.
    pub fn new(sources: Sources, quiet: bool, verbose: u8, log: Log, keys: KeyCache) -> Control {
        let phase = watch::Sender::new(Phase::Running);
        let registry = OnceLock::new();
        Control { sources, quiet, verbose, log, keys, registry, phase, changing: Mutex::new(()) }
    }

    /// Says where the pools are; once, at the start.
    pub fn set_registry(&self, registry: Arc<Registry>) {
        let _ = self.registry.set(registry);
    }

    /// Waits until everything logged so far is written.
    pub fn flush_log(&self) {
        self.log.flush();
    }

    /// Tells of each step on the way out.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// A step on the way out; never one back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let further = to > *phase;
            if further {
                *phase = to;
            }
            further
        });
    }

    /// Reads everything again and applies it; on any problem nothing is applied, and all problems are logged.
    ///
    /// # Errors
    /// All problems, a line each.
    pub fn reload_now(&self) -> Result<(), String> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(registry) = self.registry.get() else { return Ok(()) };
        let running = registry.config();
        let mut sources = self.sources.clone();
        if let Some(conffile) = &running.settings.conffile {
            sources.conffile = Some(conffile.clone());
        }
        let mut config = config::load(&sources).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            for line in &lines {
                tracing::error!("{line}");
            }
            tracing::error!("RELOAD refused: the configuration in force stays");
            lines.join("\n")
        })?;
        for notice in &config.notices {
            tracing::warn!("{notice}");
        }
        for setting in config.settings.keep_restart_only(&running.settings) {
            tracing::warn!("{}: changed, but takes effect only with a restart", setting.name);
        }
        self.apply(registry, config);
        tracing::info!("configuration reloaded");
        Ok(())
    }

    fn apply(&self, registry: &Registry, config: Config) {
        self.keys.set_scram_iterations(config.settings.scram_iterations);
        if let Err(error) = self.log.reopen(&log_options(&config, self.quiet, self.verbose)) {
            tracing::error!("{error}; the log goes on where it was");
        }
        registry.apply(Arc::new(config), world::now());
    }
}

/// What the settings and the command line say of the log.
pub fn log_options(config: &Config, quiet: bool, verbose: u8) -> LogOptions {
    let settings = &config.settings;
    LogOptions {
        stderr: !quiet,
        file: settings.logfile.clone(),
        format: match settings.log_format {
            LogFormat::Pgbouncer => Format::Pgbouncer,
            LogFormat::Json => Format::Json,
        },
        verbose: if verbose > 0 { verbose } else { u8::try_from(settings.verbose).unwrap_or(u8::MAX) },
    }
}

impl ProcessControl for Control {
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        // Reading files takes microseconds where the log's own files are; a reload is rare and deserves an answer now.
        let outcome = self.reload_now();
        Box::pin(std::future::ready(outcome))
    }

    fn shutdown(&self, how: ShutdownMode) {
        self.advance(match how {
            ShutdownMode::WaitForClients => Phase::WaitForClients,
            ShutdownMode::WaitForServers => Phase::WaitForServers,
            ShutdownMode::Immediate => Phase::Stopping,
        });
    }

    fn shutting_down(&self) -> bool {
        *self.phase.borrow() != Phase::Running
    }

    fn set(&self, name: &str, value: &str) -> Result<(), String> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(registry) = self.registry.get() else { return Ok(()) };
        let mut config = Config::clone(&registry.config());
        config.settings.set(name, value).map_err(|error| error.to_string())?;
        self.apply(registry, config);
        Ok(())
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }
}
