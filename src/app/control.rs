//! What the console and the signals ask of the process: reload, shut down, change a setting.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::logging::line::Format;
use super::logging::syslog::{self, Syslog};
use super::logging::{Log, LogOptions};
use crate::admin::{ProcessControl, ShutdownMode};
use crate::auth::KeyCache;
use crate::config::{self, Config, LogFormat, SetEffect, Settings, Sources, SyslogFacility};
use crate::net::tls::InForce;
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
    /// It leaves now, and whoever waits for its exit code is to know that somebody was not served to the end.
    Failing,
}

/// The process, as others may ask things of it.
pub struct Control {
    sources: Sources,
    /// What the command line says of the log; its verbosity is among the `fallbacks` of `sources`.
    log_base: LogOptions,
    log: Log,
    keys: KeyCache,
    registry: OnceLock<Arc<Registry>>,
    phase: watch::Sender<Phase>,
    /// One reload or SET at a time.
    changing: Mutex<()>,
}

impl Control {
    /// A process that runs, configured from `sources`, its log from `log_base`.
    pub fn new(sources: Sources, log_base: LogOptions, log: Log, keys: KeyCache) -> Control {
        let phase = watch::Sender::new(Phase::Running);
        let registry = OnceLock::new();
        Control { sources, log_base, log, keys, registry, phase, changing: Mutex::new(()) }
    }

    /// Says where the pools are; once, at the start.
    pub fn set_registry(&self, registry: Arc<Registry>) {
        let _ = self.registry.set(registry);
    }

    /// Has a successor taken everything?
    pub fn handed_over(&self) -> bool {
        self.registry.get().is_some_and(|registry| registry.suspension().handed_over())
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
        let mut sources = Sources { reload: true, ..self.sources.clone() };
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
        let tls = registry.tls().prepare(&config.settings).inspect_err(|error| {
            tracing::error!("{}", config.tls_problem(error));
            tracing::error!("RELOAD refused: TLS configuration could not be reloaded, keeping old configuration");
        })?;
        self.apply(registry, config);
        encrypt(registry, tls);
        tracing::info!("configuration reloaded");
        Ok(())
    }

    fn apply(&self, registry: &Registry, config: Config) {
        self.keys.set_scram_iterations(config.settings.scram_iterations);
        if let Err(error) = self.log.reopen(&log_options(&config, &self.log_base)) {
            tracing::error!("{error}; the log goes on where it was");
        }
        registry.apply(Arc::new(config), world::now());
    }
}

/// Puts TLS in force. Servers that were connected to otherwise are replaced, as with RECONNECT.
pub fn encrypt(registry: &Registry, tls: InForce) {
    for notice in &tls.notices {
        tracing::warn!("{notice}");
    }
    if registry.tls().put_in_force(tls) {
        let _ = registry.reconnect(None, world::now());
    }
}

/// What the settings say of the log, on top of what the command line does.
pub fn log_options(config: &Config, base: &LogOptions) -> LogOptions {
    let settings = &config.settings;
    let syslog = settings.syslog.then(|| Syslog {
        socket: syslog::SOCKET.into(),
        facility: SyslogFacility::named(&settings.syslog_facility).unwrap_or_default(),
        ident: settings.syslog_ident.clone(),
    });
    LogOptions {
        stderr: base.stderr,
        journal: base.journal.clone(),
        syslog,
        job: Some(settings.job_name.clone()).filter(|name| *name != Settings::default().job_name),
        file: settings.logfile.clone(),
        format: match settings.log_format {
            LogFormat::Pgbouncer => Format::Pgbouncer,
            LogFormat::Json => Format::Json,
        },
        verbose: u8::try_from(settings.verbose).unwrap_or(u8::MAX),
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

    fn turns_away(&self, on_unix_socket: bool) -> bool {
        match *self.phase.borrow() {
            Phase::Running => false,
            Phase::WaitForClients => on_unix_socket,
            Phase::WaitForServers | Phase::Stopping | Phase::Failing => true,
        }
    }

    fn set(&self, name: &str, value: &str) -> Result<SetEffect, String> {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(registry) = self.registry.get() else { return Ok(SetEffect::Now) };
        let mut config = Config::clone(&registry.config());
        let effect = config.settings.set(name, value).map_err(|error| error.to_string())?;
        if let SetEffect::NobodyIn(why) = &effect {
            tracing::warn!("{why}: nobody can log in");
        }
        let tls = name.contains("_tls_") || name.contains("_tls13_");
        let tls = tls.then(|| registry.tls().prepare(&config.settings));
        self.apply(registry, config);
        match tls {
            None => Ok(effect),
            Some(Ok(tls)) => {
                encrypt(registry, tls);
                Ok(effect)
            }
            // As in PgBouncer, the value stays: a key and its certificate are set one after the other.
            Some(Err(error)) => {
                tracing::error!("TLS setup failed: {error}");
                Ok(SetEffect::TlsAsBefore(error))
            }
        }
    }

    fn log_written(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.log.written())
    }
}
