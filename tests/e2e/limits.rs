//! How many clients may come: in all, by database, by user.

use std::time::Instant;

use crate::support::{self, Client, Login, Message, Postgres, Setup, Wire, eventually};

#[test]
fn max_client_conn_refuses_the_next_and_lets_it_in_when_one_has_left() {
    let proxy = Setup::new().set("max_client_conn", 2).start();
    let first = proxy.client();
    let _second = proxy.client();

    assert_eq!(proxy.login().refusal(), "no more connections allowed (max_client_conn)");
    first.leave();

    eventually("there is room again", || proxy.login().attempt().ok());
}

#[test]
fn the_console_is_open_even_when_max_client_conn_is_reached() {
    let proxy = Setup::new().set("max_client_conn", 1).start();
    let _only = proxy.client();

    assert_eq!(proxy.show("STATE").rows.len(), 3);
}

#[test]
fn max_db_client_connections_counts_all_users_of_the_database() {
    let other = Postgres::shared().role();
    for setup in [
        Setup::new().set("max_db_client_connections", 2),
        Setup::new().database("app", "max_db_client_connections=2"),
        Setup::new().set("max_db_client_connections", 1).database("app", "max_db_client_connections=2"),
    ] {
        let proxy = setup.database("roomy", "max_db_client_connections=5").secret(&other, "").start();
        let first = proxy.client();
        let _second = proxy.login().user(&other).client();

        let refusal = proxy.login().refusal();

        assert_eq!(refusal, "client connections exceeded (max_db_client_connections)");
        let _elsewhere = proxy.login().database("roomy").client();
        first.leave();
        eventually("there is room again", || proxy.login().attempt().ok());
    }
}

#[test]
fn max_user_client_connections_counts_the_user_over_all_databases() {
    let other = Postgres::shared().role();
    for setup in [
        Setup::new().set("max_user_client_connections", 2),
        Setup::new().own_user("max_user_client_connections=2"),
        Setup::new().set("max_user_client_connections", 1).own_user("max_user_client_connections=2"),
    ] {
        let proxy = setup.database("app", "").database("app2", "").secret(&other, "").start();
        let first = proxy.client();
        let _second = proxy.login().database("app2").client();

        let refusal = proxy.login().refusal();

        assert_eq!(refusal, "client connections exceeded (max_user_client_connections)");
        let _another: Client = proxy.login().user(&other).client();
        first.leave();
        eventually("there is room again", || proxy.login().attempt().ok());
    }
}

#[test]
fn refused_logins_do_not_count() {
    let setup = Setup::new().set("auth_type", "plain").set("max_client_conn", 3).set("max_user_client_connections", 3);
    let role = setup.role().to_owned();
    let proxy = setup.secret(&role, "right").start();

    for _ in 0..10 {
        assert_eq!(proxy.login().password("wrong").refusal(), "password authentication failed");
    }

    let login = proxy.login().password("right");
    let clients: Vec<Client> = (0..3).map(|_| eventually("the refused have left", || login.attempt().ok())).collect();
    assert_eq!(clients.len(), 3);
}

#[test]
fn current_counts_show_in_databases_and_users() {
    let proxy = Setup::new()
        .set("max_client_conn", 50)
        .database("app", "max_db_client_connections=7 max_db_connections=6 pool_size=5")
        .own_user("max_user_connections=4 max_user_client_connections=9")
        .start();
    let mut client = proxy.client();
    let _other: Client = Login::to(proxy.port).user(&proxy.role).database("app").client();
    client.pid();

    let databases = proxy.show("DATABASES");
    let database = databases.find(&[("name", "app")]).unwrap();
    let users = proxy.show("USERS");
    let user = users.find(&[("name", &proxy.role)]).unwrap();

    for (column, value) in [
        ("pool_size", "5"),
        ("max_connections", "6"),
        ("current_connections", "1"),
        ("max_client_connections", "7"),
        ("current_client_connections", "2"),
    ] {
        assert_eq!(database[column], value, "{column}");
    }
    for (column, value) in [
        ("max_user_connections", "4"),
        ("current_connections", "1"),
        ("max_user_client_connections", "9"),
        ("current_client_connections", "2"),
    ] {
        assert_eq!(user[column], value, "{column}");
    }
}

#[test]
fn the_console_counts_as_a_database_and_its_limits_hold_for_all_but_administrators() {
    let reader = Postgres::shared().role();
    let setup = Setup::new().set("max_db_client_connections", 1).set("stats_users", &reader).secret(&reader, "");
    let proxy = setup.start();
    let login = || proxy.login().database("pgbouncer").user(&reader);

    let _administrator = proxy.console();
    assert_eq!(login().refusal(), "client connections exceeded (max_db_client_connections)");

    assert_eq!(proxy.show("STATE").rows.len(), 3, "an administrator gets in");
    let both = [("name", "pgbouncer"), ("max_client_connections", "1"), ("current_client_connections", "2")];
    proxy.until("DATABASES", |databases| databases.find(&both).is_some());
}

#[test]
fn login_rate_limit_holds_back_an_address_but_not_unix_sockets() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("login_rate_limit", 1).set("login_rate_burst", 2).set("unix_socket_dir", "@DIR@");
    let proxy = setup.set("max_client_conn", 1000).start();
    let began = Instant::now();
    let _first = (proxy.client(), proxy.client());

    // All at once, so that they come too often on a machine of any speed.
    let mut crowd: Vec<Wire> = (0..50).map(|_| Wire::tcp(proxy.port)).collect();
    crowd.iter_mut().for_each(|wire| wire.send(proxy.login().startup()));
    let answers: Vec<Message> = crowd.iter_mut().map(Wire::message).collect();
    let refusals: Vec<_> = answers.iter().filter(|answer| answer.tag == b'E').map(Message::fields).collect();

    assert!(!refusals.is_empty(), "50 logins in {:?}", began.elapsed());
    for refusal in &refusals {
        assert_eq!(refusal[&'C'], "53300");
        assert_eq!(refusal[&'M'], TOO_MANY);
    }
    for _ in 0..10 {
        proxy.own_console();
        proxy.login().unix(&proxy.dir).client();
    }
    let told = format!("pooler error: {TOO_MANY}");
    proxy.until_log(&told);
    let lines = proxy.log().matches(&told).count();
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=seconds + 1).contains(&lines), "{lines} lines for {} refusals", refusals.len());
    eventually("there is a login again", || proxy.login().attempt().ok());
}

#[test]
fn login_rate_limit_counts_logins_to_the_console_with_right_and_wrong_passwords() {
    if support::beyond_pgbouncer() {
        return;
    }
    let setup = Setup::new().set("login_rate_limit", 1).set("login_rate_burst", 10).set("auth_type", "plain");
    let proxy = setup.start();
    let began = Instant::now();
    let (mut judged, mut refused) = ([0, 0], [0, 0]);

    // By turns, so that neither kind is the first to be held back.
    for number in 0..60 {
        let right = number % 2;
        let password = ["wrong", "admin-secret"][right];
        let told = match proxy.login().database("pgbouncer").user("admin").password(password).attempt() {
            Ok(_) => "welcome".to_owned(),
            Err(refusal) => format!("{} {}", refusal.code(), refusal.message()),
        };
        match told.as_str() {
            "welcome" if right == 1 => judged[right] += 1,
            "08P01 password authentication failed" if right == 0 => judged[right] += 1,
            told => {
                assert_eq!(told, format!("08P01 {TOO_MANY}"), "right: {right}");
                refused[right] += 1;
            }
        }
    }

    // As many as at once, and one for each second that has passed since.
    let most = 10 + began.elapsed().as_secs() + 1;
    assert!(judged.iter().sum::<u64>() <= most, "{judged:?} in {:?}", began.elapsed());
    assert!(judged.iter().all(|count| *count > 0), "{judged:?}");
    assert!(most >= 60 || refused.iter().any(|count: &u64| *count > 0), "{refused:?} in {:?}", began.elapsed());
    // Clients of databases draw from the same.
    let mut wires: Vec<Wire> = (0..40).map(|_| Wire::tcp(proxy.port)).collect();
    wires.iter_mut().for_each(|wire| wire.send(proxy.login().startup()));
    let answers = wires.iter_mut().map(Wire::message);
    assert!(answers.filter(|answer| answer.tag == b'E').any(|answer| answer.fields()[&'M'] == TOO_MANY));
}

const TOO_MANY: &str = "too many logins from this address (login_rate_limit)";
