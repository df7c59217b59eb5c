//! Rows of SHOW FDS and SHOW HANDOVER: none panics, and what is understood says the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::exchange::Exchange;
use pgweir::protocol::handover::Row;
use pgweir::protocol::handover::state::{ClientState, PoolState, ServerState, StatementState};

fuzz_target!(|bytes: &[u8]| {
    let Ok(row) = Row::parse(bytes) else { return };
    let columns = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut again = bytes[..2].to_vec();
    for text in &row.texts()[..columns] {
        match text {
            Some(text) => {
                again.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                again.extend(text.bytes());
            }
            None => again.extend((-1i32).to_be_bytes()),
        }
    }
    assert_eq!(Row::parse(&again).as_ref(), Ok(&row));

    let Some(state) = &row.state else { return };
    if let Some(client) = ClientState::parse(state) {
        assert_eq!(ClientState::parse(&client.to_text()), Some(client));
    }
    if let Some(server) = ServerState::parse(state) {
        if let Some(exchange) = Exchange::from_json(&server.exchange, |_| None) {
            let again = Exchange::from_json(&exchange.to_json(), |_| None);
            assert_eq!(again.map(|again| again.to_json()), Some(exchange.to_json()));
        }
        assert_eq!(ServerState::parse(&server.to_text()), Some(server));
    }
    if let Some(pool) = PoolState::parse(state) {
        assert_eq!(PoolState::parse(&pool.to_text()), Some(pool));
    }
    if let Some(statement) = StatementState::parse(state) {
        assert_eq!(StatementState::parse(&statement.to_text()), Some(statement));
    }
});
