//! How the process ends.
//!
//! ```text
//!   Running ─ SIGTERM, SHUTDOWN WAIT_FOR_CLIENTS ─► WaitForClients ─┐ last client gone
//!      │                                                            ├─────────────────► Stopping
//!      ├──── SIGINT, SHUTDOWN WAIT_FOR_SERVERS ──► WaitForServers ──┤ last server free
//!      └──── SIGQUIT, SHUTDOWN ─────────────────────────────────────┘
//! ```
//!
//! A signal that comes again while the process waits ends it at once. No new client is let in from the first step on;
//! on the Unix socket the console still is.

use std::sync::Arc;

use super::control::{Control, Phase};
use super::signals::{Signal, Signals};
use crate::client::Shared;
use crate::net::world;
use crate::pool::Stop;

/// How often a leaving process counts its clients.
const COUNT_PERIOD: std::time::Duration = std::time::Duration::from_millis(50);

/// Obeys signals until the process is to end.
pub async fn obey_signals(mut signals: Signals, control: Arc<Control>, shared: Arc<Shared>) {
    loop {
        let signal = signals.next().await;
        tracing::info!("got {}", signal.name());
        match signal {
            Signal::Hup => {
                let _ = control.reload_now();
            }
            Signal::Quit => control.advance(Phase::Stopping),
            Signal::Term | Signal::Int if is_leaving(&control) => {
                tracing::info!("got {} while shutting down, fast exit", signal.name());
                control.advance(Phase::Stopping);
            }
            Signal::Term => {
                tracing::info!("shutting down when the last client has left");
                control.advance(Phase::WaitForClients);
            }
            Signal::Int => {
                tracing::info!("shutting down when the last server is free");
                control.advance(Phase::WaitForServers);
            }
            Signal::Usr1 => match shared.registry.pause(None, world::now()) {
                Ok(_) => tracing::info!("pausing all databases"),
                Err(error) => tracing::warn!("cannot pause: {error}"),
            },
            Signal::Usr2 if is_leaving(&control) => tracing::warn!("shutting down: SIGUSR2 is ignored"),
            Signal::Usr2 => match shared.registry.resume(None, world::now()) {
                Ok(()) => tracing::info!("resuming all databases"),
                Err(error) => tracing::warn!("cannot resume: {error}"),
            },
        }
    }
}

fn is_leaving(control: &Control) -> bool {
    *control.phase().borrow() != Phase::Running
}

/// Ends when the process is to end, by whichever way.
pub async fn ended(control: Arc<Control>, shared: Arc<Shared>) {
    let mut phase = control.phase();
    loop {
        let now = *phase.borrow_and_update();
        let mut changed = phase.clone();
        match now {
            Phase::Stopping => return,
            Phase::Running => {
                let _ = phase.changed().await;
            }
            Phase::WaitForClients => tokio::select! {
                biased;
                () = leave(&shared, Stop::WaitForClients, last_client_left(&shared)) => {
                    control.advance(Phase::Stopping);
                }
                _ = changed.changed() => {}
            },
            Phase::WaitForServers => tokio::select! {
                biased;
                () = leave(&shared, Stop::WaitForServers, last_server_free(&shared)) => {
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
}

async fn last_client_left(shared: &Shared) {
    let applications = |shared: &Shared| {
        let cards = shared.roster.clients();
        cards.iter().filter(|card| !card.console.load(std::sync::atomic::Ordering::Relaxed)).count()
    };
    while applications(shared) > 0 {
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}

async fn last_server_free(shared: &Shared) {
    while shared.registry.servers_away(world::now()) > 0 {
        tokio::time::sleep(COUNT_PERIOD).await;
    }
}
