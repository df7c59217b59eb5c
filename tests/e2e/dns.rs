//! Hosts that are names: asked once for many, remembered for so long, followed when they move.

use crate::support::dns::NameServer;
use crate::support::script::Table;
use crate::support::{self, Client, Postgres, Proxy, Script, Setup, Wire, eventually};

const NAME: &str = "db.pool.test";

/// A database `app` whose host is [`NAME`], asked of this name server.
fn named(names: &NameServer) -> Setup {
    let port = Postgres::shared().port;
    Setup::new()
        .set("resolv_conf", names.resolv_conf("").display())
        .database("app", &format!("host={NAME} port={port}"))
}

/// The addresses that this proxy's servers are connected to, in order.
fn addresses(servers: &Table) -> Vec<String> {
    let mut addresses: Vec<String> = servers.all(&[]).into_iter().map(|row| row["addr"].clone()).collect();
    addresses.sort();
    addresses
}

/// Begins a transaction in each of so many new sessions, so that each has a server of its own.
fn begin(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ok("BEGIN").status(), 'T'));
    clients
}

fn address_of(client: &mut Client) -> String {
    client.value("SELECT host(inet_server_addr())")
}

#[test]
fn one_query_serves_many_connections() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let proxy = named(&names).start();

    let _clients = begin(&proxy, 4);

    assert_eq!(addresses(&proxy.show("SERVERS")), ["127.0.0.1"; 4]);
    assert_eq!(names.asked(NAME), 1);
    let hosts = proxy.show("DNS_HOSTS");
    assert_eq!(hosts.cell(&[("hostname", NAME)], "addrs"), "127.0.0.1:0");
    let ttl: u64 = hosts.cell(&[("hostname", NAME)], "ttl").parse().unwrap();
    assert!(ttl <= 15, "the records' own hour does not count: {ttl}");
    let zones = proxy.show("DNS_ZONES");
    assert_eq!(zones.cell(&[("zonename", "pool.test")], "serial"), "0");
    assert_eq!(zones.cell(&[("zonename", "pool.test")], "count"), "1");
    let lists = proxy.show("LISTS");
    let items = |list| lists.cell(&[("list", list)], "items");
    assert_eq!(["dns_names", "dns_zones", "dns_pending"].map(items), ["1", "1", "0"]);
    if !support::proxy::is_pgbouncer() {
        // Which counts an answer from memory as a query that ended, and so shows -3.
        assert_eq!(items("dns_queries"), "0");
    }
}

#[test]
fn several_addresses_take_turns() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1", "127.0.0.2"]);
    let proxy = named(&names).start();

    let _clients = begin(&proxy, 4);

    assert_eq!(addresses(&proxy.show("SERVERS")), ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"]);
}

#[test]
fn an_answer_that_is_old_is_asked_for_again() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let proxy = named(&names).set("dns_max_ttl", 600).start();
    let _first = begin(&proxy, 1);
    assert_eq!(names.asked(NAME), 1);

    proxy.rewrite(|setup| setup.set("dns_max_ttl", "0"));
    proxy.console().ok("RELOAD");

    if support::proxy::is_pgbouncer() {
        // There, an answer keeps the time it was given when it came.
        return;
    }
    let _second = begin(&proxy, 1);
    assert_eq!(names.asked(NAME), 2);
    let _third = begin(&proxy, 1);
    assert_eq!(names.asked(NAME), 3);
}

#[test]
fn a_name_that_appears_is_found_after_dns_nxdomain_ttl() {
    let names = NameServer::start();
    let proxy = named(&names).set("server_login_retry", "0.1").set("dns_nxdomain_ttl", "0.1").start();
    let mut waiting = Wire::tcp(proxy.port);
    waiting.send(proxy.login().startup());
    proxy.until_log("closing because: server DNS lookup failed");
    proxy.until_log(&format!("DNS lookup failed: {NAME}: "));
    assert_eq!(proxy.show("DNS_HOSTS").cell(&[("hostname", NAME)], "addrs"), "");

    names.say(NAME, &["127.0.0.2"]);

    while waiting.message().tag != b'Z' {}
    assert_eq!(addresses(&proxy.show("SERVERS")), ["127.0.0.2"]);
}

#[test]
fn that_there_is_no_address_is_remembered() {
    let names = NameServer::start();
    let proxy = named(&names).set("server_login_retry", "0.1").set("dns_nxdomain_ttl", 600).start();
    let mut waiting = Wire::tcp(proxy.port);
    waiting.send(proxy.login().startup());

    eventually("several attempts have failed", || {
        (proxy.log().matches("closing because: server DNS lookup failed").count() > 2).then_some(())
    });

    assert_eq!(names.asked(NAME), 1);
}

#[test]
fn clients_are_told_that_the_lookup_failed() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let proxy = named(&names).set("dns_max_ttl", 0).set("server_login_retry", 60).start();
    let (mut early, mut late) = (proxy.client(), proxy.client());
    let pid = early.pid();
    names.say(NAME, &[]);
    Postgres::shared().end(&pid);
    proxy.until_serverless();

    early.send(Script::new().query("SELECT 1"));
    proxy.until_log("closing because: server DNS lookup failed");
    late.send(Script::new().query("SELECT 2"));

    let told = late.farewell();
    assert_eq!(told, "server login has been failing, cached error: server DNS lookup failed (server_login_retry)");
}

#[test]
fn servers_move_with_the_name_and_clients_stay() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let proxy = named(&names).set("dns_max_ttl", 0).start();
    let mut clients = begin(&proxy, 3);
    let mut idle = clients.pop().unwrap();
    let idle_pid = idle.pid();
    assert_eq!(idle.ok("COMMIT").status(), 'I');
    proxy.until_pool("sv_idle", 1);
    names.say(NAME, &["127.0.0.2"]);

    // The next connection is what asks for the name.
    idle.ok("BEGIN");
    let mut newcomer = begin(&proxy, 1).remove(0);

    assert_eq!(address_of(&mut newcomer), "127.0.0.2");
    assert_eq!(idle.pid(), idle_pid);
    let marked = proxy.until("SERVERS", |servers| servers.all(&[("close_needed", "1")]).len() == 3);
    assert_eq!(marked.all(&[("close_needed", "0")]).len(), 1);
    clients.push(idle);
    for client in &mut clients {
        assert_eq!(address_of(client), "127.0.0.1", "no transaction is torn apart");
        assert_eq!(client.ok("COMMIT").status(), 'I');
    }
    for client in &mut clients {
        assert_eq!(address_of(client), "127.0.0.2");
    }
    proxy.console().ok("WAIT_CLOSE");
    assert!(addresses(&proxy.show("SERVERS")).iter().all(|address| address == "127.0.0.2"));
}

#[test]
fn idle_servers_whose_address_is_gone_close_at_once() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let port = Postgres::shared().port;
    let proxy = named(&names).set("dns_max_ttl", 0).database("other", &format!("host={NAME} port={port}")).start();
    let mut client = proxy.client();
    client.pid();
    names.say(NAME, &["127.0.0.3"]);

    proxy.login().database("other").client();

    proxy.until("SERVERS", |servers| servers.all(&[("addr", "127.0.0.1")]).is_empty());
    proxy.until_log("closing because: database configuration changed");
    assert_eq!(address_of(&mut client), "127.0.0.3");
}

#[test]
fn servers_at_an_address_that_the_name_still_has_are_kept() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1", "127.0.0.2"]);
    names.serial("pool.test", 1);
    let proxy = named(&names).set("dns_max_ttl", 600).set("dns_zone_check_period", "0.1").start();
    let mut clients = begin(&proxy, 2);
    let kept = clients.iter_mut().find_map(|client| (address_of(client) == "127.0.0.2").then(|| client.pid()));

    names.say(NAME, &["127.0.0.2", "127.0.0.3"]);
    names.serial("pool.test", 2);

    let servers = proxy.until("SERVERS", |servers| servers.find(&[("close_needed", "1")]).is_some());
    assert_eq!(servers.cell(&[("close_needed", "1")], "addr"), "127.0.0.1");
    assert_eq!(servers.cell(&[("close_needed", "0")], "addr"), "127.0.0.2");
    clients.iter_mut().for_each(|client| assert_eq!(client.ok("COMMIT").status(), 'I'));
    proxy.until_pool("sv_idle", 1);
    Postgres::shared().until_backends(&proxy.role, 1);
    assert_eq!(Postgres::shared().pids(&proxy.role), [kept.unwrap()]);
}

#[test]
fn a_zone_with_a_new_serial_number_has_its_names_asked_again() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    names.serial("pool.test", 2_026_010_101);
    let proxy = named(&names).set("dns_max_ttl", 600).set("dns_zone_check_period", "0.1").start();
    let mut client = proxy.client();
    assert_eq!(address_of(&mut client), "127.0.0.1");
    let serial = |wanted: &str| {
        proxy.until("DNS_ZONES", |zones| zones.find(&[("zonename", "pool.test"), ("serial", wanted)]).is_some());
    };
    serial("2026010101");

    names.say(NAME, &["127.0.0.2"]);
    names.serial("pool.test", 2_026_010_102);

    serial("2026010102");
    proxy.until_log("zone 'pool.test' serial changed: old=2026010101 new=2026010102");
    proxy.until("SERVERS", |servers| servers.all(&[("addr", "127.0.0.1")]).is_empty());
    assert_eq!(address_of(&mut client), "127.0.0.2");
}

#[test]
fn a_host_that_cannot_be_reached_is_looked_up_again() {
    if support::beyond_pgbouncer() {
        return;
    }
    let names = NameServer::start();
    // Nobody listens there.
    names.say(NAME, &["127.0.0.9"]);
    let proxy = named(&names).set("dns_max_ttl", 600).set("server_login_retry", "0.1").start();
    let mut waiting = Wire::tcp(proxy.port);
    waiting.send(proxy.login().startup());
    proxy.until_log("closing because: connect failed");

    names.say(NAME, &["127.0.0.1"]);

    while waiting.message().tag != b'Z' {}
}

#[test]
fn known_addresses_outlive_a_silent_name_server() {
    if support::beyond_pgbouncer() {
        return;
    }
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let setup = named(&names).set("dns_max_ttl", 0);
    // The same file once more, with less patience.
    names.resolv_conf("options timeout:1");
    let proxy = setup.start();
    let _first = begin(&proxy, 1);

    names.mute();

    let _second = begin(&proxy, 1);
    proxy.until_log(&format!("DNS lookup failed: {NAME}: name server 127.0.0.1:"));
}

#[test]
fn reconnect_asks_for_the_name_again() {
    if support::beyond_pgbouncer() {
        return;
    }
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let proxy = named(&names).set("dns_max_ttl", 600).start();
    let mut client = proxy.client();
    assert_eq!(address_of(&mut client), "127.0.0.1");

    names.say(NAME, &["127.0.0.2"]);
    proxy.console().ok("RECONNECT");

    assert_eq!(address_of(&mut client), "127.0.0.2");
}

#[test]
fn short_names_are_looked_for_in_the_search_domains() {
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.3"]);
    let proxy = Setup::new()
        .set("resolv_conf", names.resolv_conf("search nowhere.test pool.test").display())
        .database("app", &format!("host=db port={}", Postgres::shared().port))
        .start();

    assert_eq!(address_of(&mut proxy.client()), "127.0.0.3");
    assert_eq!(proxy.show("DNS_HOSTS").cell(&[("hostname", "db")], "addrs"), "127.0.0.3:0");
}

#[test]
fn addresses_and_sockets_ask_nobody_and_localhost_needs_no_name_server() {
    let names = NameServer::start();
    let server = Postgres::shared();
    let port = server.port;
    let proxy = named(&names)
        .database("app", &format!("host=127.0.0.2 port={port}"))
        .database("socket", &format!("host={} port={port}", server.socket_dir.display()))
        .database("local", &format!("host=localhost port={port}"))
        .start();

    assert_eq!(address_of(&mut proxy.client()), "127.0.0.2");
    proxy.login().database("socket").client().ok("SELECT 1");
    assert_eq!(proxy.show("LISTS").cell(&[("list", "dns_names")], "items"), "0");
    proxy.login().database("local").client().ok("SELECT 1");

    assert_eq!(proxy.show("LISTS").cell(&[("list", "dns_names")], "items"), "1");
    assert_eq!(names.asked("localhost"), 0);
}

#[test]
fn a_resolv_conf_that_is_not_there_is_named_and_read_when_it_comes() {
    if support::beyond_pgbouncer() {
        return;
    }
    let names = NameServer::start();
    names.say(NAME, &["127.0.0.1"]);
    let real = names.resolv_conf("");
    let later = real.with_extension("later");
    let proxy = named(&names)
        .set("resolv_conf", later.display())
        .set("server_login_retry", "0.1")
        .set("dns_nxdomain_ttl", "0.1")
        .start();
    proxy.until_log(&format!("resolv_conf: cannot read {}: ", later.display()));
    let mut waiting = Wire::tcp(proxy.port);
    waiting.send(proxy.login().startup());
    proxy.until_log(&format!("DNS lookup failed: {NAME}: resolv_conf: cannot read "));

    std::fs::rename(real, later).unwrap();

    while waiting.message().tag != b'Z' {}
}
