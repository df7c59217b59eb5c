//! Whose answer is it? A client says what is legal, half legal or mean, all in one burst: it hears what PostgreSQL says
//! without a pooler, and the next client of the same server hears its own answers and no other.

use crate::support::{Client, Login, Postgres, Proxy, Script, Setup};

/// A pool of one server, and what the scripts below use.
struct Stage {
    proxy: Proxy,
    table: String,
}

impl Stage {
    fn new(setup: Setup) -> Stage {
        let proxy = setup.set("default_pool_size", 1).start();
        let table = format!("answers_{}", proxy.role);
        Postgres::shared().admin().ok(&format!(
            "CREATE TABLE {table} (n int); GRANT ALL ON {table} TO PUBLIC;
             CREATE VIEW {table}_view AS SELECT 1 AS n; GRANT ALL ON {table}_view TO PUBLIC;
             CREATE TABLE {table}_guarded (n int); GRANT ALL ON {table}_guarded TO PUBLIC;
             CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN RAISE EXCEPTION ''not today''; END';
             CREATE TRIGGER refuse BEFORE INSERT ON {table}_guarded EXECUTE FUNCTION {table}_refuse()"
        ));
        Stage { proxy, table }
    }

    /// A session past the pooler.
    fn direct(&self) -> Client {
        Login::to(Postgres::shared().port).user(&self.proxy.role).database("e2e").client()
    }
}

/// Everything that is heard up to the answer to a question at the end, in short.
#[track_caller]
fn heard(client: &mut Client, script: &Script) -> Vec<String> {
    client.send(script.clone().query("SELECT 'the end'"));
    let mut heard = Vec::new();
    while let Some(message) = client.wire.next() {
        let text = match message.tag {
            b'D' => format!("D {:?}", message.values()[0].as_deref().map(String::from_utf8_lossy)),
            b'E' => format!("E {} {}", message.fields()[&'C'], message.fields()[&'M']),
            b'Z' => format!("Z {}", message.body[0] as char),
            b'C' => format!("C {}", message.strings()[0]),
            b'S' | b'N' => continue,
            tag => (tag as char).to_string(),
        };
        let last = text.contains("the end");
        heard.push(text);
        if last {
            client.reply();
            break;
        }
    }
    heard
}

/// Scripts that end with nothing open, and what PostgreSQL answers, by the tags of its messages.
fn scripts(table: &str) -> Vec<(&'static str, Script, &'static str)> {
    let copy = format!("COPY {table} FROM STDIN");
    let into_view = format!("COPY {table}_view FROM STDIN");
    let guarded = format!("COPY {table}_guarded FROM STDIN");
    let frozen = format!("COPY {table} FROM STDIN (FREEZE)");
    let s = Script::new;
    let prepared = || s().parse("s1", &into_view).parse("s2", "SELECT 2").sync().run_prepared("s2", &[]).sync();
    vec![
        ("a bad row, Sync before the end", s().query(&copy).copy_data(b"x\n").sync().copy_done(), "GEZZ"),
        (
            "the same, and more behind",
            s().query(&copy).copy_data(b"x\n").sync().copy_done().query("SELECT 1"),
            "GEZZTDCZ",
        ),
        ("two Syncs", s().query(&copy).copy_data(b"x\n").sync().sync().copy_fail("no").sync(), "GEZZZZ"),
        ("good rows, Sync inside", s().query(&copy).copy_data(b"1\n").sync().copy_done().sync(), "GCZZ"),
        (
            "two COPYs, the second fails",
            s().query(&format!("{copy};{copy}")).copy_done().copy_data(b"x\n").sync().copy_done(),
            "GCGEZZ",
        ),
        ("a view, by Query", s().query(&into_view).sync().copy_data(b"1\n").copy_done(), "GEZZ"),
        (
            "a view, as PQexecParams does",
            s().parse("", &into_view).bind("", "", &[]).describe_portal("").execute("", 0).sync(),
            "12nGEZ",
        ),
        ("a view, with data behind", s().run(&into_view, &[]).sync().copy_data(b"1\n").copy_done().sync(), "12GEZZ"),
        ("a Sync, then a bad row", s().query(&copy).sync().copy_data(b"x\n").copy_done(), "GEZ"),
        (
            "a Sync, then a bad row, by Execute",
            s().run(&copy, &[]).sync().copy_data(b"x\n").copy_done().sync(),
            "12GEZ",
        ),
        (
            "one Sync inside, one behind",
            s().run(&copy, &[]).sync().copy_data(b"x\n").sync().copy_done().sync(),
            "12GEZZ",
        ),
        ("a trigger that refuses", s().run(&guarded, &[]).sync().copy_data(b"1\n").copy_done().sync(), "12GEZZ"),
        ("FREEZE", s().run(&frozen, &[]).sync().copy_done().sync(), "12GEZZ"),
        (
            "a view, and more behind",
            s().run(&into_view, &[]).sync().run("SELECT 1", &[]).sync().query("SELECT 2"),
            "12GEZ12DCZTDCZ",
        ),
        (
            "a view by name, and a statement that is known behind it",
            prepared()
                .run_prepared("s1", &[])
                .sync()
                .copy_done()
                .sync()
                .run_prepared("s2", &[])
                .sync()
                .close_statement("s1")
                .close_statement("s2")
                .sync(),
            "11Z2DCZ2GEZZ2DCZ33Z",
        ),
        (
            "a bad row by name",
            s().parse("s3", &copy).run_prepared("s3", &[]).copy_data(b"x\n").sync().close_statement("s3").sync(),
            "12GEZ3Z",
        ),
        ("Query in a batch", s().parse("", "SELECT 1").bind("", "", &[]).execute("", 0).query("SELECT 2"), "12DCTDCZ"),
        ("Close, then Query", s().close_statement("none").query("SELECT 2"), "3TDCZ"),
        (
            "Parse and Describe with Flush, then Query",
            s().parse("", "SELECT 1").describe_statement("").flush().query("SELECT 2"),
            "1tTTDCZ",
        ),
        ("a bad Parse drops a Query", s().parse("", "nonsense").query("SELECT 2").sync(), "EZ"),
        (
            "a bad Parse drops what we would answer",
            s().parse("s4", "SELECT 4")
                .sync()
                .parse("", "nonsense")
                .query("SELECT 2")
                .close_statement("s4")
                .parse("s5", "SELECT 4")
                .sync()
                .close_statement("s4")
                .sync(),
            "1ZEZ3Z",
        ),
        (
            "a Parse that is known in a failed block",
            s().parse("s6", "SELECT 6")
                .sync()
                .query("BEGIN; nonsense")
                .query("BEGIN")
                .query("SELECT 1/0")
                .parse("s7", "SELECT 6")
                .sync()
                .query("ROLLBACK")
                .close_statement("s6")
                .sync(),
            "1ZEZCZEZEZCZ3Z",
        ),
        (
            "a Parse that is known behind a ROLLBACK",
            s().parse("s8", "SELECT 8")
                .sync()
                .query("BEGIN")
                .query("SELECT 1/0")
                .run("ROLLBACK", &[])
                .parse("s9", "SELECT 8")
                .sync()
                .close_statement("s8")
                .close_statement("s9")
                .sync(),
            "1ZCZEZ12C1Z33Z",
        ),
        ("Flush with a body", s().message(b'H', b"body").query("SELECT 2").sync(), "EZ"),
        ("Flush with a body inside a COPY", s().query(&copy).message(b'H', b"body").copy_done(), "GCZ"),
        ("Sync with a body", s().message(b'S', b"body").query("SELECT 2"), "EZTDCZ"),
        (
            "CopyDone and CopyFail out of place",
            s().copy_done().copy_fail("no").copy_data(b"x").query("SELECT 2"),
            "TDCZ",
        ),
        (
            "DEALLOCATE ALL with a Parse behind it",
            s().parse("d1", "SELECT 1")
                .sync()
                .query("DEALLOCATE ALL")
                .parse("d1", "SELECT 1")
                .parse("d2", "SELECT 2")
                .sync()
                .run_prepared("d1", &[])
                .run_prepared("d2", &[])
                .sync()
                .close_statement("d1")
                .close_statement("d2")
                .sync(),
            "1ZCZ11Z2DC2DCZ33Z",
        ),
        (
            "DISCARD ALL with a Parse behind it",
            s().parse("d3", "SELECT 1")
                .sync()
                .query("DISCARD ALL")
                .parse("d3", "SELECT 1")
                .bind("", "d3", &[])
                .execute("", 0)
                .sync()
                .run_prepared("d3", &[])
                .sync()
                .close_statement("d3")
                .sync(),
            "1ZCZ12DCZ2DCZ3Z",
        ),
        (
            "DISCARD ALL in the extended protocol with a Parse behind it",
            s().parse("d4", "SELECT 1")
                .sync()
                .run("DISCARD ALL", &[])
                .sync()
                .parse("d4", "SELECT 1")
                .run_prepared("d4", &[])
                .sync()
                .close_statement("d4")
                .sync(),
            "1Z12CZ12DCZ3Z",
        ),
        (
            "a batch that fails, and the same name in the next",
            s().parse("", "nonsense")
                .parse("d5", "SELECT 1")
                .sync()
                .close_statement("d5")
                .parse("d5", "SELECT 2")
                .sync()
                .run_prepared("d5", &[])
                .close_statement("d5")
                .sync(),
            "EZ31Z2DC3Z",
        ),
    ]
}

fn check_all(pool_mode: &str) {
    let session = pool_mode == "session";
    let stage = Stage::new(Setup::new().set("pool_mode", pool_mode).set("query_wait_timeout", 20));
    let admin = &mut Postgres::shared().admin();
    for (what, script, tags) in scripts(&stage.table) {
        let expected = heard(&mut stage.direct(), &script);
        let told: String = expected.iter().filter_map(|text| text.chars().next()).collect();
        assert_eq!(told, format!("{tags}TD"), "{what}: PostgreSQL itself says {expected:?}");

        let mut client = stage.proxy.client();
        let mut rival = stage.proxy.client();
        // In a session's pool the rival's turn comes when the client has left.
        client.send(script.clone());
        rival.send(Script::new().query("SELECT 'the rival'"));
        let answered = heard(&mut client, &Script::new());
        assert_eq!(answered, expected, "{what}");
        if session {
            drop(client);
        }
        let reply = rival.reply();
        assert_eq!((reply.shape().as_str(), reply.value().as_str()), ("TDCZ", "the rival"), "{what}");
        drop(rival);
        stage.proxy.until_pool("sv_active", 0);
        admin.ok(&format!("TRUNCATE {}", stage.table));
    }
}

#[test]
fn a_burst_is_answered_as_by_postgres_and_the_next_client_gets_its_own_answers() {
    check_all("transaction");
}

#[test]
fn so_it_is_in_session_mode() {
    check_all("session");
}

#[test]
fn a_sync_that_a_copy_has_read_before_it_fails_is_not_waited_for() {
    let stage = Stage::new(Setup::new());
    for mut client in [stage.direct(), stage.proxy.client()] {
        client.send(Script::new().run(&format!("COPY {} FROM STDIN", stage.table), &[]).sync());
        assert_eq!(client.reply_until(b"G").shape(), "12G");
        client.send(Script::new().copy_data(b"x\n"));
        assert_eq!(client.reply_until(b"E").shape(), "E");
        // PostgreSQL has read the Sync inside the COPY, so that it drops all up to another.
        client.send(Script::new().query("SELECT 'dropped'").copy_done().sync());
        assert_eq!(client.reply().shape(), "Z");
        assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    }
    stage.proxy.until_pool("sv_active", 0);
    assert_eq!(stage.proxy.client().value("SELECT 1"), "1");
}

#[test]
fn a_server_of_which_it_is_open_what_it_will_answer_serves_nobody_else() {
    let stage = Stage::new(Setup::new());
    for by_query in [false, true] {
        let copy = format!("COPY {} FROM STDIN", stage.table);
        let mut client = stage.proxy.client();
        client.send(if by_query { Script::new().query(&copy) } else { Script::new().run(&copy, &[]) }.sync());
        client.reply_until(b"G");
        client.send(Script::new().copy_data(b"x\n"));
        client.reply_until(b"E");

        drop(client);

        assert_eq!(stage.proxy.client().value("SELECT 'mine'"), "mine");
    }
}

#[test]
fn a_batch_that_ends_with_a_query_needs_no_sync() {
    let stage = Stage::new(Setup::new());
    for script in [
        Script::new().close_statement("x").query("SELECT 1"),
        Script::new().parse("", "SELECT 1").query("SELECT 1"),
        Script::new().run("SELECT 1", &[]).query("SELECT 1"),
        Script::new().parse("", "SELECT 1").describe_statement("").flush().query("SELECT 1"),
    ] {
        let mut client = stage.proxy.client();
        client.run(script);
        stage.proxy.until_pool("sv_idle", 1);
        assert_eq!(stage.proxy.client().value("SELECT 2"), "2");
        assert_eq!(client.value("SELECT 3"), "3");
    }
}

#[test]
fn a_message_that_postgres_hangs_up_on_ends_its_sender_alone() {
    let stage = Stage::new(Setup::new());
    for tag in *b"HcfSCDEX" {
        let mut client = stage.proxy.client();
        client.send(Script::new().query("SELECT 1").message(tag, &[b'x'; 20_000]));
        let last = client.wire.until_end();
        let error = last.iter().rfind(|message| message.tag == b'E').expect("an error").fields();
        assert_eq!(error[&'C'], "08P01", "{}: {error:?}", tag as char);
        assert!(error[&'M'].starts_with("invalid message length"), "{}: {error:?}", tag as char);
        assert_eq!(stage.proxy.client().value("SELECT 'next'"), "next", "{}", tag as char);
    }
}

/// SQL of one client that drops, replaces or takes a statement of ours, by the name that it has on the server.
fn attacks(name: &str) -> Vec<String> {
    vec![
        format!("DEALLOCATE \"{name}\""),
        format!("DEALLOCATE \"{name}\"; PREPARE \"{name}\" AS SELECT 'substituted'"),
        format!("DO $$ BEGIN EXECUTE 'DEALLOCATE \"{name}\"'; END $$"),
        "DO $$ DECLARE s text; BEGIN FOR s IN SELECT name FROM pg_prepared_statements LOOP
             EXECUTE format('DEALLOCATE %I', s); EXECUTE format('PREPARE %I AS SELECT ''substituted''', s); END LOOP; END $$"
            .to_owned(),
    ]
}

#[test]
fn sql_that_drops_or_replaces_our_statements_meets_nobody_else() {
    for extended in [false, true] {
        let stage = Stage::new(Setup::new());
        let mut victim = stage.proxy.client();
        victim.run(Script::new().parse("mine", "SELECT 'right'").run_prepared("mine", &[]).sync());
        for attack in attacks("PGBOUNCER_1") {
            let mut attacker = stage.proxy.client();
            let script = if extended { Script::new().run(&attack, &[]).sync() } else { Script::new().query(&attack) };
            attacker.run(script);
            let reply = victim.run(Script::new().run_prepared("mine", &[]).sync());
            assert_eq!((reply.shape().as_str(), reply.value().as_str()), ("2DCZ", "right"), "{attack}");
        }
    }
}

#[test]
fn a_name_of_ours_that_a_client_has_taken_first_is_no_obstacle() {
    let stage = Stage::new(Setup::new());
    let mut squatter = stage.proxy.client();
    for id in 1..20 {
        squatter.ok(&format!("PREPARE \"PGBOUNCER_{id}\" AS SELECT 'substituted'"));
    }

    let mut client = stage.proxy.client();
    let reply = client.run(Script::new().parse("mine", "SELECT 'right'").run_prepared("mine", &[]).sync());

    assert_eq!((reply.shape().as_str(), reply.value().as_str()), ("12DCZ", "right"));
}

#[test]
fn a_long_batch_is_answered_though_the_server_answers_at_its_sync_only() {
    let stage = Stage::new(Setup::new());
    let name = "n".repeat(9_000);
    let closes = |script: Script| (0..40_000).fold(script, |script, _| script.close_statement("x"));
    let named =
        |script: Script| (0..100).fold(script, |script, number| script.parse(&format!("{name}{number}"), "SELECT 1"));
    for script in [closes(Script::new().parse("", "SELECT 1")), named(Script::new().parse("", "SELECT 1"))] {
        let mut client = stage.proxy.client();

        client.send(script.sync());

        let reply = client.reply();
        assert!(reply.is_ready() && reply.error().is_none(), "{:?}", reply.error());
        stage.proxy.until_pool("sv_active", 0);
    }
}

#[test]
fn deallocate_all_on_another_server_forgets_what_the_first_one_had() {
    for command in ["DEALLOCATE ALL", "DISCARD ALL"] {
        for extended in [false, true] {
            let stage = Stage::new(Setup::new());
            let mut client = stage.proxy.client();
            for _ in 0..20 {
                client.ok("SELECT 1");
            }
            client.run(Script::new().parse("mine", "SELECT 1").sync());
            stage.proxy.console().ok("RECONNECT");

            client.run(if extended { Script::new().run(command, &[]).sync() } else { Script::new().query(command) });

            let reply = client.run(Script::new().parse("mine", "SELECT 2").run_prepared("mine", &[]).sync());
            assert_eq!((reply.shape().as_str(), reply.value().as_str()), ("12DCZ", "2"), "{command}");
        }
    }
}
