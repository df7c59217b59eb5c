//! Sends a cancel request on to the server that runs the client's query.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::net::buffers::Inbox;
use crate::net::dial::dial_again;
use crate::net::sockopt::TcpOptions;
use crate::stats::roster::{CancelTarget, ClientCard, Roster, ServerCard};
use crate::wire::startup;

/// What became of a cancel request.
#[derive(Debug)]
pub enum Outcome {
    /// The client has no server: there is nothing to cancel.
    NothingRuns,
    /// The server was told; its answer is the end of the connection.
    Told,
    /// The server could not be told.
    Failed(io::Error),
}

/// Keeps a server from changing hands while it exists.
struct Hold {
    server: Arc<ServerCard>,
}

impl Hold {
    /// Holds the server on loan to this client; `None` when it has none, or has just given it back.
    fn on_server_of(client: &ClientCard, roster: &Roster) -> Option<Hold> {
        let id = client.link();
        let server = roster.server(id)?;
        server.cancels.fetch_add(1, SeqCst);
        let hold = Hold { server };
        (client.link() == id).then_some(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.server.cancels.fetch_sub(1, SeqCst);
    }
}

/// Cancels what this client's server runs. `settled` is told the number of the server once it may change hands again;
/// `within` is cancel_wait_timeout.
pub async fn forward(
    client: &ClientCard,
    roster: &Roster,
    tcp: &TcpOptions,
    within: Duration,
    settled: impl FnOnce(u64),
) -> Outcome {
    let id = client.link();
    if id == 0 {
        return Outcome::NothingRuns;
    }
    let told = match Hold::on_server_of(client, roster) {
        None => Outcome::NothingRuns,
        Some(hold) => match hold.server.cancel_target.get() {
            None => Outcome::NothingRuns,
            Some(target) => match limited(within, tell(target, tcp)).await {
                Ok(()) => Outcome::Told,
                Err(error) => Outcome::Failed(error),
            },
        },
    };
    settled(id);
    told
}

async fn limited(within: Duration, told: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    if within.is_zero() {
        return told.await;
    }
    tokio::time::timeout(within, told).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends the request and waits until the server closes the connection: by then it has signalled the backend.
async fn tell(target: &CancelTarget, tcp: &TcpOptions) -> io::Result<()> {
    let mut stream = dial_again(&target.reach, tcp).await?.stream;
    let mut out = Vec::with_capacity(16);
    startup::cancel_request(&mut out, target.pid, &target.secret);
    stream.send_all(&out).await?;
    let mut inbox = Inbox::default();
    while stream.fill(&mut inbox).await? > 0 {
        inbox.clear();
    }
    Ok(())
}
