//! The process: builds every part, hands each what it needs, and waits for the end. The only spawner of services.
//!
//! - [`cli`] the command line
//! - [`runtime`] how many threads, which flavour
//! - [`accept`] listeners → client tasks
//! - [`balance`] how many workers carry clients
//! - [`janitor`] three times a second: pools, overdue clients, averages
//! - [`check`] could it have its sockets and files?
//! - [`ping`] is one there that answers?
//! - [`control`] reload, SET and shutdown, for the console and the signals
//! - [`shutdown`] how the process ends
//! - [`takeover`] `-R`: in the place of a running process
//! - [`signals`], [`logging`], [`process`], [`systemd`] the operating system's side

pub mod accept;
pub mod balance;
pub mod check;
pub mod cli;
pub mod control;
pub mod janitor;
pub mod logging;
pub mod ping;
pub mod process;
pub mod runtime;
pub mod shutdown;
pub mod signals;
pub mod systemd;
pub mod takeover;

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::admin;
use crate::auth::KeyCache;
use crate::cancel::table::CancelTable;
use crate::client::auth_query::LookedUp;
use crate::client::{Seats, Shared};
use crate::config::Config;
use crate::net::ldap::Directories;
use crate::net::listen::{Listeners, Listening};
use crate::net::pam::Pam;
use crate::net::tls::InForce;
use crate::net::world;
use crate::pool::Registry;
use crate::protocol::parameters::Tracked;
use crate::protocol::shared::{Catalogue, Interner};
use crate::stats::averages::Averages;
use crate::stats::counters::Counters;
use crate::stats::lines;
use crate::stats::roster::Roster;
use balance::Meter;
use control::{Control, Phase};
use takeover::{Takeover, TakeoverError};

/// Why the process could not start, or ended otherwise than asked for.
#[derive(Debug)]
pub enum RunError {
    /// The kernel refused threads, epoll or signals.
    Io(io::Error),
    /// A setting cannot be obeyed.
    Setting(String),
    /// The process to be replaced goes on.
    Takeover(TakeoverError),
    /// It was told to stop while it was suspended.
    Suspended,
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunError::Io(error) => write!(f, "cannot start: {error}"),
            RunError::Setting(text) => f.write_str(text),
            RunError::Takeover(error) => write!(f, "{error}"),
            RunError::Suspended => f.write_str("suspend was in progress, going down immediately"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> RunError {
        RunError::Io(error)
    }
}

/// Pools connections until the process is to end, with this TLS to begin with. `takeover` is the process to be
/// replaced, and `ready` is called once clients can connect.
///
/// # Errors
/// See [`RunError`].
pub fn run(
    config: Config,
    tls: InForce,
    listening: Listening,
    control: Arc<Control>,
    keys: KeyCache,
    takeover: Option<Takeover>,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let count = runtime::worker_count(config.settings.worker_threads);
    let services = runtime::new_runtime()?;
    let buffer_bytes = usize::try_from(config.settings.pkt_buf).unwrap_or(usize::MAX);
    let (workers, threads) = runtime::start_workers(services.handle(), count, buffer_bytes)?;
    let meter = Meter::new(threads.numbers.clone(), world::now());
    let outcome = services.block_on(async {
        let shared = build(config, tls, &control, &workers, keys)?;
        serve(shared, listening, control.clone(), meter, takeover, ready).await
    });
    if control.handed_over() {
        // Dropping a task would close its server with a Terminate, and remove the socket's file: all of that is the
        // successor's now. The process ends next, and the kernel closes what is left.
        std::mem::forget((threads, services));
        return outcome;
    }
    drop(threads);
    services.shutdown_background();
    outcome
}

fn build(
    config: Config,
    tls: InForce,
    control: &Arc<Control>,
    workers: &crate::net::workers::Workers,
    keys: KeyCache,
) -> Result<Arc<Shared>, RunError> {
    let tracked =
        Tracked::new(&config.settings.track_extra_parameters).map_err(|bad| RunError::Setting(bad.to_string()))?;
    let roster = Arc::new(Roster::default());
    let registry = Registry::new(Arc::new(config), roster.clone(), workers.clone(), keys.clone());
    if let Err(problem) = registry.dns().check() {
        tracing::warn!("{problem}; hosts of [databases] that are names are not found until it can be read");
    }
    control::encrypt(&registry, tls);
    control.set_registry(registry.clone());
    let console = admin::Context {
        registry: Arc::new(registry.clone()),
        roster: roster.clone(),
        averages: Arc::new(Averages::new(world::now())),
        process: control.clone(),
        counters: Counters::new(workers.count()),
        client_bytes: crate::client::SESSION_BYTES,
    };
    let directories = Directories::new(registry.dns().clone());
    Ok(Arc::new(Shared {
        registry,
        workers: workers.clone(),
        roster,
        keys,
        cancels: Arc::new(CancelTable::default()),
        catalogue: Catalogue::default(),
        interner: Interner::default(),
        tracked,
        console: Arc::new(console),
        directories,
        pam: Pam::default(),
        looked_up: LookedUp::default(),
        seats: Arc::new(Seats::default()),
        throttle: Mutex::default(),
        listeners: Listeners::default(),
    }))
}

async fn serve(
    shared: Arc<Shared>,
    listening: Listening,
    control: Arc<Control>,
    meter: Meter,
    takeover: Option<Takeover>,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    let signals = signals::Signals::listen()?;
    let (open_tcp, tcp_is_open) = watch::channel(true);
    let (open_unix, unix_is_open) = watch::channel(true);
    for warning in &listening.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(mut takeover) = takeover {
        takeover.finish(shared.registry.config().settings.pidfile.as_deref()).map_err(RunError::Takeover)?;
        takeover.adopt(&shared);
    }
    for listener in listening.listeners {
        tracing::info!("{}", lines::listening(&listener.name));
        let open = if listener.is_unix() { unix_is_open.clone() } else { tcp_is_open.clone() };
        let listener = Arc::new(listener);
        shared.listeners.enter(&listener);
        tokio::spawn(accept::accept(listener, shared.clone(), open));
    }
    tokio::spawn(janitor::run(shared.clone(), meter));
    tokio::spawn(shutdown::obey_signals(signals, control.clone(), shared.clone()));
    tracing::info!("{}", lines::process_up(admin::PGBOUNCER_VERSION, shared.workers.count()));
    ready();
    systemd::ready();

    let mut phase = control.phase();
    let close_tcp = async {
        let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
        let _ = open_tcp.send(false);
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = shutdown::ended(control.clone(), shared.clone()) => ended,
        () = close_tcp => Ok(()),
    };
    match control.handed_over() {
        true => shared.registry.dismiss_left_behind().await,
        false => drop(open_unix.send(false)),
    }
    ended
}
