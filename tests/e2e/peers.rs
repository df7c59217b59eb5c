//! Cancel requests that reach another process than the one they are for.

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use crate::cancel::{cancel, cancel_packet};
use crate::support::gate::FakeServer;
use crate::support::postgres::free_port;
use crate::support::{self, Client, Login, Postgres, Proxy, Script, Setup, Wire, eventually};

/// Tells each of some processes, numbered from 1, of all of them, itself included.
fn acquaint(proxies: &[&Proxy], address: impl Fn(&Proxy) -> String) {
    for proxy in proxies {
        proxy.rewrite(|mut setup| {
            for (id, other) in (1..).zip(proxies) {
                setup = setup.peer(id, &address(other));
            }
            setup
        });
        proxy.own_console().ok("RELOAD");
    }
}

fn by_tcp(proxy: &Proxy) -> String {
    format!("host=127.0.0.1 port={}", proxy.port)
}

fn by_name(proxy: &Proxy) -> String {
    format!("host=localhost port={}", proxy.port)
}

fn by_socket(proxy: &Proxy) -> String {
    format!("host={} port={}", proxy.dir.display(), proxy.port)
}

/// A process with this number and a console of its own, which gives up no request while a test looks at it.
fn numbered(id: u16) -> Setup {
    Setup::new().set("peer_id", id).set("unix_socket_dir", "@DIR@").set("cancel_wait_timeout", 600)
}

/// A client of this very process with a query that runs for long.
fn busy_client(proxy: &Proxy) -> Client {
    let mut client = Login::to(proxy.port).unix(&proxy.dir).user(&proxy.role).database("app").client();
    client.send(Script::new().query("SELECT pg_sleep(60)"));
    Postgres::shared().until_sleeping(&proxy.role, 1);
    client
}

#[track_caller]
fn assert_cancelled(client: &mut Client) {
    assert_eq!(client.reply().error().unwrap()[&'C'], "57014");
}

/// The request for a key that the process `peer_id` might have given, with this many hops left.
fn forged(peer_id: u8, hops: u8) -> Vec<u8> {
    Script::untagged(&[80_877_102u32.to_be_bytes(), [1, peer_id, 0, 7], [1, 2, 3, 4 << 2 | hops]].concat())
}

/// A process that listens as a peer and hands over each connection that comes.
fn scripted_peer() -> (FakeServer, mpsc::Receiver<Wire>) {
    let (hand, visits) = mpsc::channel();
    let hand = Arc::new(Mutex::new(hand));
    let server = FakeServer::start(move |wire| {
        // The test may be over.
        let _ = hand.lock().unwrap().send(wire);
    });
    (server, visits)
}

/// What a peer was sent: a cancel request, and nothing else.
#[track_caller]
fn heard(wire: &mut Wire) -> Vec<u8> {
    (0..16).map(|_| wire.byte()).collect()
}

#[test]
fn a_request_that_reaches_a_peer_is_passed_on() {
    for address in [by_tcp, by_name, by_socket] {
        let (one, two) = (numbered(1).start(), numbered(2).start());
        acquaint(&[&one, &two], address);
        let mut client = busy_client(&one);

        cancel(&two, &cancel_packet(&client));

        assert_cancelled(&mut client);
        two.until_log("peer-1@");
        let zeros = [
            ("peer_id", "1"),
            ("cl_active_cancel_req", "0"),
            ("cl_waiting_cancel_req", "0"),
            ("sv_active_cancel", "0"),
            ("sv_login", "0"),
        ];
        two.until("PEER_POOLS", |pools| pools.find(&zeros).is_some());
        assert!(one.show("PEER_POOLS").all(&[]).is_empty(), "its own id is no peer");
        assert_eq!(one.show("PEERS").all(&[]).len(), 2);
        let lists = two.show("LISTS");
        assert_eq!(lists.cell(&[("list", "peers")], "items"), "2");
        assert_eq!(lists.cell(&[("list", "peer_pools")], "items"), "1");
    }
}

#[test]
fn three_processes_on_one_port_find_each_others_clients() {
    let port = free_port();
    let three: Vec<Proxy> = (1..=3).map(|id| numbered(id).shares_port(port).start()).collect();
    acquaint(&three.iter().collect::<Vec<_>>(), by_socket);

    for _ in 0..3 {
        for proxy in &three {
            let mut client = busy_client(proxy);
            // The kernel picks one of the three.
            let mut wire = Wire::tcp(port);
            wire.send(cancel_packet(&client));

            assert!(wire.until_end().is_empty());
            assert_cancelled(&mut client);
            client.leave();
        }
    }
    // And, whatever the kernel picked, by way of each other.
    for asked in &three {
        for proxy in &three {
            let mut client = busy_client(proxy);
            let mut wire = Wire::attempt_unix(&asked.dir, port).unwrap();
            wire.send(cancel_packet(&client));

            assert_cancelled(&mut client);
            client.leave();
        }
    }
}

#[test]
fn a_process_on_its_way_out_still_hears_of_requests_for_its_clients() {
    let port = free_port();
    let (one, two) = (numbered(1).shares_port(port).start(), numbered(2).shares_port(port).start());
    acquaint(&[&one, &two], by_socket);
    let mut client = busy_client(&one);
    one.own_console().ok("SHUTDOWN WAIT_FOR_CLIENTS");
    eventually("only the other listens", || {
        let one_answers = (0..8).any(|_| {
            let login = Login::to(port).user("admin").password("admin-secret").database("pgbouncer");
            // Who comes as the other closes its door may be cut off.
            let Ok(mut console) = login.attempt() else { return true };
            console.table("SHOW CONFIG").cell(&[("key", "peer_id")], "value") == "1"
        });
        (!one_answers).then_some(())
    });

    let mut wire = Wire::tcp(port);
    wire.send(cancel_packet(&client));

    assert_cancelled(&mut client);
    client.leave();
    one.wait();
}

#[test]
fn a_request_does_not_go_round_for_ever() {
    let (one, two) = (numbered(1).start(), numbered(2).start());
    // Each takes the other for the third.
    one.rewrite(|setup| setup.peer(3, &by_tcp(&two)));
    two.rewrite(|setup| setup.peer(3, &by_tcp(&one)));
    for proxy in [&one, &two] {
        proxy.console().ok("RELOAD");
    }

    cancel(&one, &forged(3, 3));

    let exhausted = "failed to forward cancel request because its TTL was exhausted";
    two.until_log(exhausted);
    assert!(!one.log().contains(exhausted));
    one.until_log("closing because: successfully sent cancel request");
}

#[test]
fn a_request_for_a_peer_nobody_knows_is_dropped() {
    let proxy = numbered(1).start();

    cancel(&proxy, &forged(9, 3));

    proxy.until_log("could not find peer to forward request to");
    assert!(proxy.show("PEER_POOLS").all(&[]).is_empty());
}

#[test]
fn a_peer_is_sent_the_key_with_one_hop_less() {
    let (peer, visits) = scripted_peer();
    let proxy = numbered(1).peer(2, &format!("host=127.0.0.1 port={}", peer.port)).start();
    let mut request = Wire::tcp(proxy.port);
    request.send(forged(2, 2));

    let mut visit = visits.recv_timeout(support::PATIENCE).unwrap();

    assert_eq!(heard(&mut visit), forged(2, 1));
    // It stays until the peer has seen to it.
    proxy.until("CLIENTS", |clients| clients.find(&[("state", "active_cancel_req")]).is_some());
    drop(visit);
    assert!(request.until_end().is_empty());
}

#[test]
fn no_more_requests_are_on_their_way_to_a_peer_than_its_pool_size() {
    let (peer, visits) = scripted_peer();
    let entry = format!("host=127.0.0.1 port={} pool_size=1", peer.port);
    let proxy = numbered(1).peer(2, &entry).start();
    let request = || {
        let mut wire = Wire::tcp(proxy.port);
        wire.send(forged(2, 3));
        wire
    };
    let mut first = request();
    let visit = visits.recv_timeout(support::PATIENCE).unwrap();
    let mut second = request();

    let one_of_each = [("peer_id", "2"), ("cl_active_cancel_req", "1"), ("cl_waiting_cancel_req", "1")];
    let pools = proxy.until("PEER_POOLS", |pools| pools.find(&one_of_each).is_some());
    assert_eq!(pools.cell(&[("peer_id", "2")], "sv_active_cancel"), "1");
    let nobody = |state| [("user", "(nouser)"), ("database", "(nodb)"), ("state", state)];
    let clients = proxy.show("CLIENTS");
    assert!(clients.find(&nobody("active_cancel_req")).is_some());
    assert!(clients.find(&nobody("waiting_cancel_req")).is_some());
    assert!(proxy.show("SERVERS").find(&nobody("active_cancel")).is_some());
    assert!(visits.try_recv().is_err());

    drop(visit);
    assert!(first.until_end().is_empty());
    // PgBouncer serves a request that waits only when another comes.
    if support::beyond_pgbouncer() {
        return;
    }
    let mut visit = visits.recv_timeout(support::PATIENCE).unwrap();
    assert_eq!(heard(&mut visit), forged(2, 2));
    drop(visit);
    assert!(second.until_end().is_empty());
    let none = [("cl_active_cancel_req", "0"), ("cl_waiting_cancel_req", "0"), ("sv_active_cancel", "0")];
    proxy.until("PEER_POOLS", |pools| pools.find(&none).is_some());
}

#[test]
fn a_request_that_waits_for_a_peer_is_given_up_after_cancel_wait_timeout() {
    let (peer, visits) = scripted_peer();
    let entry = format!("host=127.0.0.1 port={} pool_size=1", peer.port);
    let proxy = numbered(1).set("cancel_wait_timeout", 1).peer(2, &entry).start();
    let mut first = Wire::tcp(proxy.port);
    first.send(forged(2, 3));
    let _visit = visits.recv_timeout(support::PATIENCE).unwrap();

    let mut second = Wire::tcp(proxy.port);
    second.send(forged(2, 3));

    assert!(second.until_end().is_empty());
    proxy.until_log("closing because: cancel_wait_timeout");
}

#[test]
fn a_peer_that_comes_up_late_still_gets_the_request() {
    // PgBouncer tries again only when another request comes.
    if support::beyond_pgbouncer() {
        return;
    }
    let port = free_port();
    let entry = format!("host=127.0.0.1 port={port}");
    let proxy = numbered(1).set("server_login_retry", 0.2).peer(2, &entry).start();
    let mut request = Wire::tcp(proxy.port);
    request.send(forged(2, 3));
    proxy.until_log("connect failed");

    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let visit = eventually("the request is tried again", || listener.accept().ok()).0;
    visit.set_nonblocking(false).unwrap();
    let mut visit = Wire::over(visit.into()).unwrap();

    assert_eq!(heard(&mut visit), forged(2, 2));
    drop(visit);
    assert!(request.until_end().is_empty());
}

#[test]
fn a_reload_moves_a_peer_and_takes_it_away() {
    let (old, old_visits) = scripted_peer();
    let (new, new_visits) = scripted_peer();
    let entry = |peer: &FakeServer| format!("host=127.0.0.1 port={}", peer.port);
    let proxy = numbered(1).peer(2, &entry(&old)).start();
    let request = || {
        let mut wire = Wire::tcp(proxy.port);
        wire.send(forged(2, 3));
        wire
    };
    let mut first = request();
    drop(old_visits.recv_timeout(support::PATIENCE).unwrap());
    assert!(first.until_end().is_empty());

    proxy.rewrite(|setup| setup.peer(2, &entry(&new)));
    proxy.console().ok("RELOAD");
    let mut second = request();
    let _visit = new_visits.recv_timeout(support::PATIENCE).unwrap();
    assert!(old_visits.try_recv().is_err());

    proxy.rewrite(|setup| setup.without_peer(2));
    proxy.console().ok("RELOAD");
    second.until_end();
    proxy.until_log("closing because: peer removed");
    assert!(proxy.show("PEERS").all(&[]).is_empty());
    proxy.until("PEER_POOLS", |pools| pools.all(&[]).is_empty());
    cancel(&proxy, &forged(2, 3));
    proxy.until_log("could not find peer to forward request to");
}

#[test]
fn a_client_that_came_before_peer_id_was_set_can_still_be_cancelled() {
    // PgBouncer looks for a peer by the random bytes of such a key.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("unix_socket_dir", "@DIR@").start();
    let mut client = busy_client(&proxy);
    proxy.rewrite(|setup| setup.set("peer_id", 5));
    proxy.console().ok("RELOAD");

    cancel(&proxy, &cancel_packet(&client));

    assert_cancelled(&mut client);
}

#[test]
fn pgbouncer_and_we_pass_on_each_others_requests() {
    // Peers came with 1.19; since 1.21 keys are laid out as they are now.
    let known = std::env::var_os("PGBOUNCER_EXE").map(Into::into);
    let pgbouncer = known.unwrap_or_else(|| Path::new("/usr/sbin/pgbouncer").to_path_buf());
    let version = std::process::Command::new(&pgbouncer).arg("-V").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let minor =
        version.strip_prefix("PgBouncer 1.").and_then(|rest| rest.split(['.', '\n']).next()?.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor < 21) {
        eprintln!("skipped: no PgBouncer of 1.21 or later at {} (PGBOUNCER_EXE names another)", pgbouncer.display());
        return;
    }
    let (ours, theirs) = (numbered(1).start(), numbered(2).program(&pgbouncer).start());
    acquaint(&[&ours, &theirs], by_socket);
    for (host, asked) in [(&ours, &theirs), (&theirs, &ours)] {
        let mut client = busy_client(host);

        cancel(asked, &cancel_packet(&client));

        assert_cancelled(&mut client);
        asked.until_log("peer-");
    }
}
