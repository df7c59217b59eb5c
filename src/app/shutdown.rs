//! How the process ends.
//!
//! ```text
//!   Running ─ SIGTERM, SHUTDOWN WAIT_FOR_CLIENTS ─► WaitForClients ─┐ last client gone
//!      │                                                            ├─────────────────► Stopping
//!      ├──── SIGINT, SHUTDOWN WAIT_FOR_SERVERS ──► WaitForServers ──┤ last server free
//!      └──── SIGQUIT, SHUTDOWN ─────────────────────────────────────┘
//! ```
//!
//! A signal that comes again while the process waits ends it at once. So do SIGTERM and SIGINT during SUSPEND, with
//! exit code 1 as from PgBouncer (`handle_sigterm`): whoever suspended it has not come back. No new client is let in
//! from the first step on; on the Unix socket the console still is.

use std::sync::Arc;

use super::RunError;
use super::control::{Control, Phase};
use super::signals::{Signal, Signals};
use super::systemd;
use crate::client::Shared;
use crate::net::world;
use crate::pool::{ControlError, Stop};

/// How often a leaving process counts its clients.
const COUNT_PERIOD: std::time::Duration = std::time::Duration::from_millis(50);

/// How long a leaving process waits for queries to be cancelled that nobody waits for.
const CANCEL_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// Obeys signals until the process is to end.
pub async fn obey_signals(mut signals: Signals, control: Arc<Control>, shared: Arc<Shared>) {
    loop {
        let signal = signals.next().await;
        match signal {
            Signal::Hup => {
                tracing::info!("got SIGHUP, re-reading config");
                systemd::reloading();
                // What is wrong stands in the log.
                let _ = control.reload_now();
                systemd::ready();
            }
            Signal::Quit => {
                tracing::info!("got SIGQUIT, fast exit");
                control.advance(Phase::Stopping);
            }
            Signal::Term | Signal::Int if is_leaving(&control) => {
                tracing::info!("got {} while shutting down, fast exit", signal.name());
                control.advance(Phase::Stopping);
            }
            Signal::Term | Signal::Int if shared.registry.suspension().is_on() => control.advance(Phase::Failing),
            Signal::Term => {
                tracing::info!("got SIGTERM, shutting down, waiting for all clients disconnect");
                control.advance(Phase::WaitForClients);
            }
            Signal::Int => {
                tracing::info!("got SIGINT, shutting down, waiting for all servers connections to be released");
                control.advance(Phase::WaitForServers);
            }
            Signal::Usr1 => match shared.registry.pause(None, world::now()) {
                Ok(_) => tracing::info!("got SIGUSR1, pausing all activity"),
                Err(ControlError::AlreadyPaused) => tracing::info!("got SIGUSR1, but already paused/suspended"),
                Err(error) => tracing::info!("got SIGUSR1, but {error}"),
            },
            Signal::Usr2 if is_leaving(&control) => tracing::info!("got SIGUSR2 while shutting down, ignoring"),
            Signal::Usr2 => match shared.registry.resume(None, world::now()) {
                Ok(()) => tracing::info!("got SIGUSR2, continuing from PAUSE"),
                Err(ControlError::NotPaused) => tracing::info!("got SIGUSR2, but not paused/suspended"),
                Err(error) => tracing::info!("got SIGUSR2, but {error}"),
            },
        }
    }
}

fn is_leaving(control: &Control) -> bool {
    *control.phase().borrow() != Phase::Running
}

/// Ends when the process is to end, by whichever way.
///
/// # Errors
/// It ends as it should not.
pub async fn ended(control: Arc<Control>, shared: Arc<Shared>) -> Result<(), RunError> {
    let mut phase = control.phase();
    let mut told = false;
    loop {
        let now = *phase.borrow_and_update();
        if now != Phase::Running && !std::mem::replace(&mut told, true) {
            systemd::stopping();
        }
        let mut changed = phase.clone();
        match now {
            Phase::Stopping => return Ok(()),
            Phase::Failing => return Err(RunError::Suspended),
            Phase::Running => {
                let _ = phase.changed().await;
            }
            Phase::WaitForClients => tokio::select! {
                biased;
                () = leave(&shared, Stop::WaitForClients, last_client_left(&shared)) => {
                    tracing::info!("client connections dropped, exiting");
                    control.advance(Phase::Stopping);
                }
                _ = changed.changed() => {}
            },
            Phase::WaitForServers => tokio::select! {
                biased;
                () = leave(&shared, Stop::WaitForServers, last_server_free(&shared)) => {
                    tracing::info!("server connections dropped, exiting");
                    control.advance(Phase::Stopping);
                }
                _ = changed.changed() => {}
            },
        }
    }
}

/// Tells the pools, then waits.
async fn leave(shared: &Shared, stop: Stop, last: impl Future<Output = ()>) {
    shared.registry.stop(stop, world::now());
    last.await;
    queries_cancelled(shared).await;
}

/// Queries whose clients have left are being cancelled: PostgreSQL gets a moment to hear of it, not the time that it
/// takes to obey.
async fn queries_cancelled(shared: &Shared) {
    let since = world::now();
    while shared.registry.servers_abandoned(world::now()) > 0 && world::now().since(since) < CANCEL_PATIENCE {
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}

async fn last_client_left(shared: &Shared) {
    // Those that have connected and are not in yet are carried already.
    let consoles = || shared.roster.count_clients(|card| card.console.load(std::sync::atomic::Ordering::Relaxed));
    let ports_closed = || shared.listeners.all().iter().all(|listener| listener.is_unix());
    while !ports_closed() || shared.workers.carried() > consoles() {
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}

async fn last_server_free(shared: &Shared) {
    while shared.registry.servers_away(world::now()) > 0 {
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}
