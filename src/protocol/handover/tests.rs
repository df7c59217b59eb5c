use proptest::option;
use proptest::prelude::*;

use super::state::{ClientState, PoolState, ServerState, StatementState};
use super::*;

/// A DataRow's body with these values.
fn body(values: &[Option<String>]) -> Vec<u8> {
    let mut out = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(text) => {
                out.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text.bytes());
            }
            None => out.extend((-1i32).to_be_bytes()),
        }
    }
    out
}

fn row() -> impl Strategy<Value = Row> {
    let names = (option::of(".*"), option::of(".*"), ".*");
    let numbers = (any::<i32>(), any::<i32>(), any::<u64>(), any::<i32>(), 0..TASKS.len());
    let parameters = (option::of(".*"), option::of(".*"), option::of(".*"), option::of(".*"));
    let secrets = (option::of(".*"), option::of(any::<Vec<u8>>()), option::of(any::<Vec<u8>>()), option::of(".*"));
    (names, numbers, parameters, secrets).prop_map(|(names, numbers, parameters, secrets)| Row {
        fd: numbers.0,
        task: TASKS[numbers.4].0,
        user: names.0,
        database: names.1,
        addr: names.2,
        port: numbers.1,
        cancel: numbers.2,
        link: numbers.3,
        client_encoding: parameters.0,
        std_strings: parameters.1,
        datestyle: parameters.2,
        timezone: parameters.3,
        password: secrets.0,
        scram_client_key: secrets.1,
        scram_server_key: secrets.2,
        state: secrets.3,
    })
}

fn pairs() -> impl Strategy<Value = state::Parameters> {
    prop::collection::vec((".*", ".*"), 0..4)
}

proptest! {
    #[test]
    fn a_row_comes_back_as_it_went(row in row()) {
        prop_assert_eq!(Row::parse(&body(&row.texts())), Ok(row.clone()));

        let fds = Row { state: None, ..row };
        prop_assert_eq!(Row::parse(&body(&fds.texts()[..FDS_COLUMNS])), Ok(fds));
    }

    #[test]
    fn any_bytes_are_a_row_or_an_error(bytes: Vec<u8>) {
        let _ = Row::parse(&bytes);
    }

    #[test]
    fn a_row_cut_short_is_an_error(row in row(), cut in 1usize..200) {
        let whole = body(&row.texts());
        let cut = whole.len().saturating_sub(cut);
        prop_assert!(Row::parse(&whole[..cut]).is_err());
    }

    #[test]
    fn a_client_comes_back_as_it_went(
        numbers: (u64, u64, u64, u64, Option<u64>, Option<u64>, Option<u64>, bool, bool, Option<u64>),
        application_name in ".*",
        parameters in pairs(),
        statements: Vec<(Vec<u8>, u64)>,
    ) {
        let (id, connected_at, age, request_age, xact_age, idle_in_xact_age, rest_age, begun, drops_batch, query_age) =
            numbers;
        let client = ClientState {
            id, connected_at, age, request_age, xact_age, idle_in_xact_age, rest_age, begun, drops_batch,
            query_age,
            application_name, parameters, statements,
        };
        prop_assert_eq!(ClientState::parse(&client.to_text()), Some(client));
    }

    #[test]
    fn a_server_comes_back_as_it_went(
        numbers: (u64, u64, u64, u64, bool, bool, i32),
        application_name in ".*",
        parameters in pairs(),
        statements: Vec<u64>,
        suspects: Vec<u64>,
        cancel_reach in option::of(".*"),
        cancel_secret: Vec<u8>,
    ) {
        let (id, connected_at, age, rest_age, served, close_needed, cancel_pid) = numbers;
        let server = ServerState {
            id, connected_at, age, rest_age, served, close_needed, application_name, parameters, statements, suspects,
            cancel_reach, cancel_pid, cancel_secret, exchange: serde_json::json!({"status": 84}),
        };
        prop_assert_eq!(ServerState::parse(&server.to_text()), Some(server));
    }

    #[test]
    fn pools_and_statements_come_back_as_they_went(
        welcome in option::of(pairs()),
        credential: Vec<String>,
        id: u64,
        body: Vec<u8>,
    ) {
        let pool = PoolState { welcome, credential };
        prop_assert_eq!(PoolState::parse(&pool.to_text()), Some(pool));
        let statement = StatementState { id, body };
        prop_assert_eq!(StatementState::parse(&statement.to_text()), Some(statement));
    }

    #[test]
    fn any_text_is_a_state_or_none(text in ".*") {
        let _ = (ClientState::parse(&text), ServerState::parse(&text), PoolState::parse(&text));
        let _ = StatementState::parse(&text);
    }
}

#[test]
fn what_a_newer_version_adds_is_ignored_and_what_an_older_one_lacks_does_no_harm() {
    let client = ClientState::parse(r#"{"id": 7, "parameters": [["a", "b"], 3], "new": {"x": 1}}"#).unwrap();

    assert_eq!(client, ClientState { id: 7, parameters: vec![("a".into(), "b".into())], ..ClientState::default() });
    assert_eq!(ClientState::parse("[]"), None);
}

#[test]
fn a_row_of_pgbouncer_is_read() {
    // As PgBouncer 1.25 sends it for a client with a server.
    let texts = [
        "14",
        "client",
        "joe",
        "app",
        "127.0.0.1",
        "40312",
        "16045690981402826360",
        "13",
        "UTF8",
        "on",
        "ISO, MDY",
        "Etc/UTC",
    ];
    let mut values: Vec<_> = texts.iter().map(|text| Some((*text).to_owned())).collect();
    values.extend([None, None, None]);

    let row = Row::parse(&body(&values)).unwrap();

    assert_eq!((row.fd, row.task, row.link), (14, Task::Client, 13));
    assert_eq!(row.cancel, 16_045_690_981_402_826_360);
    assert_eq!(row.parameters()[2], ("DateStyle", "ISO, MDY"));
}

#[test]
fn a_row_shows_nothing_secret_when_printed() {
    let row = Row { password: Some("hunter2".into()), cancel: 4711, ..Row::new(Task::Client) };

    assert_eq!(format!("{row:?}"), "Row(client 0, link 0)");
    assert_eq!(row.without_secrets(), Row::new(Task::Client));
}
