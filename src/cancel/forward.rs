//! Takes aim at what a client runs.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::stats::roster::{CancelTarget, ClientCard, Roster, ServerCard};

/// Why there is nothing to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The client has no server: nothing runs for it.
    Idle,
    /// Its server is being given its parameters, and has not begun with what the client asked.
    SettingParameters,
}

impl Miss {
    /// PgBouncer's words for the log.
    pub fn text(self) -> &'static str {
        match self {
            Miss::Idle => "cancel request for idle client",
            Miss::SettingParameters => "ignoring cancel request for server that is setting vars",
        }
    }
}

/// The loan that a request is meant for: this client's, of this server. Not the next of the same two.
#[derive(Debug)]
pub struct Aim {
    client: Arc<ClientCard>,
    server: Arc<ServerCard>,
    server_id: u64,
    loan: u64,
}

/// Keeps a server from changing hands while it exists. Whoever drops it then lets the pool look at what it kept back.
#[derive(Debug)]
pub struct Hold {
    server: Arc<ServerCard>,
}

impl Aim {
    /// Takes aim at the server that this client has now.
    ///
    /// # Errors
    /// See [`Miss`].
    pub fn at(client: &Arc<ClientCard>, roster: &Roster) -> Result<Aim, Miss> {
        let server_id = client.link();
        let server = roster.server(server_id).ok_or(Miss::Idle)?;
        let aim = Aim { client: client.clone(), loan: server.loans(), server, server_id };
        match aim.stands() {
            _ if aim.server.setting_parameters.load(SeqCst) => Err(Miss::SettingParameters),
            true => Ok(aim),
            false => Err(Miss::Idle),
        }
    }

    /// Does the loan last? If it was another client's when aim was taken, it cannot be this one's.
    pub fn stands(&self) -> bool {
        // The count is raised before the link is made: who sees the link sees the count.
        self.client.link() == self.server_id && self.server.loans() == self.loan
    }

    /// What to tell the server's postmaster, and where; `None` where the server gave no key.
    pub fn target(&self) -> Option<&CancelTarget> {
        self.server.cancel_target.get()
    }

    /// Holds the server on loan; `None` when it has just been given back. To be called when the request can be sent at
    /// once, since nobody gets the server meanwhile.
    pub fn hold(&self) -> Option<Hold> {
        self.server.cancels.fetch_add(1, SeqCst);
        let hold = Hold { server: self.server.clone() };
        self.stands().then_some(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.server.cancels.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::stats::moment::Moment;
    use crate::stats::roster::{Endpoint, EnteredServer, Names};

    fn end() -> Endpoint {
        Endpoint::Unix { port: 6432, pid: None, uid: None }
    }

    fn client(roster: &Roster) -> Arc<ClientCard> {
        Arc::new(ClientCard::new(roster.next_id(), end(), end(), SystemTime::UNIX_EPOCH, Moment(1)))
    }

    fn server(roster: &Arc<Roster>) -> EnteredServer {
        let names = Names { database: "app".into(), user: "joe".into() };
        let card = ServerCard::new(roster.next_id(), names, end(), end(), SystemTime::UNIX_EPOCH, Moment(1));
        roster.enter_server(card)
    }

    fn lend(server: &ServerCard, client: &ClientCard) {
        server.count_loan();
        client.set_link(server.id);
    }

    #[test]
    fn a_client_without_a_server_is_missed() {
        let roster = Arc::new(Roster::default());
        let (client, server) = (client(&roster), server(&roster));
        assert_eq!(Aim::at(&client, &roster).unwrap_err(), Miss::Idle);

        lend(server.card(), &client);
        server.card().setting_parameters.store(true, SeqCst);
        assert_eq!(Aim::at(&client, &roster).unwrap_err(), Miss::SettingParameters);

        server.card().setting_parameters.store(false, SeqCst);
        assert!(Aim::at(&client, &roster).is_ok());
    }

    #[test]
    fn a_server_is_held_only_while_the_loan_lasts() {
        let roster = Arc::new(Roster::default());
        let (client, server) = (client(&roster), server(&roster));
        lend(server.card(), &client);
        let aim = Aim::at(&client, &roster).unwrap();

        let hold = aim.hold();
        assert!(hold.is_some());
        assert_eq!(server.card().cancels.load(SeqCst), 1);
        drop(hold);

        client.set_link(0);
        assert!(aim.hold().is_none());
        assert_eq!(server.card().cancels.load(SeqCst), 0);
    }

    #[test]
    fn the_next_loan_to_the_same_client_is_another() {
        let roster = Arc::new(Roster::default());
        let (client, server) = (client(&roster), server(&roster));
        lend(server.card(), &client);
        let aim = Aim::at(&client, &roster).unwrap();
        client.set_link(0);
        lend(server.card(), &client);

        assert!(!aim.stands());
        assert!(aim.hold().is_none());
        assert!(Aim::at(&client, &roster).unwrap().hold().is_some());
    }
}
