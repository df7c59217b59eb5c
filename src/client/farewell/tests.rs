use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::server::ConnectError;
use crate::wire::error::ErrorFields;

fn denied(kind: DenialKind) -> Farewell {
    Farewell::Denied(Denial { kind, why: "for the operator alone" })
}

fn connect_error(from_server: bool, sqlstate: &str) -> Arc<ConnectError> {
    Arc::new(ConnectError {
        sqlstate: sqlstate.to_owned(),
        message: "what happened".to_owned(),
        from_server,
        severity: "FATAL".to_owned(),
        detail: Some("more of it".to_owned()),
        hint: None,
    })
}

/// Every reason there is, what the client reads, and its SQLSTATE.
fn table() -> Vec<(Farewell, &'static str, &'static str)> {
    let ours = || connect_error(false, "08001");
    let theirs = || connect_error(true, "53300");
    let cached = "server login has been failing, cached error: what happened (server_login_retry)";
    vec![
        (Farewell::BadPacket("bad packet header".into()), "bad packet header", "08P01"),
        (Farewell::Startup(StartupError::OldProtocol), "old V2 protocol not supported", "0A000"),
        (Farewell::Startup(StartupError::NoUser), "no username supplied", "28000"),
        (Farewell::EagerAfter("SSL"), "received unencrypted data after SSL request", "08P01"),
        (Farewell::DirectTls, "TLS is not enabled (client_tls_sslmode)", "0A000"),
        (denied(DenialKind::PasswordFailed), "password authentication failed", "28P01"),
        (denied(DenialKind::SaslFailed), "SASL authentication failed", "28P01"),
        (denied(DenialKind::EmptyPassword), "empty password returned by client", "28P01"),
        (denied(DenialKind::InvalidMechanism), "client selected an invalid SASL authentication mechanism", "08P01"),
        (denied(DenialKind::TrustFailed), "\"trust\" authentication failed", "28000"),
        (Farewell::Unproven("login rejected"), "login rejected", "28000"),
        (Farewell::Limit("max_client_conn"), "no more connections allowed (max_client_conn)", "53300"),
        (Farewell::Limit("max_x"), "client connections exceeded (max_x)", "53300"),
        (Farewell::Throttled { logged: true }, "too many logins from this address (login_rate_limit)", "53300"),
        (Farewell::NoForcedUser, "bouncer config error", "F0000"),
        (Farewell::NoSuchDatabase("x".into()), "no such database: x", "3D000"),
        (Farewell::DatabaseDisabled("x".into()), "database \"x\" is disabled", "57P03"),
        (Farewell::NotAllowed, "not allowed", "28000"),
        (Farewell::ShuttingDown, "pooler is shutting down", "57P03"),
        (Farewell::Refused(Refusal::QueryWaitTimeout), "query_wait_timeout", "53300"),
        (Farewell::Refused(Refusal::ServerLoginFailed(ours())), "what happened", "08001"),
        (Farewell::Refused(Refusal::ServerLoginFailed(theirs())), "what happened", "53300"),
        (Farewell::Refused(Refusal::ServerLoginFailed(connect_error(true, ""))), "what happened", "08001"),
        (Farewell::Refused(Refusal::DedicatedLoginFailed(ours())), "what happened", "08001"),
        (Farewell::Refused(Refusal::DedicatedLoginFailed(theirs())), "login failed", "53300"),
        (Farewell::Refused(Refusal::LoginRetry(ours())), cached, "57P03"),
        (Farewell::Refused(Refusal::LoginRetry(theirs())), cached, "53300"),
        (Farewell::Refused(Refusal::DatabaseGone), "database removed", "57P04"),
        (Farewell::Refused(Refusal::Killed), "database removed", "57P01"),
        (Farewell::Refused(Refusal::Shutdown), "server shutting down", "57P01"),
        (Farewell::ParameterRefused("invalid value".into()), "invalid value", "22023"),
        (Farewell::ServerCrashed(None), "server conn crashed?", "08006"),
        (Farewell::ServerUnwanted, "database configuration changed", "57P01"),
        (Farewell::ServerAtFault("broken"), "broken", "08006"),
        (Farewell::Fault(Fault::BadHeader("bad packet header".into())), "bad packet header", "08P01"),
        (Farewell::Fault(Fault::UnknownMessage(b'?')), "unknown pkt: '?'", "08P01"),
        (Farewell::Fault(Fault::Broken("Bind")), "broken Bind packet", "08P01"),
        (Farewell::Fault(Fault::StatementInUse), "prepared statement name is already in use", "08P01"),
        (Farewell::Fault(Fault::NoSuchStatement), "prepared statement did not exist", "08P01"),
        (Farewell::Fault(Fault::TooMany("things")), "too many things", "54000"),
        (Farewell::Fault(Fault::TransactionBlock), "transaction blocks not allowed in statement pooling mode", "55000"),
        (Farewell::Fault(Fault::SimpleQuery), "PQexec disallowed", "0A000"),
        (Farewell::Fault(Fault::TooLong("Parse")), "Parse message is too long to be held", "54000"),
        (Farewell::Ordered(Order::Kill), "admin forced disconnect", "57P01"),
        (Farewell::Ordered(Order::DatabaseRemoved), "database removed", "57P01"),
        (Farewell::Ordered(Order::QueryTimeout), "query timeout", "57014"),
        (Farewell::Ordered(Order::QueryTimeoutInLine), "query_timeout", "57014"),
        (Farewell::Ordered(Order::TransactionTimeout), "transaction timeout", "57014"),
        (Farewell::Ordered(Order::IdleTransactionTimeout), "idle transaction timeout", "57P05"),
        (Farewell::Ordered(Order::ClientIdleTimeout), "client_idle_timeout", "57P05"),
        (Farewell::Ordered(Order::ClientLoginTimeout), "client_login_timeout", "57014"),
        (Farewell::Ordered(Order::Shutdown), "server shutting down", "57P01"),
        (Farewell::Ordered(Order::ServerUnwanted), "database configuration changed", "57P01"),
        (Farewell::Ordered(Order::SuspendTimeout), "suspend_timeout", "57P01"),
        (Farewell::Internal("no random numbers"), "no random numbers", "XX000"),
    ]
}

/// Message and SQLSTATE as a client reads them.
fn told(farewell: &Farewell, codes: Codes) -> (String, String) {
    let message = farewell.message(codes).expect("there is something to say");
    let fields = ErrorFields::parse(&message[5..]);
    assert_eq!(fields.severity, "FATAL");
    (fields.message.into_owned(), fields.code.into_owned())
}

#[test]
fn each_reason_has_pgbouncers_text_and_the_sqlstate_of_its_cause() {
    for (farewell, text, sqlstate) in table() {
        assert_eq!(told(&farewell, Codes::OfCause), (text.to_owned(), sqlstate.to_owned()), "{farewell:?}");
    }
}

#[test]
fn pgbouncers_one_code_comes_back_by_setting_but_for_what_a_server_said() {
    let mut settings = Settings::default();
    assert_eq!(Codes::of(&settings), Codes::OfCause);
    settings.legacy_sqlstate = true;
    let codes = Codes::of(&settings);

    for (farewell, text, _) in table() {
        let servers_own = format!("{farewell:?}").contains("from_server: true");
        let sqlstate = told(&farewell, codes).1;
        match servers_own {
            true => assert_ne!(sqlstate, "08P01", "{farewell:?}"),
            false => assert_eq!(told(&farewell, codes), (text.to_owned(), "08P01".to_owned())),
        }
    }
}

#[test]
fn who_is_thrown_out_learns_it_from_a_class_that_drivers_take_for_a_lost_connection() {
    // The program's own mistake: it will not do better with another connection.
    let own_mistakes = ["PQexec disallowed"];
    let in_session = table().into_iter().filter(|(farewell, ..)| match farewell {
        Farewell::Ordered(order) => *order != Order::ClientLoginTimeout,
        Farewell::Refused(_) | Farewell::Fault(_) | Farewell::BadPacket(_) | Farewell::ServerUnwanted => true,
        Farewell::ServerCrashed(_) | Farewell::ServerAtFault(_) => true,
        _ => false,
    });
    let classes = BTreeSet::from(["08", "53", "54", "55", "57"]);

    for (farewell, text, sqlstate) in in_session.filter(|(_, text, _)| !own_mistakes.contains(text)) {
        assert!(classes.contains(&sqlstate[..2]), "{farewell:?}: {text}, {sqlstate}");
    }
}

#[test]
fn nothing_is_said_to_who_has_left() {
    for farewell in [Farewell::Terminated, Farewell::ClientGone] {
        assert_eq!(farewell.message(Codes::OfCause), None);
    }
}

#[test]
fn a_denied_client_learns_nothing_of_why() {
    let message = denied(DenialKind::PasswordFailed).message(Codes::OfCause).unwrap();

    assert!(!String::from_utf8_lossy(&message).contains("operator"));
}
