//! Pools with real sockets, against a Postgres that is only a script.

mod postgres;

use std::task::Poll;
use std::time::{Duration, SystemTime};

use super::*;
use crate::config::{Config, load_bytes};
use crate::net::world;
use crate::stats::roster::{ClientCard, ClientState, Endpoint, Order as ToClient};
use postgres::Postgres;

/// A process with one worker thread, the test's own.
struct Process {
    registry: Arc<Registry>,
    roster: Arc<Roster>,
}

/// A client without a socket.
struct Client {
    card: Arc<ClientCard>,
    waiter: Arc<Waiter>,
    pool: Arc<Pool>,
}

fn config(text: &str) -> Arc<Config> {
    match load_bytes("test.ini", text.as_bytes()) {
        Ok(config) => Arc::new(config),
        Err(problems) => panic!("{problems:?}"),
    }
}

/// A database `app` at `postgres`, and whatever `more` says in the section of settings.
fn ini(postgres: &Postgres, more: &str) -> String {
    let port = postgres.port();
    format!(
        "[databases]\napp = host=127.0.0.1 port={port}\n* = host=127.0.0.1 port={port}\n\
         [pgbouncer]\nauth_type = trust\npool_mode = transaction\nserver_check_query =\n{more}\n"
    )
}

impl Process {
    fn new(text: &str) -> Process {
        let roster = Arc::new(Roster::default());
        let workers = Workers::new(vec![tokio::runtime::Handle::current()]);
        let registry = Registry::new(config(text), roster.clone(), workers, KeyCache::new([7; 32], 4096));
        Process { registry, roster }
    }

    fn client(&self, database: &str, user: &str) -> Client {
        let end = Endpoint::Unix { port: 6432, pid: None, uid: None };
        let card = ClientCard::new(self.roster.next_id(), end.clone(), end, SystemTime::UNIX_EPOCH, world::now());
        let _ = card.names.set(crate::stats::roster::Names { database: database.into(), user: user.into() });
        card.set_state(ClientState::Active);
        let card = Arc::new(card);
        let pool = self.registry.pool(database, user, &Credential::None).unwrap();
        Client { waiter: Waiter::new(card.clone(), pool.clone()), card, pool }
    }
}

impl Client {
    fn ask(&self) -> Ask {
        self.pool.ask(&self.waiter, 0, world::now())
    }

    fn must_wait(&self) -> Ticket {
        match self.ask() {
            Ask::Waiting(ticket) => ticket,
            Ask::Granted(_) => panic!("granted at once"),
            Ask::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    async fn answer(&self, ticket: &mut Ticket) -> Result<Lease, Refusal> {
        std::future::poll_fn(|cx| {
            self.card.set_waker(cx.waker());
            ticket.poll().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    async fn lease(&self) -> Lease {
        match self.ask() {
            Ask::Granted(lease) => lease,
            Ask::Waiting(mut ticket) => self.answer(&mut ticket).await.unwrap_or_else(|refusal| panic!("{refusal}")),
            Ask::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    fn counts(&self) -> Counts {
        self.pool.counts(world::now())
    }

    /// What new clients are told of a parameter without having to wait.
    fn told(&self, name: &str) -> Option<String> {
        match self.pool.greeting().0 {
            Greeting::Current(parameters) => parameters.get(name).map(str::to_owned),
            Greeting::Doubtful(_) | Greeting::Unknown => None,
        }
    }
}

/// Lets other tasks and the reactor run until it is so.
async fn until(what: impl Fn() -> bool) {
    let patience = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), patience).await.expect("it never came about");
}

#[tokio::test]
async fn a_server_is_opened_once_and_lent_again_and_again() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");

    let lease = client.lease().await;
    let id = lease.card().id;
    assert_eq!((client.card.link(), lease.card().link()), (id, client.card.id));
    assert_eq!((client.card.state(), lease.card().state()), (ClientState::Active, ServerState::Active));
    lease.release(world::now());
    assert_eq!(client.card.link(), 0);
    assert_eq!(process.roster.server(id).unwrap().state(), ServerState::Idle);

    let Ask::Granted(again) = client.ask() else { panic!("one is idle") };
    assert_eq!(again.card().id, id);
    again.release(world::now());

    assert_eq!(client.pool.counters().totals().server_assignment_count, 2);
    assert!(client.pool.counters().totals().wait_time > 0);
    assert_eq!(client.told("server_version").as_deref(), Some("15.0"));
    assert_eq!(postgres.logins(), 1);
}

#[tokio::test]
async fn a_dropped_lease_closes_its_server() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");

    drop(client.lease().await);

    assert_eq!(client.counts(), Counts::default());
    assert_eq!((client.card.link(), process.roster.server_count()), (0, 0));
    until(|| postgres.goodbyes() == 1).await;
}

#[tokio::test]
async fn a_grant_that_nobody_picks_up_gives_the_server_back() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "default_pool_size = 1"));
    let (client, other) = (process.client("app", "joe"), process.client("app", "joe"));
    let lease = client.lease().await;
    let ticket = other.must_wait();
    assert_eq!(other.card.state(), ClientState::Waiting);

    lease.release(world::now());
    assert_eq!(other.counts().active, 1, "it lies in the slot");
    drop(ticket);

    assert_eq!(other.card.state(), ClientState::Active);
    assert_eq!(other.counts(), Counts { idle: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_ticket_given_up_leaves_the_line() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "default_pool_size = 1"));
    let (client, other) = (process.client("app", "joe"), process.client("app", "joe"));
    let lease = client.lease().await;

    drop(other.must_wait());
    lease.release(world::now());

    assert_eq!(other.counts(), Counts { idle: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_server_that_hung_up_while_idle_is_not_lent() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");
    client.lease().await.release(world::now());

    postgres.hang_up();
    until(|| {
        process.registry.tick(world::now());
        client.counts().idle == 0
    })
    .await;

    client.lease().await.release(world::now());
    assert_eq!(postgres.logins(), 2);
}

#[tokio::test]
async fn in_session_mode_a_server_is_reset_before_the_next_client() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "pool_mode = session\ndefault_pool_size = 1"));
    let (client, other) = (process.client("app", "joe"), process.client("app", "joe"));
    let lease = client.lease().await;
    let mut ticket = other.must_wait();

    lease.release(world::now());
    assert_eq!(client.counts().tested, 1);
    other.answer(&mut ticket).await.unwrap().release_untouched(0, world::now());

    assert_eq!(postgres.queries(), ["DISCARD ALL"]);
    assert_eq!(client.counts(), Counts { idle: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_server_is_kept_back_while_a_cancel_request_is_under_way() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");
    let lease = client.lease().await;
    let server = lease.card().clone();

    server.cancels.fetch_add(1, SeqCst);
    lease.release(world::now());
    assert_eq!((client.counts().being_canceled, server.state()), (1, ServerState::BeingCanceled));
    client.pool.cancel_settled();
    assert_eq!(client.counts().being_canceled, 1, "it has not settled");

    server.cancels.fetch_sub(1, SeqCst);
    client.pool.cancel_settled();
    until(|| client.counts().idle == 1).await;
    assert_eq!(postgres.queries(), [""]);
}

/// Does a request get through at once?
async fn passes(ticket: &mut CancelTicket) -> bool {
    let mut admitted = std::pin::pin!(ticket.admitted());
    std::future::poll_fn(|cx| Poll::Ready(admitted.as_mut().poll(cx).is_ready())).await
}

#[tokio::test]
async fn requests_to_cancel_beyond_twice_the_pool_size_stand_in_line() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "default_pool_size = 1\nmax_db_connections = 1"));
    let client = process.client("app", "joe");
    let lease = client.lease().await;
    let (mut one, mut two) = (CancelTicket::for_pool(&client.pool), CancelTicket::for_pool(&client.pool));

    assert!(!passes(&mut two).await, "it is not the first");
    assert!(passes(&mut one).await, "whatever max_db_connections says");
    assert!(!passes(&mut two).await, "a server and a request are twice the pool size");
    let view = client.pool.view(world::now());
    assert_eq!((view.cl_waiting_cancel_req, view.cl_active_cancel_req, view.sv_login), (2, 0, 1));
    one.connected();
    let view = client.pool.view(world::now());
    assert_eq!((view.cl_waiting_cancel_req, view.cl_active_cancel_req, view.sv_active_cancel), (1, 1, 1));
    assert_eq!(process.registry.database_views()[0].current_connections, 2);

    let waiting = tokio::spawn(async move {
        two.admitted().await;
        two
    });
    drop(one);
    drop(waiting.await.unwrap());
    let view = client.pool.view(world::now());
    assert_eq!((view.cl_waiting_cancel_req, view.cl_active_cancel_req, view.sv_login), (0, 0, 0));
    assert_eq!(process.registry.database_views()[0].current_connections, 1);
    lease.release(world::now());
}

#[tokio::test]
async fn where_a_pool_has_no_size_the_caps_hold_for_requests_to_cancel() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "default_pool_size = 0\nmax_db_connections = 1"));
    let client = process.client("app", "joe");
    let lease = client.lease().await;
    let mut ticket = CancelTicket::for_pool(&client.pool);
    assert!(!passes(&mut ticket).await);

    let waiting = tokio::spawn(async move {
        ticket.admitted().await;
        ticket
    });
    lease.close("its place is needed");
    drop(waiting.await.unwrap());
}

#[tokio::test]
async fn a_connection_that_fails_makes_room_for_the_next_request() {
    let process = Process::new(
        "[databases]\n[peers]\n2 = host=/nowhere pool_size=1\n[pgbouncer]\nauth_type = trust\npeer_id = 1\n",
    );
    let peer = process.registry.peer(2).unwrap();
    assert!(process.registry.peer(3).is_none());
    let (mut one, mut two) = (CancelTicket::for_peer(&peer), CancelTicket::for_peer(&peer));
    assert!(passes(&mut one).await && !passes(&mut two).await);

    one.rest();
    assert!(passes(&mut two).await);
    one.rejoin();
    assert!(!passes(&mut one).await);
    assert_eq!((peer.view().cl_waiting_cancel_req, peer.view().sv_login), (2, 1));
    drop(two);
    assert!(passes(&mut one).await);
}

#[tokio::test]
async fn a_peer_that_is_configured_no_more_says_so_to_who_uses_it() {
    let text = |rest: &str| format!("[databases]\n[peers]\n{rest}\n[pgbouncer]\nauth_type = trust\npeer_id = 1\n");
    let process = Process::new(&text("2 = host=/one pool_size=1"));
    let peer = process.registry.peer(2).unwrap();
    let user = peer.clone();
    let removed = tokio::spawn(async move { user.removed().await });

    process.registry.apply(config(&text("2 = host=/other pool_size=2")), world::now());
    assert_eq!(peer.host(), crate::config::Host::new("/other", 6432));
    assert!(!removed.is_finished());

    process.registry.apply(config(&text("")), world::now());
    removed.await.unwrap();
    assert!(process.registry.peers().is_empty() && process.registry.peer(2).is_none());
}

#[tokio::test]
async fn under_a_common_cap_an_idle_server_makes_room() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "max_db_connections = 1"));
    let (joe, ann) = (process.client("app", "joe"), process.client("app", "ann"));
    joe.lease().await.release(world::now());

    let lease = ann.lease().await;
    assert_eq!((joe.counts().servers(), ann.counts().servers()), (0, 1));
    let mut ticket = joe.must_wait();
    assert_eq!(joe.counts().opening, 0, "there is no room, and nobody idle");

    lease.close("done with it");
    joe.answer(&mut ticket).await.unwrap().release(world::now());
    assert_eq!((joe.counts().servers(), ann.counts().servers()), (1, 0));
}

#[tokio::test]
async fn a_refused_login_is_told_to_those_who_wait_and_then_at_the_door() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "stranger");
    let mut ticket = client.must_wait();

    let refused = client.answer(&mut ticket).await;
    assert!(
        matches!(refused, Err(Refusal::ServerLoginFailed(error)) if error.sqlstate == "28000" && error.from_server)
    );
    drop(ticket);

    let Ask::Refused(refusal) = client.ask() else { panic!("the failure is fresh") };
    assert_eq!(
        refusal.to_string(),
        "server login has been failing, cached error: no stranger here (server_login_retry)"
    );
}

#[tokio::test]
async fn pause_waits_for_servers_and_resume_serves_again() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let (client, late) = (process.client("app", "joe"), process.client("app", "joe"));
    let lease = client.lease().await;

    let mut paused = process.registry.pause(Some("app"), world::now()).unwrap();
    assert!(poll_once(&mut paused).await.is_none(), "one is on loan");
    let mut ticket = late.must_wait();
    lease.release(world::now());
    paused.await;
    assert_eq!((client.counts().servers(), client.counts().waiting), (0, 1));
    assert!(process.registry.database_views()[0].paused);

    process.registry.resume(Some("app"), world::now()).unwrap();
    late.answer(&mut ticket).await.unwrap().release(world::now());
    assert_eq!(process.registry.resume(None, world::now()), Err(ControlError::NotPaused));
}

/// The outcome, if there is one already.
async fn poll_once(future: &mut Released) -> Option<()> {
    std::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(()) => Some(()),
            Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn kill_drops_clients_and_servers_and_leaves_the_database_paused() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "default_pool_size = 1"));
    let entered = {
        let end = Endpoint::Unix { port: 6432, pid: None, uid: None };
        let card = ClientCard::new(process.roster.next_id(), end.clone(), end, SystemTime::UNIX_EPOCH, world::now());
        let _ = card.names.set(crate::stats::roster::Names { database: "app".into(), user: "joe".into() });
        card.set_state(ClientState::Active);
        process.roster.enter_client(card)
    };
    let (client, waiting) = (process.client("app", "joe"), process.client("app", "joe"));
    let lease = client.lease().await;
    let mut ticket = waiting.must_wait();

    process.registry.kill(Some("app"), world::now()).unwrap();

    assert!(matches!(waiting.answer(&mut ticket).await, Err(Refusal::Killed)));
    assert_eq!(entered.card().order(), ToClient::DatabaseRemoved);
    lease.release(world::now());
    assert_eq!(client.counts(), Counts::default());
    assert!(matches!(client.ask(), Ask::Refused(Refusal::Killed)));
    assert!(process.registry.pools().is_empty() && process.registry.database_views()[0].paused);
    assert_eq!(process.registry.totals()[0].1.server_assignment_count, 1, "what it counted is kept");
}

#[tokio::test]
async fn a_reload_moves_servers_to_a_new_target_and_keeps_clients() {
    let (old, new) = (Postgres::start().await, Postgres::start().await);
    let process = Process::new(&ini(&old, ""));
    let client = process.client("app", "joe");
    let lease = client.lease().await;
    let version = client.pool.rules_version();

    process.registry.apply(config(&ini(&new, "query_wait_timeout = 7")), world::now());

    assert!(client.pool.rules_version() > version);
    assert_eq!(client.pool.rules().query_wait_timeout, Duration::from_secs(7));
    assert!(lease.card().close_needed.load(Relaxed));
    lease.release(world::now());
    process.registry.wait_close(Some("app")).unwrap().await;
    client.lease().await.release(world::now());
    assert_eq!((old.logins(), new.logins()), (1, 1));
}

#[tokio::test]
async fn a_database_that_is_no_longer_configured_ends() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");
    let lease = client.lease().await;

    process
        .registry
        .apply(config("[databases]\nother = host=127.0.0.1\n[pgbouncer]\nauth_type = trust\n"), world::now());

    assert!(matches!(client.ask(), Ask::Refused(Refusal::DatabaseGone)));
    assert_eq!(process.registry.pool("app", "joe", &Credential::None).unwrap_err(), NoPool::NoSuchDatabase);
    drop(lease);
    assert_eq!(client.counts(), Counts::default());
}

#[tokio::test]
async fn limits_on_clients_hold_and_are_given_back() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "max_db_client_connections = 2\nmax_user_client_connections = 1"));

    let joe = process.registry.admit("app", "joe").unwrap();
    assert_eq!(process.registry.admit("app", "joe").err(), Some(Denied::MaxUserClientConnections));
    let _ann = process.registry.admit("app", "ann").unwrap();
    assert_eq!(process.registry.admit("app", "bob").err(), Some(Denied::MaxDbClientConnections));
    drop(joe);

    assert!(process.registry.admit("app", "joe").is_ok());
    assert_eq!(process.registry.database_views()[0].current_client_connections, 1);
}

#[tokio::test]
async fn databases_met_by_way_of_the_star_are_forgotten_when_unused() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "autodb_idle_timeout = 60"));
    let client = process.client("elsewhere", "joe");
    let member = client.pool.join();
    let names =
        || -> Vec<String> { process.registry.database_views().iter().map(|view| view.name.to_string()).collect() };
    assert_eq!(client.pool.rules().dbname, "elsewhere");
    let later = |seconds| world::now() + Duration::from_secs(seconds);

    process.registry.tick(later(100));
    process.registry.tick(later(200));
    assert_eq!(names(), ["app", "elsewhere"], "it has a client");
    drop(member);
    process.registry.tick(later(300));
    process.registry.tick(later(400));

    assert_eq!(names(), ["app"]);
}

#[tokio::test]
async fn a_forced_user_has_one_pool_for_everybody() {
    let postgres = Postgres::start().await;
    let text = ini(&postgres, "").replace("app =", "app = user=shared password=x min_pool_size=1");
    let process = Process::new(&text);

    process.registry.tick(world::now());
    process.registry.tick(world::now());
    let (joe, ann) = (process.client("app", "joe"), process.client("app", "ann"));

    assert!(Arc::ptr_eq(&joe.pool, &ann.pool));
    assert_eq!(&**joe.pool.user(), "shared");
    until(|| joe.counts().idle == 1).await;
    let view = joe.pool.view(world::now());
    assert_eq!((view.sv_idle, view.cl_active, view.pool_mode), (1, 0, PoolMode::Transaction));
}

#[tokio::test]
async fn an_empty_pool_is_dropped_after_pool_idle_timeout_unless_somebody_holds_it() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "pool_idle_timeout = 10"));
    let client = process.client("app", "joe");
    let later = |seconds| world::now() + Duration::from_secs(seconds);

    process.registry.tick(later(0));
    process.registry.tick(later(20));
    assert_eq!(process.registry.pools().len(), 1);
    drop(client);
    process.registry.tick(later(40));

    assert!(process.registry.pools().is_empty());
}

#[test]
fn what_an_idle_client_holds_of_its_pool_stays_small() {
    assert!(size_of::<Waiter>() <= 88, "{} bytes", size_of::<Waiter>());
}

#[tokio::test]
async fn a_resting_server_that_was_notified_or_reports_a_parameter_stays_and_one_that_said_more_goes() {
    let notification: (u8, &[u8]) = (b'A', b"\0\0\0\x07news\0payload\0");
    let parameter: (u8, &[u8]) = (b'S', b"TimeZone\0Asia/Tokyo\0");
    let upgrade: (u8, &[u8]) = (b'S', b"server_version\x0016.0\0");
    let notice: (u8, &[u8]) = (b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    for (unasked, logins) in [
        (&[notification][..], 1),
        (&[notification, notification], 1),
        (&[parameter], 1),
        (&[upgrade], 1),
        (&[notice], 2),
        (&[notification, parameter, notification], 1),
        (&[parameter, notice], 2),
        (&[parameter; 65], 2),
    ] {
        let postgres = Postgres::start_saying(unasked).await;
        let process = Process::new(&ini(&postgres, ""));
        let client = process.client("app", "joe");
        client.lease().await.release(world::now());

        client.lease().await.release(world::now());

        assert_eq!(postgres.logins(), logins, "{unasked:?}");
        let version = if unasked == [upgrade] { "16.0" } else { "15.0" };
        assert_eq!(client.told("server_version").as_deref(), Some(version), "{unasked:?}");
    }
}

#[tokio::test]
async fn a_server_under_way_when_reconnect_came_tells_new_clients_nothing() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");
    postgres.hold();
    let mut ticket = client.must_wait();
    until(|| postgres.logins() == 1).await;

    postgres.upgrade("16.0");
    process.registry.reconnect(Some("app"), world::now()).unwrap();
    assert_eq!(client.pool.greeting().0, Greeting::Unknown);
    postgres.let_go();
    client.answer(&mut ticket).await.unwrap().release(world::now());

    assert_eq!(postgres.logins(), 2, "the first is closed");
    assert_eq!(client.told("server_version").as_deref(), Some("16.0"));
}

#[tokio::test]
async fn what_is_known_is_doubtful_while_no_server_stands_for_it() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "server_check_query = SELECT 1\nserver_check_delay = 0"));
    let client = process.client("app", "joe");
    let doubtful = || matches!(client.pool.greeting().0, Greeting::Doubtful(_));
    let lease = client.lease().await;
    assert_eq!(client.told("server_version").as_deref(), Some("15.0"));

    lease.release(world::now());
    assert!(doubtful(), "it is due for a check");
    let ticket = client.must_wait();
    assert!(doubtful() && client.pool.is_server_coming(), "it is being checked");
    drop(ticket);
    until(|| client.counts().idle == 1).await;
    assert_eq!(client.told("server_version").as_deref(), Some("15.0"));

    process.registry.pause(Some("app"), world::now()).unwrap().await;
    assert_eq!(client.told("server_version").as_deref(), Some("15.0"), "there is nobody to ask");
    process.registry.resume(Some("app"), world::now()).unwrap();
    assert!(doubtful());
}

#[tokio::test]
async fn a_server_that_was_opened_for_a_login_needs_no_check_for_its_first_use() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "server_check_query = SELECT 1\nserver_check_delay = 0"));
    let client = process.client("app", "joe");

    client.lease().await.release_untouched(0, world::now());
    let Ask::Granted(lease) = client.ask() else { panic!("it is ready") };
    assert!(postgres.queries().is_empty());

    lease.release(world::now());
    client.lease().await.release_untouched(0, world::now());
    client.lease().await.release(world::now());
    assert_eq!(postgres.queries(), ["SELECT 1"; 2], "a login is no use: the check before it counts for no query");
    assert_eq!(postgres.logins(), 1);
}

#[tokio::test]
async fn a_lease_from_before_reconnect_confirms_nothing() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, ""));
    let client = process.client("app", "joe");
    let round = client.pool.greeting().1;
    let lease = client.lease().await;
    assert_eq!(client.pool.confirm_greeting(&lease, round).unwrap().get("server_version"), Some("15.0"));

    process.registry.reconnect(Some("app"), world::now()).unwrap();
    client.pool.reported(lease.card(), "server_version", "14.0");

    assert_eq!(client.pool.confirm_greeting(&lease, round), None);
    assert_eq!(client.pool.greeting().0, Greeting::Unknown);
    lease.release(world::now());
    client.lease().await.release(world::now());
    assert_eq!(client.told("server_version").as_deref(), Some("15.0"));
}

#[tokio::test]
async fn a_server_for_one_use_outlasts_a_login_that_did_not_use_it() {
    let postgres = Postgres::start().await;
    let process = Process::new(&ini(&postgres, "server_lifetime = 0"));
    let client = process.client("app", "joe");
    let lease = client.lease().await;
    let id = lease.card().id;
    lease.release_untouched(0, world::now());

    let Ask::Granted(used) = client.ask() else { panic!("it is still there") };
    assert_eq!(used.card().id, id);
    used.release(world::now());

    assert!(process.roster.server(id).is_none(), "it had its one use");
}
