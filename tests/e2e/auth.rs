//! Who may log in: every way to prove oneself to the pooler, and every way the pooler proves itself to the server.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use postgres_protocol::password::{md5, scram_sha_256};
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};

use crate::support::script::sasl_initial;
use crate::support::{self, Client, Login, Message, Postgres, Proxy, Script, Setup, Wire};

const PASSWORD: &str = "correct horse";

/// The three ways a secret may be kept.
fn secrets(user: &str) -> [(&'static str, String); 3] {
    let scram = scram_sha_256(PASSWORD.as_bytes());
    [("plain", PASSWORD.to_owned()), ("md5", md5(PASSWORD.as_bytes(), user)), ("scram", scram)]
}

/// A pooler that authenticates its own role this way, before a server that trusts it.
fn proxy(auth_type: &str, secret: &str) -> Proxy {
    let setup = Setup::new();
    let role = setup.role().to_owned();
    setup.set("auth_type", auth_type).secret(&role, secret).start()
}

#[test]
fn each_method_asks_for_its_proof_and_takes_the_secrets_it_can_check() {
    let role = Setup::new().role().to_owned();
    let (clear, md5, scram, nothing) = (3, 5, 12, 0);
    for (auth_type, expected) in [
        ("trust", [Some(nothing); 3]),
        ("plain", [Some(clear); 3]),
        ("md5", [Some(md5), Some(md5), Some(scram)]),
        ("scram-sha-256", [Some(scram), None, Some(scram)]),
    ] {
        for ((kind, secret), expected) in secrets(&role).into_iter().zip(expected) {
            let setup = Setup::new().set("auth_type", auth_type).secret(&role, &secret).start();
            let login = Login::to(setup.port).user(&role).database("app");
            let outcome = login.clone().password(PASSWORD).attempt();

            let asked = outcome.as_ref().ok().map(|client| client.asked);
            assert_eq!(asked, expected, "{auth_type} with a {kind} secret: {:?}", outcome.err());
            if let Ok(mut client) = outcome {
                assert_eq!(client.value("SELECT current_user"), role);
            }
            if auth_type != "trust" {
                let refusal = login.password("wrong").refusal();
                assert!(refusal.ends_with("authentication failed"), "{auth_type} with a {kind} secret: {refusal}");
            }
        }
    }
}

#[test]
fn any_lets_everybody_in_as_the_forced_user() {
    let forced = Postgres::shared().role();
    let proxy = Setup::new().set("auth_type", "any").database("app", &format!("user={forced}")).start();

    let mut client = proxy.login().user("whoever").client();

    assert_eq!(client.value("SELECT current_user"), forced);
}

#[test]
fn trust_still_wants_a_known_user() {
    let proxy = Proxy::start();
    let refusal = proxy.login().user("nobody_knows_me").refusal();
    assert_eq!(refusal, "\"trust\" authentication failed");
}

#[test]
fn a_user_of_the_users_section_alone_has_no_secret_and_no_entry() {
    let setup = Setup::new();
    let proxy = setup.set("auth_type", "md5").user("ghost", "pool_size=3").start();

    let refusal = proxy.login().user("ghost").password("").refusal();

    assert_eq!(refusal, "password authentication failed");
}

#[test]
fn an_empty_password_never_logs_in() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        if auth_type == "scram-sha-256" && support::beyond_pgbouncer() {
            continue;
        }
        let proxy = proxy(auth_type, "");
        let refusal = proxy.login().password("").attempt().err();
        let refusal = refusal.unwrap_or_else(|| panic!("{auth_type} let an empty password in")).message();
        let known = refusal.contains("authentication failed") || refusal == "empty password returned by client";
        assert!(known, "{auth_type}: {refusal}");
    }
}

/// What an eavesdropper could tell of a login: types, codes, lengths, texts.
fn outline(seen: &[Message]) -> Vec<String> {
    let line = |message: &Message| match message.tag {
        b'E' => {
            let mut fields = message.fields();
            fields.retain(|field, _| "SCM".contains(*field));
            format!("{fields:?}")
        }
        b'R' if message.body[3] == 11 => {
            let text = String::from_utf8_lossy(&message.body[4..]).into_owned();
            let parts = text.split(',').map(|part| match part.split_once('=') {
                Some(("i", count)) => format!("i={count}"),
                Some((name, value)) => format!("{name}: {} bytes", value.len()),
                None => part.to_owned(),
            });
            parts.collect::<Vec<_>>().join(", ")
        }
        tag => format!("{} {} of {} bytes", tag as char, message.body[3], message.body.len()),
    };
    seen.iter().map(line).collect()
}

#[test]
fn an_unknown_user_meets_the_dialogue_of_a_wrong_password() {
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let proxy = proxy(auth_type, PASSWORD);
        let login = proxy.login().password("wrong");

        let known = login.attempt().err().expect("a refusal");
        let unknown = login.user("nobody_knows_me").attempt().err().expect("a refusal");

        assert_eq!(outline(&known.seen), outline(&unknown.seen), "{auth_type}");
    }
}

#[test]
fn the_salt_of_an_unknown_user_is_as_stable_as_a_real_one() {
    // PgBouncer draws a new salt for a plain secret and for nobody.
    if support::beyond_pgbouncer() {
        return;
    }
    let proxy = proxy("scram-sha-256", PASSWORD);
    let salt = |user: &str| {
        let refusal = proxy.login().user(user).password("wrong").attempt().err().expect("a refusal");
        let challenge = refusal.seen.iter().find(|message| message.tag == b'R' && message.body[3] == 11).unwrap();
        let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
        text.split(',').find(|part| part.starts_with("s=")).unwrap().to_owned()
    };

    for user in [proxy.role.as_str(), "nobody_knows_me"] {
        assert_eq!(salt(user), salt(user), "{user}");
    }
    assert_ne!(salt("nobody_knows_me"), salt("somebody_else"));
}

#[test]
fn broken_scram_dialogues_are_refused() {
    let proxy = proxy("scram-sha-256", PASSWORD);
    let first = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO".as_slice();
    let opening = |mechanism: &str, first: &[u8]| {
        let mut wire = Wire::tcp(proxy.port);
        wire.send(proxy.login().startup());
        assert_eq!(wire.expect(b'R').body[3], 10);
        wire.send(sasl_initial(mechanism, first));
        wire
    };
    let refused = |mut wire: Wire, what: &str| {
        let error = wire.message();
        assert_eq!(error.tag, b'E', "{what}: {error:?}");
        assert_eq!(error.fields()[&'S'], "FATAL", "{what}");
        assert!(wire.next().is_none(), "{what}");
    };

    refused(opening("SCRAM-SHA-256-PLUS", first), "a mechanism not offered");
    refused(opening("PLAIN", first), "a mechanism unknown");
    let binding = b"p=tls-server-end-point,,n=,r=rOprNGfwEbeRWgbNEkqO";
    refused(opening("SCRAM-SHA-256", binding), "channel binding");
    refused(opening("SCRAM-SHA-256", b"n,,n="), "no nonce");
    refused(opening("SCRAM-SHA-256", b""), "nothing");
    refused(opening("SCRAM-SHA-256", &[0xff; 100]), "no text");
    refused(opening("SCRAM-SHA-256", b"n,,n=,m=extension,r=abc"), "a mandatory extension");

    type Last<'a> = &'a dyn Fn(&str) -> String;
    let finals: [(&str, Last<'_>); 5] = [
        ("a wrong proof", &|nonce| format!("c=biws,r={nonce},p={}", BASE64.encode([7; 32]))),
        ("a short proof", &|nonce| format!("c=biws,r={nonce},p={}", BASE64.encode([7; 31]))),
        ("another nonce", &|nonce| format!("c=biws,r={nonce}x,p={}", BASE64.encode([7; 32]))),
        ("another binding", &|nonce| format!("c=eSws,r={nonce},p={}", BASE64.encode([7; 32]))),
        ("no proof", &|nonce| format!("c=biws,r={nonce}")),
    ];
    for (what, last) in finals {
        let mut wire = opening("SCRAM-SHA-256", first);
        let challenge = wire.expect(b'R');
        let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
        let nonce = text.strip_prefix("r=").unwrap().split(',').next().unwrap().to_owned();
        wire.send(Script::new().message(b'p', last(&nonce).as_bytes()));
        refused(wire, what);
    }
    assert_eq!(proxy.login().password(PASSWORD).client().value("SELECT 1"), "1");
}

#[test]
fn passwords_are_prepared_as_scram_says() {
    // A no-break space and a composed letter: SASLprep makes them a space and another composition.
    let proxy = proxy("scram-sha-256", "pass\u{a0}wo\u{308}rd");
    assert_eq!(proxy.login().password("pass wo\u{308}rd").client().value("SELECT 1"), "1");
}

#[test]
fn names_and_passwords_may_contain_anything_printable() {
    let (user, password) = ("o'brien \"x\"", "p\"a'ss wörd\\");
    Postgres::shared().admin().query("CREATE ROLE \"o'brien \"\"x\"\"\" LOGIN");
    for auth_type in ["plain", "md5", "scram-sha-256"] {
        let proxy = Setup::new().set("auth_type", auth_type).secret(user, password).start();
        let mut client = proxy.login().user(user).password(password).client();
        assert_eq!(client.value("SELECT current_user"), user);
    }
}

/// Logs in through a pooler with this auth type and stored secret, to a server that wants the role to prove itself.
fn through(auth_type: &str, role: &str, secret: &str) -> Result<String, String> {
    let proxy = Setup::new().set("auth_type", auth_type).secret(role, secret).start();
    let login = Login::to(proxy.port).user(role).database("app").password(PASSWORD);
    match login.attempt() {
        Ok(mut client) => Ok(client.value("SELECT current_user")),
        Err(refusal) => Err(refusal.message()),
    }
}

#[test]
fn the_pooler_proves_itself_by_clear_text_md5_and_scram() {
    for (group, encryption) in [
        ("by_password", "scram-sha-256"),
        ("by_md5", "md5"),
        ("by_md5", "scram-sha-256"),
        ("by_scram", "scram-sha-256"),
    ] {
        let (role, stored) = Postgres::shared().role_with_password(group, PASSWORD, encryption);
        for auth_type in ["trust", "plain", "md5", "scram-sha-256"] {
            let outcome = through(auth_type, &role, PASSWORD);
            assert_eq!(outcome.as_deref(), Ok(role.as_str()), "{group}/{encryption}, {auth_type}");
        }
        if encryption == "md5" {
            for auth_type in ["trust", "plain", "md5"] {
                let outcome = through(auth_type, &role, &stored);
                assert_eq!(outcome.as_deref(), Ok(role.as_str()), "{group}, {auth_type}, md5 secret");
            }
        }
    }
}

#[test]
fn a_scram_secret_is_enough_when_it_is_the_servers_own() {
    let (role, stored) = Postgres::shared().role_with_password("by_scram", PASSWORD, "scram-sha-256");

    for auth_type in ["md5", "scram-sha-256"] {
        assert_eq!(through(auth_type, &role, &stored).as_deref(), Ok(role.as_str()), "{auth_type}");
    }

    // The same password under another salt proves nothing to the server.
    let refusal = through("scram-sha-256", &role, &scram_sha_256(PASSWORD.as_bytes())).unwrap_err();
    let known = ["password authentication failed for user", "the server has another SCRAM secret"];
    assert!(known.iter().any(|text| refusal.contains(text)), "{refusal}");
    // Nobody has shown the password yet: there is nothing to pass through.
    let refusal = through("trust", &role, &stored).unwrap_err();
    assert!(refusal.contains("wrong password type"), "{refusal}");
}

#[test]
fn the_password_of_the_database_entry_goes_to_the_server() {
    let (role, _) = Postgres::shared().role_with_password("by_scram", PASSWORD, "scram-sha-256");
    let proxy = Setup::new().database("app", &format!("user={role} password='{PASSWORD}'")).start();
    assert_eq!(proxy.client().value("SELECT current_user"), role);

    let proxy = Setup::new().database("app", &format!("user={role} password=wrong")).start();
    let refusal = proxy.login().refusal();
    assert!(refusal.contains("password authentication failed for user"), "{refusal}");
}

#[test]
fn a_secret_never_shows_in_the_log() {
    let proxy = proxy("plain", PASSWORD);
    proxy.login().password(PASSWORD).client().leave();
    proxy.login().password("wrong but telling").refusal();
    proxy.until_log("closing because");
    let log = proxy.log();
    assert!(!log.contains(PASSWORD) && !log.contains("telling"), "{log}");
}

/// A SCRAM client that derives its key once for many logins.
struct ManyLogins {
    salted: [u8; 32],
}

const FIRST_BARE: &str = "n=,r=fyko+d2lbbFgONRv9qkxdawL";

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn derive(salt: &[u8], iterations: u32) -> [u8; 32] {
    let mut out = [0; 32];
    pbkdf2::pbkdf2::<Hmac<Sha256>>(PASSWORD.as_bytes(), salt, iterations, &mut out).unwrap();
    out
}

impl ManyLogins {
    fn answer(&self, challenge: &str) -> String {
        let nonce = challenge.strip_prefix("r=").unwrap().split(',').next().unwrap();
        let without_proof = format!("c=biws,r={nonce}");
        let client_key = hmac(&self.salted, b"Client Key");
        let signed = format!("{FIRST_BARE},{challenge},{without_proof}");
        let signature = hmac(&Sha256::digest(client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        format!("{without_proof},p={}", BASE64.encode(proof))
    }
}

fn challenge(wire: &mut Wire) -> String {
    let message = wire.expect(b'R');
    assert_eq!(message.body[3], 11, "{message:?}");
    String::from_utf8_lossy(&message.body[4..]).into_owned()
}

/// Serves those who are logged in, and returns how much processor time the thread that serves them has needed
/// meanwhile.
fn serve(bystanders: &mut [Client], proxy: &Proxy) -> Duration {
    let before = proxy.cpu_of_first_thread();
    for client in bystanders {
        assert_eq!(client.value("SELECT 'while a key is being derived'"), "while a key is being derived");
    }
    proxy.cpu_of_first_thread() - before
}

/// What a deed costs in processor time, however busy the machine is with other things.
fn cost<T>(deed: impl FnOnce() -> T) -> (T, Duration) {
    let clock = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = clock();
    let done = deed();
    (done, clock() - before)
}

#[test]
fn a_storm_of_scram_logins_derives_one_key_and_delays_nobody() {
    // So many iterations that one derivation takes more than half a second in whatever way this was compiled, or as
    // many as there may be.
    let (_, cost_of_some) = cost(|| derive(b"calibration", 20_000));
    let iterations = (20_000.0 * 0.7 / cost_of_some.as_secs_f64()).clamp(20_000.0, 1_000_000.0) as u32;
    let setup = Setup::new();
    let role = setup.role().to_owned();
    let bystander = Postgres::shared().role();
    let proxy = setup
        .set("auth_type", "scram-sha-256")
        .set("max_client_conn", 400)
        .set("client_login_timeout", 0)
        .set("scram_iterations", iterations)
        .secret(&role, PASSWORD)
        .secret(&bystander, &scram_sha_256(PASSWORD.as_bytes()))
        .start();
    let login = proxy.login().user(&bystander).password(PASSWORD);
    let mut bystanders: Vec<Client> = (0..4).map(|_| login.client()).collect();
    let cpu_before = proxy.cpu();

    let mut storm: Vec<Wire> = (0..200).map(|_| Wire::tcp(proxy.port)).collect();
    for wire in &mut storm {
        wire.send(proxy.login().startup());
    }
    for wire in &mut storm {
        assert_eq!(wire.expect(b'R').body[3], 10);
        wire.send(sasl_initial("SCRAM-SHA-256", format!("n,,{FIRST_BARE}").as_bytes()));
    }
    // A pooler may derive the key for its challenge, or only when it has a proof to check.
    let for_challenges = serve(&mut bystanders, &proxy);

    let first = challenge(&mut storm[0]);
    let salt = first.split(",s=").nth(1).unwrap().split(',').next().unwrap();
    let salt_bytes = BASE64.decode(salt).unwrap();
    let (salted, one_derivation) = cost(|| derive(&salt_bytes, iterations));
    let logins = ManyLogins { salted };
    let mut proofs = vec![logins.answer(&first)];
    for wire in &mut storm[1..] {
        let challenge = challenge(wire);
        assert!(challenge.contains(salt), "each login has its own salt");
        proofs.push(logins.answer(&challenge));
    }
    for (wire, proof) in storm.iter_mut().zip(&proofs) {
        wire.send(Script::new().message(b'p', proof.as_bytes()));
    }
    let for_proofs = serve(&mut bystanders, &proxy);
    for wire in &mut storm {
        while wire.message().tag != b'Z' {}
    }
    if !support::proxy::is_pgbouncer() {
        let most = for_challenges.max(for_proofs);
        assert!(most < one_derivation * 3 / 4, "a client had to wait until a key was derived: {most:?}");
    }

    let cpu = proxy.cpu() - cpu_before;
    assert!(cpu < one_derivation * 40, "200 logins took {cpu:?}, one derivation takes {one_derivation:?}");
}
