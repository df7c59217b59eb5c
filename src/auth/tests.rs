use proptest::prelude::*;

use super::*;

/// Few rounds: what is tested here is the dialogue, not PBKDF2.
const ITERATIONS: u32 = 3;

fn cache() -> KeyCache {
    KeyCache::new([42; 32], ITERATIONS)
}

fn scram_secret(password: &str) -> ScramSecret {
    let salt = b"a stored salt".to_vec();
    let Lookup::Derive(derivation) = cache().keys_of_claimed(password.as_bytes(), &salt, ITERATIONS) else {
        panic!("the cache is new")
    };
    let keys = derivation.run();
    ScramSecret { iterations: ITERATIONS, salt, stored_key: *keys.stored_key(), server_key: *keys.server_key() }
}

/// The secret of user "alice" in each form.
fn secret(kind: &str) -> Option<Secret> {
    match kind {
        "plain" => Some(Secret::parse("pencil")),
        "md5" => Some(Secret::parse(&password::md5_stored("alice", b"pencil"))),
        "scram" => Some(Secret::Scram(scram_secret("pencil"))),
        "empty" => Some(Secret::parse("")),
        "costly" => {
            let mut secret = scram_secret("pencil");
            secret.iterations = ITERATIONS_MAX + 1;
            Some(Secret::Scram(secret))
        }
        "unknown" => None,
        other => panic!("no kind {other}"),
    }
}

fn plain(password: &str) -> Credential {
    Credential::Plain(Zeroizing::new(password.to_owned()))
}

/// What became of a login between our two roles, and what the client's side made of it.
#[derive(Debug)]
enum Outcome {
    In(Proof),
    Denied(Denial),
    GaveUp(ProverError),
}

impl Outcome {
    fn proof(self) -> Proof {
        match self {
            Outcome::In(proof) => proof,
            other => panic!("should have got in: {other:?}"),
        }
    }

    fn denial(self) -> Denial {
        match self {
            Outcome::Denied(denial) => denial,
            other => panic!("should have been denied: {other:?}"),
        }
    }
}

/// A whole login: our client's role against our server's role, in memory.
fn login(method: Method, secret: Option<Secret>, credential: &Credential, keys: &KeyCache) -> Outcome {
    let handshake = Handshake::new(method, "alice", secret, [1; 32], keys);
    dialogue(handshake, Prover::new("alice", credential, [2; 32], keys))
}

fn dialogue(mut handshake: Handshake, mut prover: Prover) -> Outcome {
    let mut step = handshake.step(Input::Begin);
    loop {
        step = match step {
            Step::Derive(derivation) => handshake.step(Input::Derived(derivation.run())),
            Step::Ask(password) => handshake.step(Input::Answered(*password == "pencil")),
            Step::Deny(denial) => return Outcome::Denied(denial),
            Step::Accept { last, proof } => {
                if !last.is_empty() {
                    assert!(
                        matches!(prover.step(&last[5..]), ProverStep::Nothing),
                        "the client believes our signature"
                    );
                }
                assert!(matches!(prover.step(&0_u32.to_be_bytes()), ProverStep::Ok));
                return Outcome::In(proof);
            }
            Step::Send(message) => {
                let answer = match prover.step(&message[5..]) {
                    ProverStep::Derive(derivation) => prover.derived(&derivation.run()),
                    answer => answer,
                };
                match answer {
                    ProverStep::Send(message) => handshake.step(Input::Message(&message[5..])),
                    ProverStep::Fail(error) => return Outcome::GaveUp(error),
                    other => panic!("the client must answer or give up: {other:?}"),
                }
            }
        };
    }
}

#[test]
fn both_roles_bind_where_both_can() {
    let keys = cache();
    let dialogue = |clients: Option<&[u8]>, servers: Option<&[u8]>| {
        let handshake = Handshake::new(Method::Scram, "alice", secret("plain"), [1; 32], &keys).bound_to(servers);
        let prover = Prover::new("alice", &plain("pencil"), [2; 32], &keys).bound_to(clients);
        dialogue(handshake, prover)
    };
    let (mine, other) = (Some(&b"hash"[..]), Some(&b"other"[..]));

    assert!(matches!(dialogue(mine, mine), Outcome::In(_)));
    assert!(matches!(dialogue(None, mine), Outcome::In(_)));
    assert!(matches!(dialogue(mine, None), Outcome::In(_)));
    assert!(matches!(dialogue(mine, other), Outcome::Denied(_)), "somebody is in between");
}

#[test]
fn a_password_that_others_check_counts_when_they_say_so() {
    use DenialKind::{EmptyPassword, OutsideFailed};
    let outside = |password: &str, secret| login(Method::Outside(Checker::Ldap), secret, &plain(password), &cache());

    // What is stored here does not matter.
    for kind in ["unknown", "plain", "scram"] {
        assert_eq!(outside("pencil", secret(kind)).proof(), Proof::Password(Zeroizing::new("pencil".to_owned())));
        let denial = outside("pen", secret(kind)).denial();
        assert_eq!(
            (denial.kind, denial.to_string()),
            (OutsideFailed(Checker::Ldap), "LDAP authentication failed".into())
        );
    }
    // Nobody is asked about a password that is no password.
    for (body, kind) in [(&b"\0"[..], EmptyPassword), (b"\xff\0", OutsideFailed(Checker::Ldap))] {
        let mut handshake = Handshake::new(Method::Outside(Checker::Ldap), "alice", None, [1; 32], &cache());
        assert!(matches!(handshake.step(Input::Begin), Step::Send(_)));
        assert!(matches!(handshake.step(Input::Message(body)), Step::Deny(denial) if denial.kind == kind));
        assert!(matches!(handshake.step(Input::Answered(true)), Step::Deny(_)), "a denial is final");
    }
}

#[test]
fn each_method_with_each_secret_does_what_the_table_says() {
    use DenialKind::{PasswordFailed, SaslFailed, TrustFailed};
    let table = [
        (Method::Any, "unknown", None),
        (Method::Any, "plain", None),
        (Method::Any, "md5", None),
        (Method::Any, "scram", None),
        (Method::Any, "empty", None),
        (Method::Trust, "unknown", Some(TrustFailed)),
        (Method::Trust, "plain", None),
        (Method::Trust, "md5", None),
        (Method::Trust, "scram", None),
        (Method::Trust, "empty", None),
        (Method::Plain, "unknown", Some(PasswordFailed)),
        (Method::Plain, "plain", None),
        (Method::Plain, "md5", None),
        (Method::Plain, "scram", None),
        (Method::Plain, "empty", Some(PasswordFailed)),
        (Method::Md5, "unknown", Some(PasswordFailed)),
        (Method::Md5, "plain", None),
        (Method::Md5, "md5", None),
        (Method::Md5, "scram", None),
        (Method::Md5, "empty", Some(PasswordFailed)),
        (Method::Scram, "unknown", Some(SaslFailed)),
        (Method::Scram, "plain", None),
        (Method::Scram, "md5", Some(SaslFailed)),
        (Method::Scram, "scram", None),
        (Method::Scram, "empty", Some(SaslFailed)),
    ];

    for (method, kind, refused) in table {
        match (login(method, secret(kind), &plain("pencil"), &cache()), refused) {
            (Outcome::In(_), None) => {}
            (Outcome::Denied(denial), Some(kind)) if denial.kind == kind => {}
            (outcome, _) => panic!("{method:?} with a secret of kind {kind}: {outcome:?}"),
        }
    }
}

#[test]
fn a_wrong_password_is_denied_by_each_method_with_each_secret() {
    for method in [Method::Plain, Method::Md5, Method::Scram] {
        for kind in ["unknown", "plain", "md5", "scram", "empty"] {
            let denial = login(method, secret(kind), &plain("pencils"), &cache()).denial();

            let scram = method == Method::Scram || (method == Method::Md5 && kind == "scram");
            let expected = if scram { DenialKind::SaslFailed } else { DenialKind::PasswordFailed };
            assert_eq!(denial.kind, expected, "{method:?} with {kind}");
        }
    }
}

#[test]
fn what_a_login_teaches_is_what_a_server_will_be_shown() {
    let taught = |method, kind: &str| {
        let proof = login(method, secret(kind), &plain("pencil"), &cache()).proof();
        credential_from(&secret(kind).unwrap(), &proof)
    };

    for kind in ["plain", "md5", "scram"] {
        assert_eq!(taught(Method::Plain, kind), plain("pencil"), "{kind}");
    }
    assert_eq!(taught(Method::Md5, "plain"), plain("pencil"));
    assert_eq!(taught(Method::Scram, "plain"), plain("pencil"));
    assert_eq!(taught(Method::Md5, "md5"), Credential::Md5(password::md5_stored("alice", b"pencil")));
    assert_eq!(taught(Method::Trust, "scram"), Credential::ScramSecretOnly(scram_secret("pencil")));
    for method in [Method::Md5, Method::Scram] {
        assert!(matches!(taught(method, "scram"), Credential::ScramKeys { .. }), "{method:?}");
    }
}

#[test]
fn scram_keys_pass_through_to_a_server_with_the_same_secret_only() {
    let proof = login(Method::Scram, secret("scram"), &plain("pencil"), &cache()).proof();
    let credential = credential_from(&secret("scram").unwrap(), &proof);

    let onward = login(Method::Scram, secret("scram"), &credential, &cache()).proof();
    assert_eq!(credential_from(&secret("scram").unwrap(), &onward), credential, "and through a second proxy");

    // The same password, but a server that salted it differently.
    let outcome = login(Method::Scram, secret("plain"), &credential, &cache());
    assert!(matches!(outcome, Outcome::GaveUp(ProverError::SecretDiffers)), "{outcome:?}");
}

#[test]
fn credentials_that_cannot_answer_say_so() {
    let md5 = Credential::Md5(password::md5_stored("alice", b"pencil"));
    let bare = Credential::ScramSecretOnly(scram_secret("pencil"));
    let keys = Credential::ScramKeys { keys: DerivedKeys::new([0; 32], [0; 32]), secret: scram_secret("pencil") };
    let wrong = "server login failed: wrong password type";
    let table = [
        (Method::Plain, &md5, wrong),
        (Method::Plain, &bare, wrong),
        (Method::Plain, &keys, wrong),
        (Method::Plain, &Credential::None, wrong),
        (Method::Md5, &bare, wrong),
        (Method::Md5, &keys, wrong),
        (Method::Md5, &Credential::None, wrong),
        (Method::Scram, &md5, wrong),
        (Method::Scram, &bare, wrong),
        (Method::Scram, &Credential::None, wrong),
    ];

    for (method, credential, text) in table {
        match login(method, secret("plain"), credential, &cache()) {
            Outcome::GaveUp(error) => {
                assert_eq!(error.to_string(), text, "{method:?} with {credential:?}");
                assert!(error.detail().is_some(), "{method:?} with {credential:?}");
            }
            other => panic!("{method:?} with {credential:?}: {other:?}"),
        }
    }
    assert!(matches!(login(Method::Md5, secret("plain"), &md5, &cache()), Outcome::In(Proof::Nothing)));
}

#[test]
fn a_thousand_scram_logins_with_one_plain_secret_derive_once() {
    let keys = cache();

    for _ in 0..1000 {
        login(Method::Scram, secret("plain"), &plain("pencil"), &keys).proof();
    }

    // Once for both roles: they share this cache, and so find the very same keys.
    assert_eq!(keys.derived_count(), 1);
}

#[test]
fn wrong_clear_text_passwords_do_not_fill_the_cache() {
    let keys = cache();

    for guess in 0..5 {
        login(Method::Plain, secret("scram"), &plain(&format!("guess {guess}")), &keys).denial();
    }
    assert_eq!(format!("{keys:?}"), "KeyCache(0 keys)");

    for _ in 0..5 {
        login(Method::Plain, secret("scram"), &plain("pencil"), &keys).proof();
    }
    assert_eq!(keys.derived_count(), 5 + 1);

    // Nor under a name that nobody has, where each costs as much.
    for guess in 0..5 {
        login(Method::Plain, None, &plain(&format!("guess {guess}")), &keys).denial();
    }
    assert_eq!((format!("{keys:?}"), keys.derived_count()), ("KeyCache(1 keys)".to_owned(), 6 + 5));
}

#[test]
fn an_unknown_user_takes_as_long_as_a_known_one() {
    let rounds = |kind: &str| {
        let keys = cache();
        login(Method::Plain, secret(kind), &plain("guess"), &keys).denial();
        let first = keys.round_count();
        login(Method::Plain, secret(kind), &plain("guess"), &keys).denial();
        (first, keys.round_count() - first)
    };

    for kind in ["unknown", "plain", "md5", "scram", "empty", "costly"] {
        assert_eq!(rounds(kind), (u64::from(ITERATIONS), u64::from(ITERATIONS)), "{kind}");
    }
}

#[test]
fn a_secret_of_too_many_rounds_lets_nobody_in_and_is_not_told_from_none() {
    let keys = cache();

    for method in [Method::Plain, Method::Md5, Method::Scram] {
        let [costly, unknown] =
            ["costly", "unknown"].map(|kind| login(method, secret(kind), &plain("pencil"), &keys).denial());
        assert_eq!(costly.kind, unknown.kind, "{method:?}");
        assert_eq!(costly.why, "the stored SCRAM secret has too many iterations");
    }
    // One in vain for each under plain, and one of our own client's role.
    assert_eq!(keys.round_count(), 3 * u64::from(ITERATIONS));
    assert_eq!(server_first("alice", secret("costly"), &keys), server_first("alice", None, &keys));
    // Who is let in without a password needs nothing of it.
    assert!(matches!(login(Method::Trust, secret("costly"), &plain(""), &keys), Outcome::In(Proof::Nothing)));
}

#[test]
fn a_server_that_asks_for_too_many_rounds_is_told_by_name_and_number() {
    let offer = &message::authentication_sasl(&[message::SCRAM_SHA_256])[5..];
    let nonce = nonce_text(&[2; 32]);
    let challenge = |count: &str| {
        let text = format!("r={nonce}yours,s=c2FsdA==,i={count}");
        let first = message::authentication(message::SASL_CONTINUE, text.as_bytes());
        let mut prover = Prover::new("alice", &plain("pencil"), [2; 32], &cache());
        prover.step(offer);
        prover.step(&first[5..])
    };

    assert!(matches!(challenge("1000000"), ProverStep::Derive(work) if work.iterations() == ITERATIONS_MAX));
    let ProverStep::Fail(error) = challenge("1000001") else { panic!("it is refused") };
    assert_eq!(
        error.to_string(),
        "server login failed: the server asks for 1000001 iterations of SCRAM for user \"alice\", and 1000000 are the \
         most"
    );
    assert!(error.detail().unwrap().contains("scram_iterations"));
    for count in ["4294967296", "0", "-1"] {
        assert!(matches!(challenge(count), ProverStep::Fail(ProverError::Malformed(_))), "{count}");
    }
}

/// The first reply to a SCRAM client, as text.
fn server_first(user: &str, secret: Option<Secret>, keys: &KeyCache) -> String {
    let mut handshake = Handshake::new(Method::Scram, user, secret, [1; 32], keys);
    let Step::Send(_) = handshake.step(Input::Begin) else { panic!("offers mechanisms") };
    let client_first = message::sasl_initial_response(message::SCRAM_SHA_256, b"n,,n=,r=fixed");
    match handshake.step(Input::Message(&client_first[5..])) {
        Step::Send(reply) => String::from_utf8(reply[9..].to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_user_looks_like_a_known_one_every_time() {
    let keys = cache();

    let unknown = server_first("mallory", None, &keys);

    assert_eq!(unknown, server_first("mallory", None, &keys), "the salt is stable");
    for kind in ["plain", "empty", "md5"] {
        assert_eq!(unknown, server_first("mallory", secret(kind), &keys), "whether known or not");
    }
    assert_ne!(unknown, server_first("alice", None, &keys), "each user has a salt");
    assert!(unknown.ends_with(&format!(",i={ITERATIONS}")));

    let denials = ["unknown", "empty", "md5"].map(|kind| {
        let denial = login(Method::Scram, secret(kind), &plain("pencil"), &keys).denial();
        (denial.to_string(), denial.why)
    });
    assert!(denials.iter().all(|(text, _)| text == "SASL authentication failed"));
    assert_eq!(denials[0].1, "no such user", "the operator is told");
}

#[test]
fn a_reload_of_scram_iterations_leaves_a_login_in_progress_alone() {
    let keys = cache();
    let mut handshake = Handshake::new(Method::Scram, "alice", secret("plain"), [1; 32], &keys);
    let mut prover = Prover::new("alice", &plain("pencil"), [2; 32], &KeyCache::new([0; 32], 1));

    let mut step = handshake.step(Input::Begin);
    while let Step::Send(message) = step {
        keys.set_scram_iterations(keys.scram_iterations() + 1);
        let answer = match prover.step(&message[5..]) {
            ProverStep::Derive(derivation) => prover.derived(&derivation.run()),
            answer => answer,
        };
        let ProverStep::Send(answer) = answer else { panic!("{answer:?}") };
        step = handshake.step(Input::Message(&answer[5..]));
    }

    let Step::Derive(derivation) = step else { panic!("{step:?}") };
    assert_eq!(keys.scram_iterations(), ITERATIONS + 2);
    assert_eq!(derivation.iterations(), ITERATIONS + 1);
    assert!(matches!(handshake.step(Input::Derived(derivation.run())), Step::Accept { .. }));
}

fn answered(method: Method, body: &[u8]) -> Denial {
    let mut handshake = Handshake::new(method, "alice", secret("plain"), [1; 32], &cache());
    handshake.step(Input::Begin);
    match handshake.step(Input::Message(body)) {
        Step::Deny(denial) => denial,
        other => panic!("{method:?} {body:?}: {other:?}"),
    }
}

#[test]
fn an_empty_password_is_named_as_such() {
    for method in [Method::Plain, Method::Md5] {
        assert_eq!(answered(method, b"\0").to_string(), "empty password returned by client");
    }
}

#[test]
fn malformed_answers_are_denied() {
    for method in [Method::Plain, Method::Md5] {
        for body in [&b""[..], b"pencil", b"pencil\0\0", &[b'x'; 70_000]] {
            assert_eq!(answered(method, body).kind, DenialKind::PasswordFailed);
        }
    }
    for body in [&b""[..], b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=", b"SCRAM-SHA-256\0\xff\xff\xff\xff"]
    {
        assert_eq!(answered(Method::Scram, body).kind, DenialKind::SaslFailed);
    }
    // Whatever follows its name.
    for body in [&b"SCRAM-SHA-256-PLUS\0\0\0\0\0"[..], b"OAUTHBEARER\0\xff\xff\xff\xff", b"FOO\0"] {
        let text = answered(Method::Scram, body).to_string();
        assert_eq!(text, "client selected an invalid SASL authentication mechanism", "{body:?}");
    }
}

#[test]
fn what_comes_out_of_turn_is_denied_for_good() {
    let mut handshake = Handshake::new(Method::Scram, "alice", secret("plain"), [1; 32], &cache());

    assert!(matches!(handshake.step(Input::Message(b"pencil\0")), Step::Deny(_)));
    assert!(matches!(handshake.step(Input::Begin), Step::Deny(_)));

    let mut handshake = Handshake::new(Method::Plain, "alice", secret("plain"), [1; 32], &cache());
    handshake.step(Input::Begin);
    assert!(matches!(handshake.step(Input::Derived(DerivedKeys::new([0; 32], [0; 32]))), Step::Deny(_)));
    assert!(matches!(handshake.step(Input::Message(b"pencil\0")), Step::Deny(_)));
}

#[test]
fn a_password_that_is_not_utf8_is_checked_but_not_kept() {
    let stored = password::md5_stored("alice", b"caf\xe9");
    let mut handshake = Handshake::new(Method::Plain, "alice", Some(Secret::Md5(stored)), [1; 32], &cache());
    handshake.step(Input::Begin);

    assert!(matches!(handshake.step(Input::Message(b"caf\xe9\0")), Step::Accept { proof: Proof::Nothing, .. }));
}

fn prover_after(messages: &[&[u8]]) -> ProverStep {
    let mut prover = Prover::new("alice", &plain("pencil"), [2; 32], &cache());
    let mut step = ProverStep::Nothing;
    for message in messages {
        step = match prover.step(message) {
            ProverStep::Derive(derivation) => prover.derived(&derivation.run()),
            step => step,
        };
    }
    step
}

#[test]
fn a_server_that_skips_its_part_of_scram_is_not_trusted() {
    let offer = &message::authentication_sasl(&[message::SCRAM_SHA_256])[5..];
    let nonce = nonce_text(&[2; 32]);
    let first = message::authentication(message::SASL_CONTINUE, format!("r={nonce}yours,s=c2FsdA==,i=1").as_bytes());
    let forged = format!("v={}", BASE64.encode([0; 32]));
    let forged = message::authentication(message::SASL_FINAL, forged.as_bytes());
    let ok = &0_u32.to_be_bytes();

    for (messages, text) in [
        (&[offer, ok][..], "server login failed: failed to verify server signature"),
        (&[offer, &first[5..], ok], "server login failed: failed to verify server signature"),
        (&[offer, &first[5..], &forged[5..]], "server login failed: invalid server signature"),
    ] {
        let ProverStep::Fail(error) = prover_after(messages) else { panic!("{text}") };
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_server_without_questions_or_with_unknown_ones_is_understood() {
    assert!(matches!(prover_after(&[&[0, 0, 0, 0]]), ProverStep::Ok));
    assert!(matches!(prover_after(&[&[0, 0, 0, 7]]), ProverStep::Fail(ProverError::UnsupportedMethod(7))));
    assert!(matches!(prover_after(&[&[0, 0, 0]]), ProverStep::Fail(ProverError::Malformed(_))));
    assert!(matches!(prover_after(&[b"\0\0\0\x05abc"]), ProverStep::Fail(ProverError::Malformed(_))));
    assert!(matches!(prover_after(&[b"\0\0\0\x0b"]), ProverStep::Fail(ProverError::Malformed(_))));
    let ProverStep::Fail(error) = prover_after(&[b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0"]) else { panic!() };
    assert_eq!(
        error.to_string(),
        "server login failed: none of the server's SASL authentication mechanisms are supported"
    );
}

/// Bytes that look enough like the protocol to get past its first checks.
fn almost() -> impl Strategy<Value = Vec<u8>> {
    let message = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(b"pencil\0".to_vec()),
        Just(b"SCRAM-SHA-256\0\0\0\0\x0an,,n=,r=ab".to_vec()),
        Just(b"c=biws,r=abAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_vec()),
        Just(b"\0\0\0\x05salt".to_vec()),
        Just(b"\0\0\0\x03".to_vec()),
        Just(b"\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec()),
        Just(b"\0\0\0\x0br=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAx,s=c2FsdA==,i=2".to_vec()),
        Just(b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_vec()),
    ];
    (any::<u8>(), proptest::collection::vec(message, 0..5)).prop_map(|(choice, messages)| {
        let mut bytes = vec![choice];
        for message in messages {
            bytes.push(u8::try_from(message.len()).unwrap());
            bytes.extend(message);
        }
        bytes
    })
}

proptest! {
    #[test]
    fn a_client_may_say_anything(bytes in almost()) {
        fuzz::handshake(&bytes);
    }

    #[test]
    fn a_server_may_say_anything(bytes in almost()) {
        fuzz::prover(&bytes);
    }

    #[test]
    fn the_right_password_always_gets_in_and_another_never(password in "\\PC{1,12}", other in "\\PC{1,12}") {
        prop_assume!(password != other);
        for method in [Method::Plain, Method::Md5, Method::Scram] {
            let secret = || Some(Secret::Plain(Zeroizing::new(password.clone())));
            let right = login(method, secret(), &plain(&password), &cache());
            prop_assert!(matches!(right, Outcome::In(_)), "{:?}: {:?}", method, right);
            // SASLprep makes some different passwords the same, by intent; the other methods compare bytes.
            if method != Method::Scram || (password.is_ascii() && other.is_ascii()) {
                let wrong = login(method, secret(), &plain(&other), &cache());
                prop_assert!(matches!(wrong, Outcome::Denied(_)), "{:?}: {:?}", method, wrong);
            }
        }
    }
}
