//! Pure: we log in to a server: answers its `AuthenticationRequest`s with what a [`Credential`] can prove.
//!
//! ```text
//!   Start ── password or md5 asked: answer ──► Start (a server may ask again) ── AuthenticationOk ──► Ok
//!     └── SASL ─► Opened ── its first message ─► Proved ── its signature holds ─► Verified ── AuthenticationOk ─► Ok
//!                                └─► Deriving ──┘
//! ```
//!
//! The server proves itself too: one that says `AuthenticationOk` before its signature is refused. The counterpart is
//! [`Handshake`](super::Handshake); `server/connect.rs` owns the connection and applies the timeout.

use std::fmt;
use std::mem;

use super::credential::Credential;
use super::keys::{Derivation, DerivedKeys, ITERATIONS_MAX, KeyCache, Lookup};
use super::scram::messages::Fault;
use super::scram::prove::{Challenge, Channel, Expected, Opening};
use super::{message, nonce_text, password};

/// One login to a server.
pub struct Prover {
    user: Box<str>,
    credential: Credential,
    nonce_source: [u8; 32],
    keys: KeyCache,
    /// What binds SCRAM to the connection, where it is encrypted.
    end_point: Option<Box<[u8]>>,
    state: State,
}

enum State {
    /// The server asks, or is content.
    Start,
    Opened(Opening),
    Deriving(Challenge),
    Proved(Expected),
    Verified,
    Over,
}

/// What to do next.
#[derive(Debug)]
pub enum ProverStep {
    /// Send these bytes, a whole message, and wait for the server's next.
    Send(Vec<u8>),
    /// Run this away from the I/O threads and give the result to [`Prover::derived`].
    Derive(Derivation),
    /// Wait for the server's next message.
    Nothing,
    /// The server let us in.
    Ok,
    /// It will not, or must not be trusted. Final.
    Fail(ProverError),
}

/// Why we could not log in to a server, found on our side. `Display` is the text for waiting clients and the log:
/// PgBouncer's where it has one. [`ProverError::detail`] says more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProverError {
    /// The server asks for a password (by this method) and none is known.
    NoPassword(&'static str),
    /// The stored secret is a hash that this method cannot use.
    WrongPasswordType(&'static str),
    /// Only a SCRAM secret is known, and no client has yet logged in with SCRAM to reveal its keys.
    NeedsPassThrough,
    /// The server keeps another SCRAM secret than we do (or does not know the user).
    SecretDiffers,
    /// The server offers SASL, but not SCRAM-SHA-256.
    NoMechanism,
    /// The server asks for more rounds of PBKDF2 than [`ITERATIONS_MAX`].
    TooManyIterations {
        /// Whose secret it speaks of.
        user: Box<str>,
        /// As many.
        asked: u32,
    },
    /// The server let us in without showing that it knows our secret.
    UnverifiedServer,
    /// The server's signature is not the one our secret makes.
    InvalidSignature,
    /// The server asks for a method we do not have; its code in `AuthenticationRequest`.
    UnsupportedMethod(u32),
    /// The server's message is not one we understand, or out of turn; in a few words.
    Malformed(&'static str),
}

impl Prover {
    /// A login as `user` with this credential. `nonce_source` is 32 bytes from the system's generator, fresh for each
    /// login.
    pub fn new(user: &str, credential: &Credential, nonce_source: [u8; 32], keys: &KeyCache) -> Prover {
        let credential = credential.clone();
        let (user, keys) = (user.into(), keys.clone());
        Prover { user, credential, nonce_source, keys, end_point: None, state: State::Start }
    }

    /// The same over a connection whose tls-server-end-point is this: SCRAM is bound to it where the server offers
    /// that.
    pub fn bound_to(mut self, end_point: Option<&[u8]>) -> Prover {
        self.end_point = end_point.map(Box::from);
        self
    }

    /// Takes the body of an `R` message and says what to do next.
    pub fn step(&mut self, body: &[u8]) -> ProverStep {
        let step = match message::parse_authentication(body) {
            Some((code, payload)) => self.asked(code, payload),
            None => Err(ProverError::Malformed("an authentication request without a code")),
        };
        step.unwrap_or_else(ProverStep::Fail)
    }

    /// Continues after [`ProverStep::Derive`].
    pub fn derived(&mut self, keys: &DerivedKeys) -> ProverStep {
        match mem::replace(&mut self.state, State::Over) {
            State::Deriving(challenge) => self.respond(&challenge, keys),
            _ => ProverStep::Fail(ProverError::Malformed("keys were derived that nobody asked for")),
        }
    }

    fn asked(&mut self, code: u32, payload: &[u8]) -> Result<ProverStep, ProverError> {
        match (code, mem::replace(&mut self.state, State::Over)) {
            (message::OK, State::Start | State::Verified) => Ok(ProverStep::Ok),
            (message::OK, State::Opened(_) | State::Proved(_)) => Err(ProverError::UnverifiedServer),
            (message::CLEARTEXT_PASSWORD, State::Start) => self.cleartext(),
            (message::MD5_PASSWORD, State::Start) => self.md5(payload),
            (message::SASL, State::Start) => self.sasl(payload),
            (message::SASL_CONTINUE, State::Opened(opening)) => self.challenge(opening, payload),
            (message::SASL_FINAL, State::Proved(expected)) => self.signature(&expected, payload),
            (
                message::OK
                | message::CLEARTEXT_PASSWORD
                | message::MD5_PASSWORD
                | message::SASL
                | message::SASL_CONTINUE
                | message::SASL_FINAL,
                _,
            ) => Err(ProverError::Malformed("an authentication request out of turn")),
            (other, _) => Err(ProverError::UnsupportedMethod(other)),
        }
    }

    fn cleartext(&mut self) -> Result<ProverStep, ProverError> {
        match &self.credential {
            Credential::Plain(password) => {
                self.state = State::Start;
                Ok(ProverStep::Send(message::password(password.as_bytes())))
            }
            Credential::None => Err(ProverError::NoPassword("clear text")),
            Credential::Md5(_) | Credential::ScramKeys { .. } | Credential::ScramSecretOnly(_) => {
                Err(ProverError::WrongPasswordType("clear text"))
            }
        }
    }

    fn md5(&mut self, payload: &[u8]) -> Result<ProverStep, ProverError> {
        let Ok(salt) = <[u8; 4]>::try_from(payload) else {
            return Err(ProverError::Malformed("an md5 salt that is not four bytes"));
        };
        let answer = match &self.credential {
            Credential::Plain(text) => password::md5_answer(&password::md5_stored(&self.user, text.as_bytes()), salt),
            Credential::Md5(stored) => password::md5_answer(stored, salt),
            Credential::None => return Err(ProverError::NoPassword("md5")),
            Credential::ScramKeys { .. } | Credential::ScramSecretOnly(_) => {
                return Err(ProverError::WrongPasswordType("md5"));
            }
        };
        self.state = State::Start;
        Ok(ProverStep::Send(message::password(answer.as_bytes())))
    }

    fn sasl(&mut self, payload: &[u8]) -> Result<ProverStep, ProverError> {
        let offers = |mechanism| message::offers(payload, mechanism);
        let (mechanism, channel) = match (offers(message::SCRAM_SHA_256_PLUS), &self.end_point) {
            (None, _) => return Err(ProverError::Malformed("a list of SASL mechanisms without its end")),
            (Some(true), Some(end_point)) => (message::SCRAM_SHA_256_PLUS, Channel::EndPoint(end_point)),
            _ if offers(message::SCRAM_SHA_256) != Some(true) => return Err(ProverError::NoMechanism),
            (Some(false), Some(_)) => (message::SCRAM_SHA_256, Channel::NotOffered),
            (_, None) => (message::SCRAM_SHA_256, Channel::None),
        };
        match &self.credential {
            Credential::Plain(_) | Credential::ScramKeys { .. } => {}
            Credential::None => return Err(ProverError::NoPassword("SCRAM-SHA-256")),
            Credential::Md5(_) => return Err(ProverError::WrongPasswordType("SCRAM-SHA-256")),
            Credential::ScramSecretOnly(_) => return Err(ProverError::NeedsPassThrough),
        }
        let opening = Opening::new(nonce_text(&self.nonce_source), channel);
        let reply = message::sasl_initial_response(mechanism, &opening.client_first());
        self.state = State::Opened(opening);
        Ok(ProverStep::Send(reply))
    }

    fn challenge(&mut self, opening: Opening, payload: &[u8]) -> Result<ProverStep, ProverError> {
        let challenge = opening.read(payload).map_err(|Fault(why)| ProverError::Malformed(why))?;
        let asked = challenge.iterations;
        if asked > ITERATIONS_MAX {
            return Err(ProverError::TooManyIterations { user: self.user.clone(), asked });
        }
        let lookup = match &self.credential {
            Credential::Plain(password) => {
                self.keys.keys_of_known(password.as_bytes(), &challenge.salt, challenge.iterations)
            }
            Credential::ScramKeys { keys, secret }
                if secret.salt == challenge.salt && secret.iterations == challenge.iterations =>
            {
                Lookup::Ready(keys.clone())
            }
            // Keys for one salt prove nothing for another; the attempt would only be logged there as an attack.
            _ => return Err(ProverError::SecretDiffers),
        };
        match lookup {
            Lookup::Ready(keys) => Ok(self.respond(&challenge, &keys)),
            Lookup::Derive(derivation) => {
                self.state = State::Deriving(challenge);
                Ok(ProverStep::Derive(derivation))
            }
        }
    }

    fn respond(&mut self, challenge: &Challenge, keys: &DerivedKeys) -> ProverStep {
        let (client_final, expected) = challenge.respond(keys);
        self.state = State::Proved(expected);
        ProverStep::Send(message::sasl_response(&client_final))
    }

    fn signature(&mut self, expected: &Expected, payload: &[u8]) -> Result<ProverStep, ProverError> {
        if !expected.read(payload).map_err(|Fault(why)| ProverError::Malformed(why))? {
            return Err(ProverError::InvalidSignature);
        }
        self.state = State::Verified;
        Ok(ProverStep::Nothing)
    }
}

impl fmt::Debug for Prover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Prover({:?}, {:?})", self.user, self.credential)
    }
}

impl ProverError {
    /// What an operator would want to know beyond the text: no secrets, fit for DETAIL.
    pub fn detail(&self) -> Option<String> {
        Some(match self {
            ProverError::NoPassword(asked) => format!("The server asks for a password ({asked}), and none is known."),
            ProverError::WrongPasswordType(asked) => {
                format!("The server asks for {asked}, which the stored hash cannot answer.")
            }
            ProverError::NeedsPassThrough => "Only the user's SCRAM secret is known. It serves for logging in to the \
                                              server once a client has logged in with SCRAM."
                .to_owned(),
            ProverError::SecretDiffers => "The SCRAM secret stored here is not the server's, or the server does not \
                                           know the user."
                .to_owned(),
            ProverError::UnverifiedServer => {
                "The server let us in without proving that it knows the user's secret.".to_owned()
            }
            ProverError::TooManyIterations { .. } => {
                "Set the user's password again at the server, with a smaller scram_iterations there.".to_owned()
            }
            ProverError::InvalidSignature => "The server does not know the user's secret.".to_owned(),
            ProverError::NoMechanism | ProverError::UnsupportedMethod(_) | ProverError::Malformed(_) => return None,
        })
    }
}

impl fmt::Display for ProverError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("server login failed: ")?;
        match self {
            ProverError::NoPassword(_) | ProverError::WrongPasswordType(_) | ProverError::NeedsPassThrough => {
                out.write_str("wrong password type")
            }
            ProverError::SecretDiffers => out.write_str("the server has another SCRAM secret"),
            ProverError::TooManyIterations { user, asked } => write!(
                out,
                "the server asks for {asked} iterations of SCRAM for user \"{user}\", and {ITERATIONS_MAX} are the most"
            ),
            ProverError::NoMechanism => {
                out.write_str("none of the server's SASL authentication mechanisms are supported")
            }
            ProverError::UnverifiedServer => out.write_str("failed to verify server signature"),
            ProverError::InvalidSignature => out.write_str("invalid server signature"),
            ProverError::UnsupportedMethod(code) => {
                write!(out, "the server asks for authentication method {code}, which is not supported")
            }
            ProverError::Malformed(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for ProverError {}
