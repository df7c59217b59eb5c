use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn setting(key: &str, value: &str) -> Command {
    Command::Set { key: key.to_owned(), value: value.to_owned() }
}

#[test]
fn every_command_is_understood() {
    let table = [
        ("SHOW STATS", Command::Show(Show::Stats)),
        ("show stats;", Command::Show(Show::Stats)),
        ("  Show\t\n pools ; ", Command::Show(Show::Pools)),
        ("SELECT version", Command::Show(Show::Version)),
        ("show \"lists\"", Command::Show(Show::Lists)),
        ("\"show\" mem", Command::Show(Show::Mem)),
        ("SHOW active_sockets", Command::Show(Show::ActiveSockets)),
        ("SHOW ClieNt_enCoding", Command::ShowParameter(&PARAMETERS[0])),
        ("show TimeZone", Command::ShowParameter(&PARAMETERS[4])),
        ("RELOAD", Command::Reload),
        ("PAUSE", Command::Pause(None)),
        ("pause app;", Command::Pause(name("app"))),
        ("PAUSE \"App db\"", Command::Pause(name("App db"))),
        ("PAUSE \"say \"\"hi\"\"\"", Command::Pause(name("say \"hi\""))),
        ("PAUSE \"\"", Command::Pause(None)),
        ("RESUME", Command::Resume(None)),
        ("RESUME app", Command::Resume(name("app"))),
        ("SUSPEND", Command::Suspend),
        ("DISABLE app", Command::Disable(name("app"))),
        ("DISABLE", Command::Disable(None)),
        ("ENABLE app", Command::Enable(name("app"))),
        ("RECONNECT", Command::Reconnect(None)),
        ("WAIT_CLOSE app", Command::WaitClose(name("app"))),
        ("KILL", Command::Kill(None)),
        ("KILL app", Command::Kill(name("app"))),
        ("KILL_CLIENT 17", Command::KillClient("17".to_owned())),
        ("KILL_CLIENT", Command::KillClient(String::new())),
        ("SHUTDOWN", Command::Shutdown(ShutdownMode::Immediate)),
        ("shutdown wait_for_servers", Command::Shutdown(ShutdownMode::WaitForServers)),
        ("SHUTDOWN WAIT_FOR_CLIENTS;", Command::Shutdown(ShutdownMode::WaitForClients)),
        ("SET verbose=0", setting("verbose", "0")),
        ("set pool_mode = session ;", setting("pool_mode", "session")),
        ("SET pool_mode TO 'session'", setting("pool_mode", "session")),
        ("SET server_check_query='it''s;'", setting("server_check_query", "it's;")),
        ("SET \"pool_mode\" = \"statement\"", setting("pool_mode", "statement")),
        ("SET x=''", setting("x", "")),
        ("SET timezone=x", Command::SetIgnored),
        ("SET client_encoding TO 'UTF8'", Command::SetIgnored),
        ("", Command::Empty),
        (" ; ", Command::Empty),
    ];
    for (text, command) in table {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
}

#[test]
fn what_drivers_send_by_themselves_is_understood() {
    let table = [
        ("BEGIN", Command::Transaction(Transaction::Begin)),
        ("begin transaction;", Command::Transaction(Transaction::Begin)),
        ("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", Command::Transaction(Transaction::Begin)),
        ("BEGIN READ ONLY", Command::Transaction(Transaction::Begin)),
        ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE", Command::Transaction(Transaction::Begin)),
        ("COMMIT", Command::Transaction(Transaction::Commit)),
        ("END", Command::Transaction(Transaction::Commit)),
        ("ROLLBACK", Command::Transaction(Transaction::Rollback)),
        ("ABORT WORK", Command::Transaction(Transaction::Rollback)),
        ("SAVEPOINT \"_pg3_1\"", Command::Transaction(Transaction::Savepoint)),
        ("RELEASE \"_pg3_1\"", Command::Transaction(Transaction::Release)),
        ("RELEASE SAVEPOINT s", Command::Transaction(Transaction::Release)),
        ("ROLLBACK TO \"_pg3_1\"", Command::Transaction(Transaction::RollbackTo)),
        ("ROLLBACK TO SAVEPOINT s", Command::Transaction(Transaction::RollbackTo)),
        ("SET extra_float_digits = 3", Command::SetIgnored),
        ("SET application_name = 'PostgreSQL JDBC Driver'", Command::SetIgnored),
        ("SET search_path TO public, pg_catalog", Command::SetIgnored),
        ("SET DateStyle = ISO, MDY", Command::SetIgnored),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Command::SetIgnored),
        ("SET NAMES 'utf8'", Command::SetIgnored),
        ("SET application_name = 'a;b'", Command::SetIgnored),
        ("SHOW TRANSACTION ISOLATION LEVEL", Command::ShowParameter(&PARAMETERS[5])),
        ("DEALLOCATE ALL", Command::Deallocate(None)),
        ("DEALLOCATE \"_pg3_0\"", Command::Deallocate(name("_pg3_0"))),
        ("DEALLOCATE PREPARE s1", Command::Deallocate(name("s1"))),
        ("DISCARD ALL", Command::DiscardAll),
    ];
    for (text, command) in table {
        assert_eq!(parse(text), Ok(command), "{text}");
    }
}

#[test]
fn what_is_no_command_is_a_syntax_error() {
    let texts = [
        "SHOW",
        "SHOW foo",
        "SHOW stats pools",
        "SHOW \"\"",
        "show version; show state",
        "show version;;",
        "RELOAD x",
        "SUSPEND x",
        "SHUTDOWN now",
        "SELECT 1",
        "SELECT version()",
        "SELECT n.nspname FROM pg_catalog.pg_class c",
        "SET",
        "SET verbose",
        "SET verbose=",
        "SET verbose 0",
        "SET a=b c",
        "SET a='b'c",
        "SET a='b",
        "SET server_lifetime=0.5",
        "SET timezone=a; SHUTDOWN",
        "BEGIN; SHOW STATS",
        "PAUSE 'app'",
        "PAUSE a-b",
        "PAUSE \"a",
        "DEALLOCATE",
        "DISCARD TEMP",
        "KILL_CLIENT 1 2",
        "\u{e4}",
        "$1",
    ];
    for text in texts {
        assert_eq!(parse(text), Err(ParseError::Syntax), "{text}");
    }
}

#[test]
fn words_that_are_too_long_are_bad_arguments() {
    let long = "x".repeat(64);
    let texts = [
        "a_sixteen_bytes_".to_owned(),
        format!("SHOW {long}"),
        format!("SET {long}=1"),
        format!("SET verbose='{}'", "x".repeat(254)),
        format!("SHOW \"{}\"", "x".repeat(62)),
        "SET \"\"=1".to_owned(),
    ];
    for text in texts {
        assert_eq!(parse(&text), Err(ParseError::BadArguments), "{text}");
    }
    assert_eq!(parse(&format!("PAUSE {}", "x".repeat(63))), Ok(Command::Pause(Some("x".repeat(63)))));
    assert_eq!(parse(&format!("PAUSE \"{}\"", "x".repeat(61))), Ok(Command::Pause(Some("x".repeat(61)))));
    assert_eq!(parse(&format!("SET k='{}'", "x".repeat(253))), Ok(setting("k", &"x".repeat(253))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_of_its_own_signs_makes_it_panic(
        text in "(?i)(show|set|pause|begin|[a-z_]{1,3}|[ \t;='\",\u{e4}]){0,12}",
    ) {
        let _ = parse(&text);
    }

    #[test]
    fn a_quoted_name_comes_back_as_it_went(database in "[^\0]{1,15}") {
        let text = format!("PAUSE \"{}\"", database.replace('"', "\"\""));
        prop_assert_eq!(parse(&text), Ok(Command::Pause(Some(database))));
    }

    #[test]
    fn a_quoted_value_comes_back_as_it_went(value in "[^\0]{0,60}") {
        let text = format!("SET k = '{}';", value.replace('\'', "''"));
        prop_assert_eq!(parse(&text), Ok(setting("k", &value)));
    }
}
