//! Prepared statements at protocol level, which belong to the client although its servers change.

use crate::support::random::Random;
use crate::support::{self, Client, Login, Postgres, Proxy, Script, Setup};

/// Runs a prepared statement and returns its one value.
#[track_caller]
fn run(client: &mut Client, name: &str, values: &[&str]) -> String {
    let reply = client.run(Script::new().run_prepared(name, values).sync());
    assert_eq!(reply.shape(), "2DCZ", "{reply:?}");
    reply.value()
}

#[track_caller]
fn prepare(client: &mut Client, name: &str, sql: &str) {
    let reply = client.run(Script::new().parse(name, sql).sync());
    assert_eq!(reply.shape(), "1Z", "{reply:?}");
}

/// Binds a statement that must not exist; PgBouncer ends the session over it, an error would do.
#[track_caller]
fn must_be_unknown(client: &mut Client, name: &str) {
    let reply = client.run(Script::new().run_prepared(name, &[]).sync());
    let message = reply.error_message();
    assert!(message.contains("not exist"), "{message}");
}

fn single() -> Proxy {
    Setup::new().set("default_pool_size", 1).start()
}

#[test]
fn a_statement_follows_its_client_to_another_server() {
    let proxy = Setup::new().set("default_pool_size", 2).start();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    prepare(&mut client, "s", "SELECT pg_backend_pid() + $1::int");
    let first = run(&mut client, "s", &["0"]);
    other.ok("BEGIN");
    assert_eq!(other.pid(), first);

    let second = run(&mut client, "s", &["0"]);

    assert_ne!(first, second);
    other.ok("COMMIT");
}

#[test]
fn equal_names_of_two_clients_are_two_statements() {
    let proxy = single();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    prepare(&mut one, "s", "SELECT 'one'");
    prepare(&mut other, "s", "SELECT 'other'");

    for _ in 0..3 {
        assert_eq!(run(&mut one, "s", &[]), "one");
        assert_eq!(run(&mut other, "s", &[]), "other");
    }
}

#[test]
fn equal_statements_of_many_clients_are_one_on_the_server() {
    let proxy = single();
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        prepare(client, &format!("mine{index}"), "SELECT 'shared'");
        assert_eq!(run(client, &format!("mine{index}"), &[]), "shared");
    }

    let known = clients[0].value("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%shared%'");

    assert_eq!(known, "1");
    let stats = proxy.show("STATS");
    assert_eq!(stats.cell(&[("database", "app")], "total_client_parse_count"), "4");
    assert_eq!(stats.cell(&[("database", "app")], "total_server_parse_count"), "1");
    assert_eq!(stats.cell(&[("database", "app")], "total_bind_count"), "4");
}

#[test]
fn equal_texts_with_different_parameter_types_are_different_statements() {
    let proxy = single();
    let mut client = proxy.client();
    for (name, oid) in [("int", 23u32), ("text", 25)] {
        let mut body = [name.as_bytes(), b"\0SELECT pg_typeof($1)::text\0\0\x01"].concat();
        body.extend(oid.to_be_bytes());
        assert_eq!(client.run(Script::new().message(b'P', &body).sync()).shape(), "1Z");
    }

    assert_eq!(run(&mut client, "int", &["1"]), "integer");
    assert_eq!(run(&mut client, "text", &["1"]), "text");
}

#[test]
fn statements_survive_their_servers() {
    let proxy = Setup::new().set("server_lifetime", 0).start();
    let mut client = proxy.client();
    prepare(&mut client, "s", "SELECT pg_backend_pid()");

    let first = run(&mut client, "s", &[]);

    assert_ne!(run(&mut client, "s", &[]), first);
}

#[test]
fn deallocate_all_and_discard_all_forget_the_clients_statements_only() {
    for forget in ["DEALLOCATE ALL", "DISCARD ALL"] {
        let proxy = single();
        let (mut client, mut other) = (proxy.client(), proxy.client());
        prepare(&mut client, "s", "SELECT 1");
        prepare(&mut other, "s", "SELECT 1");
        run(&mut client, "s", &[]);

        client.ok(forget);

        assert_eq!(run(&mut other, "s", &[]), "1", "{forget}");
        must_be_unknown(&mut client, "s");
    }
}

#[test]
fn deallocate_all_over_the_extended_protocol_forgets_too() {
    let proxy = single();
    let mut client = proxy.client();
    prepare(&mut client, "s", "SELECT 1");

    assert_eq!(client.run(Script::new().run("DEALLOCATE ALL", &[]).sync()).shape(), "12CZ");

    prepare(&mut client, "s", "SELECT 2");
    assert_eq!(run(&mut client, "s", &[]), "2");
}

#[test]
fn a_closed_statement_is_gone_and_its_name_free() {
    let proxy = single();
    let mut client = proxy.client();
    prepare(&mut client, "s", "SELECT 1");
    run(&mut client, "s", &[]);

    assert_eq!(client.run(Script::new().close_statement("s").sync()).shape(), "3Z");
    assert_eq!(client.run(Script::new().close_statement("never was").sync()).shape(), "3Z");

    prepare(&mut client, "s", "SELECT 2");
    assert_eq!(run(&mut client, "s", &[]), "2");
    client.run(Script::new().close_statement("s").sync());
    must_be_unknown(&mut client, "s");
}

#[test]
fn a_server_keeps_at_most_max_prepared_statements() {
    let proxy = Setup::new().set("default_pool_size", 1).set("max_prepared_statements", 2).start();
    let mut client = proxy.client();
    for number in 0..5 {
        prepare(&mut client, &format!("s{number}"), &format!("SELECT {number}"));
    }
    for round in 0..3 {
        for number in 0..5 {
            assert_eq!(run(&mut client, &format!("s{number}"), &[]), number.to_string(), "round {round}");
        }
    }

    let kept: i32 = client.value("SELECT count(*) FROM pg_prepared_statements").parse().unwrap();
    assert!(kept <= 2, "{kept}");
}

#[test]
fn a_pipeline_may_use_more_statements_than_a_server_keeps() {
    let proxy = Setup::new().set("default_pool_size", 1).set("max_prepared_statements", 2).start();
    let mut client = proxy.client();
    let mut script = Script::new();
    for number in 0..6 {
        script = script.parse(&format!("s{number}"), &format!("SELECT {number}"));
        script = script.run_prepared(&format!("s{number}"), &[]);
    }
    for number in 0..6 {
        script = script.run_prepared(&format!("s{number}"), &[]);
    }

    let reply = client.run(script.sync());

    assert_eq!(reply.shape(), "12DC".repeat(6) + &"2DC".repeat(6) + "Z");
    let values: Vec<String> = reply.rows().into_iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(values.join(""), "012345012345");
}

#[test]
fn a_failed_parse_leaves_the_name_free() {
    // PgBouncer remembers the name all the same.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = single();
    let mut client = proxy.client();

    assert_eq!(client.run(Script::new().parse("s", "SELEKT 1").sync()).shape(), "EZ");

    prepare(&mut client, "s", "SELECT 1");
    assert_eq!(run(&mut client, "s", &[]), "1");
}

#[test]
fn a_parse_that_an_earlier_error_skipped_leaves_no_trace() {
    // PgBouncer remembers the name all the same.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = single();
    let mut client = proxy.client();

    let reply = client.run(Script::new().run("SELECT 1/0", &[]).parse("s", "SELECT 1").sync());
    assert_eq!(reply.shape(), "1EZ");

    prepare(&mut client, "s", "SELECT 2");
    assert_eq!(run(&mut client, "s", &[]), "2");
    prepare(&mut client, "t", "SELECT 1");
    assert_eq!(run(&mut client, "t", &[]), "1");
}

#[test]
fn a_statement_whose_preparation_was_skipped_on_this_server_is_prepared_again() {
    let proxy = single();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    prepare(&mut client, "s", "SELECT 'mine'");
    let reply = other.run(Script::new().run("SELECT 1/0", &[]).parse("t", "SELECT 'late'").sync());
    assert_eq!(reply.shape(), "1EZ");

    let reply = client.run(Script::new().run("SELECT 1/0", &[]).run_prepared("s", &[]).sync());
    assert_eq!(reply.shape(), "1EZ");

    assert_eq!(run(&mut client, "s", &[]), "mine");
    if !support::proxy::is_pgbouncer() {
        prepare(&mut other, "t", "SELECT 'late'");
    }
    assert_eq!(run(&mut other, "t", &[]), "late");
}

#[test]
fn a_name_in_use_is_refused() {
    let proxy = single();
    let mut client = proxy.client();
    prepare(&mut client, "s", "SELECT 1");

    let reply = client.run(Script::new().parse("s", "SELECT 2").sync());

    assert!(reply.error_message().contains("already"), "{reply:?}");
}

#[test]
fn an_unknown_statement_is_refused_and_costs_nobody_else() {
    let proxy = single();
    let mut bystander = proxy.client();

    must_be_unknown(&mut proxy.client(), "never");
    let reply = proxy.client().run(Script::new().describe_statement("never").sync());
    assert!(reply.error_message().contains("not exist"), "{reply:?}");

    assert_eq!(bystander.value("SELECT 1"), "1");
}

#[test]
fn an_unknown_statement_ends_the_session() {
    let proxy = single();
    let mut client = proxy.client();

    let reply = client.run(Script::new().run_prepared("never", &[]).sync());

    assert!(reply.error_message().starts_with("prepared statement did not exist"), "{reply:?}");
    assert_eq!(proxy.client().value("SELECT 1"), "1");
}

#[test]
fn statements_are_described() {
    let proxy = single();
    let mut client = proxy.client();
    prepare(&mut client, "s", "SELECT $1::int AS n, 'x'::text AS t");

    for _ in 0..2 {
        let reply = client.run(Script::new().describe_statement("s").sync());
        assert_eq!(reply.shape(), "tTZ");
        assert_eq!(reply.messages[1].columns(), [("n".to_owned(), 23), ("t".to_owned(), 25)]);
        assert_eq!(run(&mut client, "s", &["4"]), "4");
    }
}

#[test]
fn a_batch_of_preparations_and_uses_in_one_packet_is_answered_in_order() {
    let proxy = Setup::new().set("default_pool_size", 2).start();
    let mut client = proxy.client();
    let mut script = Script::new();
    for number in 0..30 {
        let name = format!("s{}", number % 7);
        if number < 7 {
            script = script.parse(&name, &format!("SELECT {number} + $1::int"));
        }
        script = script.run_prepared(&name, &["100"]);
        if number % 5 == 4 {
            script = script.sync();
        }
    }

    client.send(script);

    let mut values = Vec::new();
    for _ in 0..6 {
        let reply = client.reply();
        assert!(reply.error().is_none(), "{reply:?}");
        values.extend(reply.rows().into_iter().map(|row| row[0].clone().unwrap()));
    }
    let expected: Vec<String> = (0..30).map(|number| (100 + number % 7).to_string()).collect();
    assert_eq!(values, expected);
}

#[test]
fn long_names_texts_and_parameters_are_no_trouble() {
    let proxy = single();
    let mut client = proxy.client();
    let name = "n".repeat(5000);
    let long = "x".repeat(300_000);

    prepare(&mut client, &name, &format!("SELECT length($1) + length('{long}')"));

    for length in [0, 1, 4000, 4096, 8192, 1_000_000] {
        eprintln!("a parameter of {length} bytes");
        assert_eq!(run(&mut client, &name, &[&"y".repeat(length)]), (300_000 + length).to_string());
    }
}

#[test]
fn unnamed_statements_stay_with_their_batch() {
    let proxy = Setup::new().set("default_pool_size", 1).start();
    let (mut one, mut other) = (proxy.client(), proxy.client());
    for number in 0..5 {
        let mine = one.run(Script::new().run(&format!("SELECT {number}"), &[]).sync());
        let others = other.run(Script::new().run(&format!("SELECT -{number}"), &[]).sync());
        assert_eq!(mine.value(), number.to_string());
        assert_eq!(others.shape(), "12DCZ");
    }
}

#[test]
fn switched_off_statements_pass_under_their_own_names() {
    let proxy = Setup::new().set("pool_mode", "session").set("max_prepared_statements", 0).start();
    let mut client = proxy.client();

    prepare(&mut client, "as_it_is", "SELECT 1");

    assert_eq!(client.value("SELECT name FROM pg_prepared_statements"), "as_it_is");
    assert_eq!(run(&mut client, "as_it_is", &[]), "1");
}

#[test]
fn in_session_mode_statements_work_and_end_with_the_session() {
    let proxy = Setup::new().set("pool_mode", "session").set("default_pool_size", 1).start();
    let mut client = proxy.client();
    prepare(&mut client, "s", "SELECT 1");
    assert_eq!(run(&mut client, "s", &[]), "1");
    client.leave();

    let mut next = proxy.client();
    prepare(&mut next, "s", "SELECT 1");
    assert_eq!(run(&mut next, "s", &[]), "1");
    assert_eq!(next.value("SELECT count(*) FROM pg_prepared_statements"), "1");
}

#[test]
fn the_servers_complaint_about_a_changed_table_reaches_the_client() {
    let proxy = single();
    let mut client = proxy.client();
    let table = format!("changing_of_{}", proxy.role);
    let mut admin = Postgres::shared().admin();
    admin.ok(&format!("CREATE TABLE {table} AS SELECT 1 AS n; GRANT ALL ON {table} TO PUBLIC"));
    prepare(&mut client, "s", &format!("SELECT * FROM {table}"));
    run(&mut client, "s", &[]);

    admin.ok(&format!("ALTER TABLE {table} ALTER n TYPE text"));

    let reply = client.run(Script::new().run_prepared("s", &[]).sync());
    assert_eq!(reply.error_message(), "cached plan must not change result type");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_statement_of_a_failed_batch_is_there_for_the_next_one_in_the_same_pipeline() {
    let proxy = Setup::new().set("default_pool_size", 1).set("max_prepared_statements", 1).start();
    let mut client = proxy.client();
    prepare(&mut client, "kept", "SELECT 'kept'");
    prepare(&mut client, "other", "SELECT 'other'");

    // The server lacks "kept" now. What is sent for it in the first batch is skipped with the rest of that.
    let failing = Script::new().run("SELECT 1/0", &[]).run_prepared("kept", &[]).sync();
    client.send([failing.as_ref(), Script::new().run_prepared("kept", &[]).sync().as_ref()].concat());

    assert_eq!(client.reply().shape(), "1EZ");
    assert_eq!(client.reply().value(), "kept");
    assert_eq!(run(&mut client, "other", &[]), "other");
    assert_eq!(run(&mut client, "kept", &[]), "kept");
}

/// Batches with errors in them, all sent at once: statements are parsed, skipped, closed and used again under other
/// names, of texts that several names share.
fn random_batches(random: &mut Random) -> (Script, usize) {
    const TEXTS: [&str; 3] = ["SELECT 7", "SELECT 'x'::text", "SELECT 1 + 1"];
    let mut script = Script::new();
    let mut names: Vec<String> = Vec::new();
    let batches = 2 + random.below(5) as usize;
    let mut parsed = 0;
    for _ in 0..batches {
        let mut failed = false;
        for _ in 0..1 + random.below(5) {
            let known = (!names.is_empty()).then(|| random.below(names.len() as u64) as usize);
            script = match (random.below(6), known) {
                (0, _) => {
                    failed = true;
                    script.run("SELECT 1/0", &[])
                }
                (1, Some(at)) => {
                    let name = if failed { names[at].clone() } else { names.swap_remove(at) };
                    // Skipped, it may be used once more; a pipeline cannot know.
                    names.retain(|other| *other != name);
                    script.close_statement(&name)
                }
                (2 | 3, Some(at)) => script.run_prepared(&names[at], &[]),
                _ => {
                    let name = format!("s{parsed}");
                    parsed += 1;
                    let text = TEXTS[random.below(3) as usize];
                    script = script.parse(&name, text);
                    if !failed {
                        names.push(name);
                    }
                    script
                }
            };
        }
        script = script.sync();
    }
    (script, batches)
}

#[test]
fn pipelines_with_errors_are_answered_as_by_the_server_itself() {
    let proxy = Setup::new().set("default_pool_size", 1).set("max_prepared_statements", 2).start();
    for seed in 0..150 {
        let mut random = Random(seed);
        let (script, batches) = random_batches(&mut random);
        let mut direct = Login::to(Postgres::shared().port).user(&proxy.role).database("e2e").client();
        let mut pooled = proxy.client();

        direct.send(&script);
        pooled.send(&script);

        for batch in 0..batches {
            let (expected, got) = (direct.reply(), pooled.reply());
            assert_eq!(got.shape(), expected.shape(), "seed {seed}, batch {batch}");
            assert_eq!(got.rows(), expected.rows(), "seed {seed}, batch {batch}");
        }
    }
}
