//! Pure: who are you? Dialogues without sockets, in both roles.
//!
//! A [`Handshake`] authenticates one client to us; a [`Prover`] authenticates us to one server. Both are told what the
//! other side said and answer with what to do next; who owns the connection does it. Neither reads a clock, waits or
//! finds secrets: `client/login.rs` and `server/connect.rs` do, and every source of secrets meets the same dialogue.
//!
//! ```text
//!   Handshake::step(Begin) ──► Send(…) ──► the client answers ──► step(Message) ──► Send(…) … ──► Accept | Deny
//!                              Derive(…) ► run() on another thread ► step(Derived) ──┘
//! ```
//!
//! What a login teaches ([`Proof`]) makes, with the stored [`Secret`], the [`Credential`] for logging in to servers.
//!
//! | method | the client sends | secrets it can check | what it teaches |
//! |---|---|---|---|
//! | any, trust | nothing | – | nothing |
//! | plain | the password | plain, md5, SCRAM | the password |
//! | md5 | a hash of it with our salt | plain, md5; a SCRAM secret switches to scram-sha-256 | nothing |
//! | ldap, pam | the password | none: others check it | the password |
//! | scram-sha-256 | SCRAM, without channel binding | plain, SCRAM | with a SCRAM secret: the client's keys |
//!
//! A user we do not know is led through the same dialogue as one who errs, with a salt that is the same every time, and
//! is refused at the end with the same words. So is one whose secret the method cannot check, whose password is empty,
//! or whose secret has more rounds than [`ITERATIONS_MAX`]. Under `plain`, where a wrong password may cost a derivation
//! of keys, every wrong password costs one.
//!
//! **To add a method**: a variant of [`Method`], its first message in [`Handshake::step`]'s `begin`, a `State` for what
//! it then waits for, one match arm in `step`, and its checks in a file of its own (as `password.rs`, `scram/`). If it
//! must ask somebody who blocks (a directory), let it answer with a `Step` like [`Step::Derive`] and go on when told.

use std::fmt;
use std::mem;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

mod credential;
pub mod fuzz;
mod keys;
mod message;
mod password;
mod prover;
mod scram;
mod secret;

pub use credential::{Credential, Proof, credential_from};
pub use keys::{Derivation, DerivedKeys, ITERATIONS_MAX, KEYS_MAX, KeyCache, ROUNDS_PER_TURN};
pub use prover::{Prover, ProverError, ProverStep};
pub use secret::{ScramSecret, Secret};

use keys::Lookup;
use scram::messages::Fault;
use scram::verify::{Claim, Exchange, Verified};

/// How a client is asked to prove who it is: the values of `auth_type` that are a dialogue of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Everybody is let in, under any name.
    Any,
    /// Everybody we know is let in.
    Trust,
    /// The password in clear text.
    Plain,
    /// A salted md5 hash; or SCRAM, where the secret is a SCRAM secret.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// The password in clear text, which somebody else checks.
    Outside(Checker),
}

/// Who checks passwords in our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checker {
    /// An LDAP directory.
    Ldap,
    /// The system's PAM.
    Pam,
}

/// One client proving who it is.
pub struct Handshake {
    user: Box<str>,
    /// `None`: a user we do not know.
    secret: Option<Secret>,
    /// There is a secret, but no password is checked against it ([`Secret::excess`]).
    unusable: bool,
    /// Random: the md5 salt or our SCRAM nonce, whichever the dialogue needs.
    nonce_source: [u8; 32],
    keys: KeyCache,
    /// What binds SCRAM to the connection, where it is encrypted.
    end_point: Option<Box<[u8]>>,
    state: State,
}

/// What the dialogue waits for.
enum State {
    Begin(Method),
    Password,
    /// The keys of the password the client claims, to be compared with a SCRAM secret.
    PasswordKeys {
        password: Zeroizing<Vec<u8>>,
        secret: ScramSecret,
    },
    /// The password, for somebody else.
    OutsidePassword(Checker),
    /// Keys that are derived for nothing: the password is wrong.
    InVain,
    /// What somebody else says of it.
    OutsideAnswer {
        checker: Checker,
        password: Zeroizing<String>,
    },
    Md5Answer,
    ScramFirst,
    ScramFinal {
        exchange: Exchange,
        /// What the client was told, whatever a reload changes meanwhile.
        iterations: u32,
    },
    /// The keys of our plain secret.
    ScramKeys {
        exchange: Exchange,
        claim: Claim,
    },
    Over,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The dialogue starts. Once, first.
    Begin,
    /// The client sent a `p` message; this is its body. The caller bounds its length before reading it (64 KiB are
    /// always enough).
    Message(&'a [u8]),
    /// A [`Step::Derive`] is done.
    Derived(DerivedKeys),
    /// A [`Step::Ask`] is answered: is the password right?
    Answered(bool),
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send these bytes, whole messages, and give the client's next `p` message to [`Handshake::step`].
    Send(Vec<u8>),
    /// Run this away from the I/O threads and give the result to [`Handshake::step`].
    Derive(Derivation),
    /// Ask the [`Checker`] of the [`Method`] about this password and give the answer to [`Handshake::step`]. It is not
    /// empty.
    Ask(Zeroizing<String>),
    /// The client is who it says.
    Accept {
        /// To be sent before `AuthenticationOk`; may be empty.
        last: Vec<u8>,
        /// What the login taught us for logging in to servers as this user.
        proof: Proof,
    },
    /// It is not. Final: every later step says so too.
    Deny(Denial),
}

/// Why a client was refused. `Display` is the text for the client (PgBouncer's), which never tells more than it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What the client is told.
    pub kind: DenialKind,
    /// What the operator is told: a few words for the log.
    pub why: &'static str,
}

/// What a refused client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialKind {
    /// The password, or its md5 hash, is wrong; or there is no such user.
    PasswordFailed,
    /// The same in a SCRAM exchange, or the exchange was malformed.
    SaslFailed,
    /// The client chose a SASL mechanism that was not offered.
    InvalidMechanism,
    /// The client sent an empty password.
    EmptyPassword,
    /// There is no such user, and no password would have been asked for.
    TrustFailed,
    /// Somebody else does not find the password right.
    OutsideFailed(Checker),
}

impl Handshake {
    /// A dialogue with `user` by `method`. `secret` is what is stored about the user, `None` for one we do not know.
    /// `nonce_source` is 32 bytes from the system's generator, fresh for each handshake.
    pub fn new(
        method: Method,
        user: &str,
        secret: Option<Secret>,
        nonce_source: [u8; 32],
        keys: &KeyCache,
    ) -> Handshake {
        let (user, keys, state) = (user.into(), keys.clone(), State::Begin(method));
        Handshake { user, secret, unusable: false, nonce_source, keys, end_point: None, state }
    }

    /// The same over a connection whose tls-server-end-point is this: SCRAM can be bound to it.
    pub fn bound_to(mut self, end_point: Option<&[u8]>) -> Handshake {
        self.end_point = end_point.map(Box::from);
        self
    }

    /// Takes what happened and says what to do next. Whatever comes out of turn is a denial.
    pub fn step(&mut self, input: Input<'_>) -> Step {
        match (mem::replace(&mut self.state, State::Over), input) {
            (State::Begin(method), Input::Begin) => self.begin(method),
            (State::Password, Input::Message(body)) => self.password(body),
            (State::OutsidePassword(checker), Input::Message(body)) => self.outside_password(checker, body),
            (State::OutsideAnswer { password, .. }, Input::Answered(true)) => accept(Proof::Password(password)),
            (State::OutsideAnswer { checker, .. }, Input::Answered(false)) => {
                deny(DenialKind::OutsideFailed(checker), WRONG_PASSWORD)
            }
            (State::PasswordKeys { password, secret }, Input::Derived(keys)) => {
                self.password_keys(&password, &secret, &keys)
            }
            (State::InVain, Input::Derived(_)) => self.deny_user(DenialKind::PasswordFailed),
            (State::Md5Answer, Input::Message(body)) => self.md5_answer(body),
            (State::ScramFirst, Input::Message(body)) => self.scram_first(body),
            (State::ScramFinal { exchange, iterations }, Input::Message(body)) => {
                self.scram_final(exchange, iterations, body)
            }
            (State::ScramKeys { exchange, claim }, Input::Derived(keys)) => {
                scram_end(exchange.verify(&claim, keys.stored_key(), keys.server_key()), None)
            }
            _ => deny(DenialKind::PasswordFailed, "the login is over, or a message came out of turn"),
        }
    }

    fn begin(&mut self, method: Method) -> Step {
        if matches!(method, Method::Plain | Method::Md5 | Method::Scram)
            && let Some(_) = self.secret.as_ref().and_then(Secret::excess)
        {
            self.secret = None;
            self.unusable = true;
        }
        match (method, &self.secret) {
            (Method::Any, _) | (Method::Trust, Some(_)) => accept(Proof::Nothing),
            (Method::Trust, None) => deny(DenialKind::TrustFailed, "no such user"),
            (Method::Plain, _) => {
                self.state = State::Password;
                Step::Send(message::authentication(message::CLEARTEXT_PASSWORD, b""))
            }
            (Method::Outside(checker), _) => {
                self.state = State::OutsidePassword(checker);
                Step::Send(message::authentication(message::CLEARTEXT_PASSWORD, b""))
            }
            (Method::Scram, _) | (Method::Md5, Some(Secret::Scram(_))) => {
                self.state = State::ScramFirst;
                let mechanisms = [message::SCRAM_SHA_256_PLUS, message::SCRAM_SHA_256];
                let offered = if self.end_point.is_some() { &mechanisms[..] } else { &mechanisms[1..] };
                Step::Send(message::authentication_sasl(offered))
            }
            (Method::Md5, _) => {
                self.state = State::Md5Answer;
                Step::Send(message::authentication(message::MD5_PASSWORD, &self.md5_salt()))
            }
        }
    }

    fn password(&mut self, body: &[u8]) -> Step {
        let password = match read_password(body) {
            Ok(password) => password,
            Err(denial) => return Step::Deny(denial),
        };
        let right = match &self.secret {
            None => false,
            Some(Secret::Plain(stored)) => !stored.is_empty() && password::same(password, stored.as_bytes()),
            Some(Secret::Md5(stored)) => {
                password::same(password::md5_stored(&self.user, password).as_bytes(), stored.as_bytes())
            }
            Some(Secret::Scram(secret)) => {
                let secret = secret.clone();
                return match self.keys.keys_of_claimed(password, &secret.salt, secret.iterations) {
                    Lookup::Ready(keys) => self.password_keys(password, &secret, &keys),
                    Lookup::Derive(derivation) => {
                        self.state = State::PasswordKeys { password: Zeroizing::new(password.to_vec()), secret };
                        Step::Derive(derivation)
                    }
                };
            }
        };
        if right { accept(taught_by(password)) } else { self.derive_in_vain(password) }
    }

    /// Denies after as much work as a wrong password costs a user with a SCRAM secret of `scram_iterations` rounds,
    /// whatever is stored and whether anything is: nobody learns from a denial's time which users there are.
    fn derive_in_vain(&mut self, password: &[u8]) -> Step {
        match self.keys.keys_of_claimed(password, &self.keys.salt_for(&self.user), self.keys.scram_iterations()) {
            Lookup::Ready(_) => self.deny_user(DenialKind::PasswordFailed),
            Lookup::Derive(derivation) => {
                self.state = State::InVain;
                Step::Derive(derivation)
            }
        }
    }

    fn outside_password(&mut self, checker: Checker, body: &[u8]) -> Step {
        let password = match read_password(body) {
            Ok(password) => password,
            Err(denial) => return Step::Deny(denial),
        };
        let Ok(password) = std::str::from_utf8(password) else {
            return deny(DenialKind::OutsideFailed(checker), "the password is not text in UTF-8");
        };
        let password = Zeroizing::new(password.to_owned());
        self.state = State::OutsideAnswer { checker, password: password.clone() };
        Step::Ask(password)
    }

    fn password_keys(&self, password: &[u8], secret: &ScramSecret, keys: &DerivedKeys) -> Step {
        if !password::same(keys.stored_key(), &secret.stored_key) {
            return self.deny_user(DenialKind::PasswordFailed);
        }
        self.keys.remember(password, &secret.salt, secret.iterations, keys);
        accept(taught_by(password))
    }

    fn md5_answer(&mut self, body: &[u8]) -> Step {
        let answer = match read_password(body) {
            Ok(answer) => answer,
            Err(denial) => return Step::Deny(denial),
        };
        match &self.secret {
            Some(secret) if password::md5_answer_fits(answer, &self.user, secret, self.md5_salt()) => {
                accept(Proof::Nothing)
            }
            _ => self.deny_user(DenialKind::PasswordFailed),
        }
    }

    fn scram_first(&mut self, body: &[u8]) -> Step {
        let Some((mechanism, client_first)) = message::parse_sasl_initial_response(body) else {
            return deny(DenialKind::SaslFailed, "malformed SASLInitialResponse");
        };
        let plus = mechanism == message::SCRAM_SHA_256_PLUS && self.end_point.is_some();
        if !plus && mechanism != message::SCRAM_SHA_256 {
            return deny(DenialKind::InvalidMechanism, "the client chose a mechanism that was not offered");
        }
        let Some(client_first) = client_first else {
            return deny(DenialKind::SaslFailed, "malformed SASLInitialResponse");
        };
        let (salt, iterations) = match &self.secret {
            Some(Secret::Scram(secret)) => (secret.salt.clone(), secret.iterations),
            _ => (self.keys.salt_for(&self.user).to_vec(), self.keys.scram_iterations()),
        };
        let (end_point, nonce) = (self.end_point.as_deref(), nonce_text(&self.nonce_source));
        match Exchange::open(client_first, end_point, plus, &nonce, &salt, iterations) {
            Ok(exchange) => {
                let reply = message::authentication(message::SASL_CONTINUE, exchange.server_first());
                self.state = State::ScramFinal { exchange, iterations };
                Step::Send(reply)
            }
            Err(Fault(why)) => deny(DenialKind::SaslFailed, why),
        }
    }

    fn scram_final(&mut self, exchange: Exchange, iterations: u32, body: &[u8]) -> Step {
        let claim = match exchange.read_final(body) {
            Ok(claim) => claim,
            Err(Fault(why)) => return deny(DenialKind::SaslFailed, why),
        };
        match &self.secret {
            Some(Secret::Scram(secret)) => {
                scram_end(exchange.verify(&claim, &secret.stored_key, &secret.server_key), Some(secret))
            }
            Some(Secret::Plain(stored)) if !stored.is_empty() => {
                let salt = self.keys.salt_for(&self.user);
                match self.keys.keys_of_known(stored.as_bytes(), &salt, iterations) {
                    Lookup::Ready(keys) => {
                        scram_end(exchange.verify(&claim, keys.stored_key(), keys.server_key()), None)
                    }
                    Lookup::Derive(derivation) => {
                        self.state = State::ScramKeys { exchange, claim };
                        Step::Derive(derivation)
                    }
                }
            }
            _ => {
                // As much work as for a user who can log in, and refused whatever comes out.
                let _ = exchange.verify(&claim, &[0; 32], &[0; 32]);
                self.deny_user(DenialKind::SaslFailed)
            }
        }
    }

    /// A refusal whose true reason only the operator learns.
    fn deny_user(&self, kind: DenialKind) -> Step {
        let why = match (&self.secret, kind) {
            (None, _) if self.unusable => "the stored SCRAM secret has too many iterations",
            (None, _) => "no such user",
            (Some(Secret::Plain(stored)), _) if stored.is_empty() => "the stored password is empty",
            (Some(Secret::Md5(_)), DenialKind::SaslFailed) => "the stored secret is md5, SCRAM cannot check it",
            _ => WRONG_PASSWORD,
        };
        deny(kind, why)
    }

    fn md5_salt(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.nonce_source;
        [a, b, c, d]
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Handshake({:?}, {:?})", self.user, self.secret)
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(out)
    }
}

impl fmt::Display for DenialKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            DenialKind::PasswordFailed => "password authentication failed",
            DenialKind::SaslFailed => "SASL authentication failed",
            DenialKind::InvalidMechanism => "client selected an invalid SASL authentication mechanism",
            DenialKind::EmptyPassword => "empty password returned by client",
            DenialKind::TrustFailed => "\"trust\" authentication failed",
            DenialKind::OutsideFailed(Checker::Ldap) => "LDAP authentication failed",
            DenialKind::OutsideFailed(Checker::Pam) => "PAM authentication failed",
        })
    }
}

fn accept(proof: Proof) -> Step {
    Step::Accept { last: Vec::new(), proof }
}

fn deny(kind: DenialKind, why: &'static str) -> Step {
    Step::Deny(Denial { kind, why })
}

/// Ends a SCRAM exchange. The keys a proof reveals are worth something only where the secret is `stored` as one that a
/// server may keep too, not where we made the salt up.
fn scram_end(verified: Option<Verified>, stored: Option<&ScramSecret>) -> Step {
    let Some(Verified { keys, server_final }) = verified else {
        return deny(DenialKind::SaslFailed, WRONG_PASSWORD);
    };
    let proof = match stored {
        Some(secret) => Proof::ScramKeys { keys, secret: secret.clone() },
        None => Proof::Nothing,
    };
    Step::Accept { last: message::authentication(message::SASL_FINAL, &server_final), proof }
}

fn read_password(body: &[u8]) -> Result<&[u8], Denial> {
    match message::parse_password(body) {
        None => Err(Denial { kind: DenialKind::PasswordFailed, why: "malformed or too long password message" }),
        Some(b"") => Err(Denial { kind: DenialKind::EmptyPassword, why: "the client sent an empty password" }),
        Some(password) => Ok(password),
    }
}

/// A verified password as what it taught us. One that is not UTF-8 cannot be kept and teaches nothing: the stored
/// secret must do.
fn taught_by(password: &[u8]) -> Proof {
    match std::str::from_utf8(password) {
        Ok(text) => Proof::Password(Zeroizing::new(text.to_owned())),
        Err(_) => Proof::Nothing,
    }
}

/// 24 random bytes as 32 printable ones, none of them a comma.
fn nonce_text(source: &[u8; 32]) -> String {
    BASE64.encode(&source[..24])
}

const WRONG_PASSWORD: &str = "wrong password";

#[cfg(test)]
mod tests;
