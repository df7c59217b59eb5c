//! Conversations in any order: none panics, and a server at rest owes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::exchange::Exchange;
use pgweir::protocol::outstanding::{Action, Due, Kind};
use pgweir::wire::{Backend, Frontend};

fn client_sends(exchange: &mut Exchange, message: Frontend) {
    let extended = |kind| Due { kind, action: Action::Forward, undo: None };
    match message {
        Frontend::Query => exchange.ask(Kind::Query),
        Frontend::FunctionCall => exchange.ask(Kind::FunctionCall),
        Frontend::Sync => exchange.sync(),
        Frontend::CopyDone | Frontend::CopyFail => exchange.end_copy(),
        Frontend::Parse => exchange.ask_extended(extended(Kind::Parse)),
        Frontend::Bind => exchange.ask_extended(extended(Kind::Bind)),
        Frontend::Describe => exchange.ask_extended(extended(Kind::Describe)),
        Frontend::Execute => exchange.ask_extended(extended(Kind::Execute)),
        Frontend::Close => exchange.ask_extended(extended(Kind::Close)),
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut exchange = Exchange::default();
    for step in bytes.chunks_exact(2) {
        if step[0] % 2 == 0 {
            if let Some(message) = Frontend::from_byte(step[1]) {
                client_sends(&mut exchange, message);
            }
            continue;
        }
        let kept = match Backend::from_byte(step[1]) {
            Some(Backend::ReadyForQuery) => exchange.ready(b"ITE"[usize::from(step[0] / 2 % 3)]).is_ok(),
            Some(Backend::ErrorResponse) => {
                exchange.failed(|_| ());
                true
            }
            Some(message) => exchange.server_sent(message).is_ok(),
            None => true,
        };
        if !kept {
            return;
        }
        assert!(!exchange.at_rest() || exchange.quiet());
    }
});
