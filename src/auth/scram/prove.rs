//! Pure: we are the SCRAM client: we prove ourselves to a server, and it proves itself to us.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

use super::messages::{Fault, ServerFirst, server_final};
use super::{END_POINT_HEADER, Transcript};
use crate::auth::keys::DerivedKeys;

/// Our first message is out; the server's first is awaited.
pub(in crate::auth) struct Opening {
    /// Printable, without commas.
    nonce: String,
    /// What the first message begins with.
    header: &'static [u8],
    /// The header and what binds to the channel.
    channel_binding: Vec<u8>,
}

/// What we say of channel binding.
#[derive(Clone, Copy, Debug)]
pub(in crate::auth) enum Channel<'a> {
    /// There is nothing to bind to.
    None,
    /// There would be, but the server does not offer it.
    NotOffered,
    /// Bound to this (tls-server-end-point).
    EndPoint(&'a [u8]),
}

/// The server's first message, read: it says for which salt and iterations it wants keys.
pub(in crate::auth) struct Challenge {
    client_first_bare: String,
    server_first: Vec<u8>,
    client_final_without_proof: Vec<u8>,
    /// The salt of the server's secret, 1 to [`SALT_BYTES_MAX`](super::messages::SALT_BYTES_MAX) bytes.
    pub(in crate::auth) salt: Vec<u8>,
    /// Its rounds, at least 1.
    pub(in crate::auth) iterations: u32,
}

/// Our proof is out; the server's signature is awaited, and must be this.
pub(in crate::auth) struct Expected {
    signature: [u8; 32],
}

impl Opening {
    /// `nonce` is printable, without commas, and never used before.
    pub(in crate::auth) fn new(nonce: String, channel: Channel<'_>) -> Opening {
        let (header, bound): (&'static [u8], &[u8]) = match channel {
            Channel::None => (b"n,,", &[]),
            Channel::NotOffered => (b"y,,", &[]),
            Channel::EndPoint(end_point) => (END_POINT_HEADER, end_point),
        };
        Opening { nonce, header, channel_binding: [header, bound].concat() }
    }

    /// Our first message. Without a user name, as every PostgreSQL client: the startup message had it.
    pub(in crate::auth) fn client_first(&self) -> Vec<u8> {
        [self.header, self.bare().as_bytes()].concat()
    }

    /// Reads the server's first message.
    pub(in crate::auth) fn read(self, server_first: &[u8]) -> Result<Challenge, Fault> {
        let first = ServerFirst::parse(server_first)?;
        if !first.nonce.starts_with(self.nonce.as_bytes()) {
            return Err(Fault("the server's nonce does not begin with ours"));
        }
        Ok(Challenge {
            client_first_bare: self.bare(),
            server_first: server_first.to_vec(),
            client_final_without_proof: [b"c=", BASE64.encode(&self.channel_binding).as_bytes(), b",r=", first.nonce]
                .concat(),
            salt: first.salt,
            iterations: first.iterations,
        })
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }
}

impl Challenge {
    /// Our final message, and what the server must answer.
    pub(in crate::auth) fn respond(&self, keys: &DerivedKeys) -> (Vec<u8>, Expected) {
        let transcript = Transcript {
            client_first_bare: self.client_first_bare.as_bytes(),
            server_first: &self.server_first,
            client_final_without_proof: &self.client_final_without_proof,
        };
        let proof = transcript.proof(keys.client_key(), keys.stored_key());
        let mut client_final = self.client_final_without_proof.clone();
        client_final.extend_from_slice(b",p=");
        client_final.extend_from_slice(BASE64.encode(proof).as_bytes());

        (client_final, Expected { signature: transcript.signature(keys.server_key()) })
    }
}

impl Expected {
    /// Reads the server's last message: whether the server has shown that it knows our secret.
    pub(in crate::auth) fn read(&self, message: &[u8]) -> Result<bool, Fault> {
        Ok(server_final(message)?.ct_eq(&self.signature).into())
    }
}
