//! What a service manager is told: `Type=notify` and `Type=notify-reload` of systemd.
//!
//! | when | message |
//! |---|---|
//! | clients can connect | `READY=1` |
//! | SIGHUP | `RELOADING=1` and `MONOTONIC_USEC=…`, then `READY=1`, also where the reload was refused |
//! | the process is on its way out | `STOPPING=1` |
//! | every `stats_period` | `STATUS=stats: …`, whatever `log_stats` says |
//!
//! The messages and their moments are PgBouncer's, but that it sends `STOPPING=1` for signals only, not for the
//! console's SHUTDOWN. Without `NOTIFY_SOCKET` in the environment nothing is sent. Sockets that the manager passes are
//! the matter of [`crate::net::inherit`]. See `sd_notify(3)`.

use sd_notify::NotifyState;

use crate::stats::averages;
use crate::stats::counters::Totals;

/// Clients can connect, or a reload is over.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot tell the service manager of the reload: {error}"),
    }
}

/// The process is on its way out.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The averages of the period that has just passed. The message leaves from another thread: a manager that is busy
/// delays nobody. Called on a tokio runtime.
pub fn status(averages: &Totals) {
    if std::env::var_os(SOCKET).is_some() {
        let status = averages::log_line(averages);
        tokio::task::spawn_blocking(move || tell(&[NotifyState::Status(&status)]));
    }
}

/// The variable that names the manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

fn tell(messages: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(messages) {
        let socket = std::env::var_os(SOCKET).unwrap_or_default();
        tracing::warn!("cannot tell the service manager on {}: {error}", socket.display());
    }
}
