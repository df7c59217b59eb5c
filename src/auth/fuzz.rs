//! Pure: entry points for the fuzzer and the property tests: any bytes, as a peer's messages.
//!
//! The first byte chooses method and secret; then each message is a length byte and that many bytes. Each function
//! panics if a promise of this room is broken.

use super::{
    Checker, Credential, Handshake, Input, KeyCache, Method, Proof, Prover, ProverStep, Secret, Step, credential_from,
};

/// A client says anything to us. Promised: no panic, no user we do not know gets in, a denial is final.
pub fn handshake(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let method = match choice {
        255 => Method::Outside(Checker::Ldap),
        _ => [Method::Plain, Method::Md5, Method::Scram][usize::from(choice % 3)],
    };
    let secret = SECRETS[usize::from(choice / 3) % SECRETS.len()].map(Secret::parse);
    let mut can_succeed = secret.is_some() && *choice != 255;
    let handshake = Handshake::new(method, "user", secret, [0; 32], &KeyCache::new([0; 32], 1));
    let mut handshake = handshake.bound_to((*choice >= 128).then_some(b"hash"));

    let mut step = handshake.step(Input::Begin);
    let mut messages = messages(rest);
    loop {
        step = match step {
            Step::Derive(derivation) => handshake.step(Input::Derived(derivation.run())),
            Step::Ask(password) => {
                assert!(!password.is_empty(), "an empty password proves nothing");
                can_succeed = password.starts_with('r');
                handshake.step(Input::Answered(can_succeed))
            }
            Step::Send(reply) => {
                assert!(!reply.is_empty(), "a client that is to answer is told something");
                match messages.next() {
                    Some(message) => handshake.step(Input::Message(message)),
                    None => return,
                }
            }
            Step::Accept { .. } => {
                assert!(can_succeed, "a user we do not know got in");
                return;
            }
            Step::Deny(_) => {
                assert!(matches!(handshake.step(Input::Message(b"again\0")), Step::Deny(_)), "a denial is final");
                return;
            }
        };
    }
}

/// A server says anything to us. Promised: no panic, and what does not fit is a failure.
pub fn prover(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let credential = match SECRETS[usize::from(*choice) % SECRETS.len()] {
        Some(secret) => credential_from(&Secret::parse(secret), &Proof::Nothing),
        None => Credential::None,
    };
    let prover = Prover::new("user", &credential, [0; 32], &KeyCache::new([0; 32], 1));
    let mut prover = prover.bound_to((*choice >= 128).then_some(b"hash"));

    for message in messages(rest) {
        let step = match prover.step(message) {
            // Derivations are tested elsewhere; here they would only be slow.
            ProverStep::Derive(derivation) if derivation.iterations() > 16 => return,
            ProverStep::Derive(derivation) => prover.derived(&derivation.run()),
            step => step,
        };
        match step {
            ProverStep::Send(reply) => assert_eq!(reply.first(), Some(&b'p'), "all we say to a server is `p`"),
            ProverStep::Nothing => {}
            ProverStep::Derive(_) => unreachable!("keys are derived once"),
            ProverStep::Ok | ProverStep::Fail(_) => return,
        }
    }
}

/// One user of each kind: unknown, and with each sort of secret (the SCRAM one, of one round, fits no password).
const SECRETS: [Option<&str>; 5] = [
    None,
    Some(""),
    Some("pencil"),
    Some("md5a2286e2058e8275f4419293789626063"),
    Some(
        "SCRAM-SHA-256$1:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:\
         AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ),
];

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first()?;
        let (message, rest) = rest.split_at_checked(usize::from(*length)).unwrap_or((rest, &[]));
        bytes = rest;
        Some(message)
    })
}
