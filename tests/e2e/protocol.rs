//! What passes through must pass unchanged: simple and extended queries, pipelines, big messages, odd ones.

use crate::support::{self, Postgres, Proxy, Script, Setup, Wire, eventually};

#[test]
fn simple_queries_pass_with_all_their_results() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    assert_eq!(client.query("SELECT 1, NULL, 'x'").rows(), [[Some("1".into()), None, Some("x".into())]]);
    assert_eq!(client.query("SELECT 1; SELECT 2 WHERE false; SELECT 3").shape(), "TDCTCTDCZ");
    assert_eq!(client.query("").shape(), "IZ");
    assert_eq!(client.query(" ; ").shape(), "IZ");
}

#[test]
fn an_error_is_the_servers_own_and_the_session_goes_on() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    let reply = client.query("SELECT 1; SELECT 1/0; SELECT 2");

    assert_eq!(reply.shape(), "TDCEZ");
    assert_eq!(reply.error().unwrap()[&'C'], "22012");
    assert_eq!(reply.status(), 'I');
    assert_eq!(client.query("SELEKT").error().unwrap()[&'C'], "42601");
    assert_eq!(client.value("SELECT 5"), "5");
}

#[test]
fn the_transaction_status_is_the_servers() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let statuses: String =
        ["BEGIN", "SELECT 1", "SELECT 1/0", "SELECT 1", "ROLLBACK", "BEGIN", "COMMIT AND CHAIN", "END"]
            .map(|sql| client.query(sql).status())
            .into_iter()
            .collect();
    assert_eq!(statuses, "TTEEITTI");
}

#[test]
fn the_extended_protocol_passes() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    let script = Script::new().parse("", "SELECT $1::int + 1").describe_statement("").bind("", "", &["41"]);
    let reply = client.run(script.describe_portal("").execute("", 0).sync());

    assert_eq!(reply.shape(), "1tT2TDCZ");
    assert_eq!(reply.value(), "42");
}

#[test]
fn an_error_before_the_sync_comes_at_once() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    client.send(Script::new().run("SELECT aaaa", &[]));

    assert_eq!(client.wire.expect(b'E').fields()[&'C'], "42703");
    assert_eq!(client.run(Script::new().sync()).shape(), "Z");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_portal_is_read_in_portions() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    let script = Script::new().parse("", "SELECT generate_series(1, 5)").bind("p", "", &[]);
    let reply = client.run(script.execute("p", 2).execute("p", 2).execute("p", 2).sync());

    assert_eq!(reply.shape(), "12DDsDDsDCZ");
}

#[test]
fn several_syncs_in_one_packet_are_several_transactions() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();
    let mut script = Script::new();
    for number in 0..50 {
        script = script.run(&format!("SELECT {number}"), &[]).sync();
    }

    client.send(script);

    for number in 0..50 {
        let reply = client.reply();
        assert_eq!((reply.shape().as_str(), reply.value()), ("12DCZ", number.to_string()));
    }
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn simple_and_extended_queries_mix_in_one_packet() {
    let proxy = Proxy::start();
    let mut client = proxy.client();

    client.send(Script::new().query("SELECT 1").run("SELECT 2", &[]).sync().query("SELECT 3; SELECT 4"));

    let replies: Vec<String> = (0..3).map(|_| client.reply().shape()).collect();
    assert_eq!(replies, ["TDCZ", "12DCZ", "TDCTDCZ"]);
}

#[test]
fn flush_brings_answers_before_sync() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();

    client.send(Script::new().run("SELECT 6", &[]).flush());
    assert_eq!(client.reply_until(b"C").shape(), "12DC");
    proxy.until_pool("sv_active", 1);
    client.send(Script::new().run("SELECT 7", &[]).flush());
    assert_eq!(client.reply_until(b"C").value(), "7");

    assert_eq!(client.run(Script::new().sync()).shape(), "Z");
    proxy.until_pool("sv_idle", 1);
}

#[test]
fn an_error_in_a_pipeline_skips_to_the_sync_and_no_further() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let failing = Script::new().run("SELECT 1", &[]).run("SELECT 1/0", &[]).run("SELECT 2", &[]).sync();

    client.send(failing.run("SELECT 3", &[]).sync());

    let first = client.reply();
    assert_eq!(first.shape().replace('D', ""), "12C1EZ");
    assert_eq!(first.status(), 'I');
    assert_eq!(client.reply().value(), "3");
}

#[test]
fn a_pipeline_is_one_transaction_until_its_sync() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let table = format!("pipelined_by_{}", proxy.role);
    Postgres::shared().admin().ok(&format!("CREATE TABLE {table} (n int); GRANT ALL ON {table} TO PUBLIC"));

    let insert = format!("INSERT INTO {table} VALUES (1)");
    client.run(Script::new().run(&insert, &[]).run("SELECT 1/0", &[]).sync());

    assert_eq!(client.value(&format!("SELECT count(*) FROM {table}")), "0");
}

#[test]
fn a_sync_alone_is_answered_and_holds_no_server() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let mut client = proxy.client();

    assert_eq!(client.run(Script::new().sync()).shape(), "Z");

    proxy.until_pool("sv_active", 0);
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn function_calls_pass() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let oid = client.value("SELECT 'int4pl'::regproc::oid").parse::<u32>().unwrap();
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1]); // One format code: binary.
    body.extend([0, 2]);
    for argument in [40u32, 2] {
        body.extend(4u32.to_be_bytes());
        body.extend(argument.to_be_bytes());
    }
    body.extend([0, 1]);

    let reply = client.run(Script::new().message(b'F', &body));

    assert_eq!(reply.shape(), "VZ");
    assert_eq!(reply.messages[0].body, [0, 0, 0, 4, 0, 0, 0, 42]);
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn notices_pass() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    let reply = client.ok("DO $$ BEGIN RAISE NOTICE 'mind the gap'; END $$");
    assert_eq!(reply.shape(), "NCZ");
    assert_eq!(client.notices, ["mind the gap"]);
}

#[test]
fn notifications_reach_a_listener_in_session_mode() {
    let proxy = Setup::new().set("pool_mode", "session").start();
    let mut listener = proxy.client();
    listener.ok(&format!("LISTEN of_{}", proxy.role));

    proxy.client().ok(&format!("NOTIFY of_{}, 'hello'", proxy.role));

    let notification = listener.wire.expect(b'A');
    assert_eq!(String::from_utf8_lossy(&notification.body[4..]), format!("of_{}\0hello\0", proxy.role));
}

#[test]
fn a_changed_parameter_is_reported() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.ok("SET TimeZone TO 'Asia/Tokyo'");
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
}

#[test]
fn what_is_written_byte_by_byte_is_understood() {
    let proxy = Proxy::start();
    let mut wire = Wire::tcp(proxy.port);
    wire.send_bytewise(proxy.login().startup());
    while wire.message().tag != b'Z' {}

    wire.send_bytewise(Script::new().query("SELECT 1").parse("s", "SELECT $1").run_prepared("s", &["hello"]).sync());

    let mut seen = String::new();
    while seen.matches('Z').count() < 2 {
        seen.push(wire.message().tag as char);
    }
    assert_eq!(seen, "TDCZ12DCZ");
}

#[test]
fn encryption_requests_are_declined_with_one_byte() {
    let proxy = Proxy::start();
    let mut wire = Wire::tcp(proxy.port);

    wire.send(Script::untagged(&80_877_104u32.to_be_bytes()));
    assert_eq!(wire.byte(), b'N');
    wire.send(Script::untagged(&80_877_103u32.to_be_bytes()));
    assert_eq!(wire.byte(), b'N');

    assert_eq!(proxy.login().over(wire).unwrap().value("SELECT 1"), "1");
}

#[test]
fn bytes_sent_along_with_an_encryption_request_are_an_attack() {
    let proxy = Proxy::start();
    for (code, name) in [(80_877_103u32, "SSL"), (80_877_104, "GSSAPI encryption")] {
        let mut wire = Wire::tcp(proxy.port);

        wire.send([Script::untagged(&code.to_be_bytes()), proxy.login().startup()].concat());

        let error = wire.expect(b'E').fields();
        assert_eq!(error[&'S'], "FATAL");
        assert_eq!(error[&'M'], format!("received unencrypted data after {name} request"));
        assert!(wire.next().is_none());
    }
}

#[test]
fn protocol_3_2_and_protocol_options_are_negotiated_down() {
    let proxy = Proxy::start();
    let mut wire = Wire::tcp(proxy.port);
    let parameters = [("user", proxy.role.as_str()), ("database", "app"), ("_pq_.shiny", "1")];

    wire.send(Script::startup_version((3 << 16) | 2, &parameters));

    let answer = wire.expect(b'v');
    assert_eq!(answer.body, [&[0, 3, 0, 0, 0, 0, 0, 1], b"_pq_.shiny\0".as_slice()].concat());
    assert_eq!(wire.message().tag, b'R');
}

#[test]
fn protocol_2_is_refused() {
    let proxy = Proxy::start();
    let mut wire = Wire::tcp(proxy.port);

    wire.send(Script::startup_version(2 << 16, &[("user", "x")]));

    assert!(wire.expect(b'E').fields()[&'M'].starts_with("old V2 protocol not supported"));
    assert!(wire.next().is_none());
}

#[test]
fn the_database_is_named_like_the_user_unless_said() {
    let setup = Setup::new();
    let role = setup.role().to_owned();
    let proxy = setup.database(&role, "dbname=e2e").start();

    let client = support::Login::to(proxy.port).user(&role).client();

    assert_eq!(proxy.show("CLIENTS").cell(&[("user", &role)], "database"), role);
    client.leave();
}

#[test]
fn names_that_nobody_can_have_are_refused() {
    let proxy = Setup::new().database("*", "dbname=e2e").start();
    let refusal = |user: usize, database: usize| {
        let (user, database) = ("u".repeat(user), "d".repeat(database));
        support::Login::to(proxy.port).user(&user).database(&database).refusal()
    };

    assert_eq!(refusal(128, 1), "username too long");
    assert_ne!(refusal(127, 1), "username too long");
    assert_eq!(proxy.login().database(&"d".repeat(63)).client().value("SELECT 1"), "1");
    assert_eq!(proxy.login().database(&"d".repeat(64)).refusal(), format!("no such database: {}", "d".repeat(64)));
}

#[test]
fn the_greeting_is_complete() {
    let proxy = Proxy::start();
    let client = proxy.client();

    for name in ["server_version", "client_encoding", "server_encoding", "DateStyle", "TimeZone", "integer_datetimes"] {
        assert!(client.parameters.contains_key(name), "{name}: {:?}", client.parameters);
    }
    assert_eq!(client.parameters["is_superuser"], "off");
    assert_eq!(client.key.len(), 8);
    assert_eq!(client.key[0] & 0x80, 0, "the process id is positive");
}

#[test]
fn start_up_parameters_are_known_ignored_or_refused() {
    let proxy = Setup::new().set("ignore_startup_parameters", "extra_float_digits,search_path").start();
    let login = proxy.login();

    let mut client = login.clone().parameter("extra_float_digits", "3").parameter("application_name", "shop").client();
    assert_eq!(client.value("SHOW application_name"), "shop");
    let mut client = login.clone().parameter("options", "-c datestyle=German -csearch_path=x --timezone=UTC").client();
    assert_eq!(client.value("SHOW datestyle"), "German, DMY");

    let refused = login.clone().parameter("work_mem", "1GB").refusal();
    assert_eq!(refused, "unsupported startup parameter: work_mem");
    proxy.until_log("unsupported startup parameter: work_mem=1GB");
    let refused = login.clone().parameter("options", "-c work_mem=1GB").refusal();
    assert_eq!(refused, "unsupported startup parameter in options: work_mem");
    proxy.until_log("unsupported startup parameter in options: work_mem=1GB");
    let refused = login.parameter("options", "-x").refusal();
    assert!(refused.starts_with("unsupported options startup parameter: only"), "{refused}");
}

#[test]
fn replication_that_is_no_word_for_it_is_refused_by_name_and_value() {
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();

    let refused = proxy.login().parameter("replication", "maybe").refusal();

    assert_eq!(refused, "invalid value for parameter \"replication\": \"maybe\"");
    proxy.until_log(&format!("app/{}@127.0.0.1", proxy.role));
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("\"maybe\"")).expect("the log says what came");
    assert!(line.contains(&format!("app/{}@", proxy.role)), "{line}");
}

/// How far the pooler's memory may grow while it relays something much larger.
const GROWTH_MAX_KIB: i64 = 8 * 1024;

#[test]
fn a_huge_result_and_a_slow_reader_cost_no_memory() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.value("SELECT 1");
    let before = proxy.data_kib();

    client.send(Script::new().query("SELECT repeat('x', 1000000) FROM generate_series(1, 300)"));
    // Nothing is read: wait until every buffer on the way is full and PostgreSQL is stuck in a write.
    eventually("PostgreSQL waits for its client", || {
        let sql = format!("SELECT wait_event FROM pg_stat_activity WHERE usename = '{}'", proxy.role);
        (Postgres::shared().admin().ok(&sql).rows()[0][0].as_deref() == Some("ClientWrite")).then_some(())
    });
    let stalled = proxy.data_kib();
    let (bytes, rows) = client.wire.skim();
    let after = proxy.data_kib();

    assert_eq!(rows, 300);
    assert!(bytes > 300_000_000);
    assert!(stalled - before < GROWTH_MAX_KIB, "{before} KiB before, {stalled} while the reader was stuck");
    assert!(after - before < GROWTH_MAX_KIB, "{before} KiB before, {after} after");
}

#[test]
fn one_huge_row_costs_no_memory() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.value("SELECT 1");
    let before = proxy.data_kib();

    client.send(Script::new().query("SELECT repeat('x', 200000000)"));
    let (bytes, rows) = client.wire.skim();
    let after = proxy.data_kib();

    assert_eq!(rows, 1);
    assert!(bytes > 200_000_000);
    assert!(after - before < GROWTH_MAX_KIB, "{before} KiB before, {after} after");
}

#[test]
fn a_huge_query_and_a_huge_parameter_cost_no_memory() {
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.value("SELECT 1");
    let before = proxy.data_kib();
    let big = "x".repeat(100_000_000);

    let reply = client.query(&format!("SELECT length('{big}')"));
    assert_eq!(reply.value(), "100000000");
    let reply = client.run(Script::new().run("SELECT length($1)", &[&big]).sync());
    assert_eq!(reply.value(), "100000000");

    let after = proxy.data_kib();
    assert!(after - before < GROWTH_MAX_KIB, "{before} KiB before, {after} after");
}

#[test]
fn a_huge_parameter_of_a_named_statement_costs_no_memory() {
    // PgBouncer holds the whole Bind of a renamed statement.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Proxy::start();
    let mut client = proxy.client();
    client.run(Script::new().parse("s", "SELECT length($1)").sync());
    let before = proxy.data_kib();

    let reply = client.run(Script::new().run_prepared("s", &[&"x".repeat(100_000_000)]).sync());

    assert_eq!(reply.value(), "100000000");
    let after = proxy.data_kib();
    assert!(after - before < GROWTH_MAX_KIB, "{before} KiB before, {after} after");
}

#[test]
fn a_message_larger_than_max_packet_size_ends_the_session() {
    let proxy = Setup::new().set("max_packet_size", 10_000).start();
    let mut client = proxy.client();
    assert_eq!(client.value(&format!("SELECT length('{}')", "x".repeat(9000))), "9000");

    client.send(Script::new().query(&format!("SELECT length('{}')", "x".repeat(20_000))));

    client.wire.until_end();
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn disable_pqexec_refuses_simple_queries_only() {
    let proxy = Setup::new().set("disable_pqexec", 1).start();
    let mut client = proxy.client();
    assert_eq!(client.run(Script::new().run("SELECT 1", &[]).sync()).value(), "1");

    client.send(Script::new().query("SELECT 1"));

    assert_eq!(client.farewell(), "PQexec disallowed");
}

#[test]
fn the_login_notice_is_sent() {
    // Newer than PgBouncer 1.25.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = Setup::new().set("login_notify_message", "be gentle").start();
    assert_eq!(proxy.client().notices, ["be gentle"]);
}

#[test]
fn a_client_may_speak_before_it_is_greeted() {
    let proxy = Proxy::start();
    let mut wire = Wire::tcp(proxy.port);

    wire.send([proxy.login().startup().as_slice(), Script::new().query("SELECT 9").as_ref()].concat());

    let mut tags = String::new();
    while tags.matches('Z').count() < 2 {
        tags.push(wire.message().tag as char);
    }
    assert!(tags.ends_with("ZTDCZ"), "{tags}");
}

#[test]
fn a_stalled_reader_delays_nobody_else() {
    let proxy = Setup::new().set("default_pool_size", 2).start();
    let mut stalled = proxy.client();
    stalled.send(Script::new().query("SELECT repeat('x', 1000000) FROM generate_series(1, 50)"));
    let mut other = proxy.client();

    for _ in 0..20 {
        other.send(Script::new().query("SELECT 1"));
        assert!(other.wire.stirs_within(support::PATIENCE / 2));
        assert_eq!(other.reply().value(), "1");
    }

    assert_eq!(stalled.wire.skim().1, 50);
}
