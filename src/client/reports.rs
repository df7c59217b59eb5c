//! ParameterStatus that comes while a client has the server: what it means for the server, for the client, and for
//! those who log in later.

use std::sync::atomic::Ordering::Relaxed;

use super::session::Client;
use crate::protocol::parameters::{self, UNREADABLE, ValueTooLong, read_value};
use crate::server::Server;
use crate::wire::backend;
use crate::wire::framing::HEADER_LEN;

/// Notes the ParameterStatus of which `len` bytes are in the server's inbox, before it goes on to the client: the
/// server has this value now, and its client wants it of any other. A value that cannot be read or is too long is not
/// followed; the server is marked so that no other client meets it there.
#[cold]
pub(super) fn note(client: &mut Client, server: &mut Server, len: usize) {
    let body = server.inbox.fresh().get(HEADER_LEN..len).unwrap_or_default();
    let Some((name, value)) = backend::parse_parameter_status(body) else {
        // Broken, or longer than is held.
        server.card().close_needed.store(true, Relaxed);
        return;
    };
    let value = read_value(value, &server.parameters);
    client.pool.reported(server.card(), name, &value);
    let shared = &client.shared;
    let wish = (value != UNREADABLE).then_some(&mut client.wish);
    if let Err(ValueTooLong) = parameters::report(name, &value, &mut server.parameters, wish, &shared.tracked) {
        server.card().close_needed.store(true, Relaxed);
    }
    server.note_application_name(name, &value);
    client.note_application_name(name, &value);
    shared.interner.share_in_place(&mut server.parameters);
    shared.interner.share_in_place(&mut client.wish);
}
