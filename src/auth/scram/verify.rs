//! Pure: we are the SCRAM server: a client proves itself to us.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Transcript;
use super::messages::{ClientFinal, ClientFirst, Fault};
use crate::auth::keys::DerivedKeys;

/// The exchange after the client's first message: our first message is ready, the client's final one awaited.
pub(in crate::auth) struct Exchange {
    channel_binding: &'static [u8],
    client_first_bare: Vec<u8>,
    server_first: Vec<u8>,
    /// Both nonces; what the client must repeat.
    nonce: Vec<u8>,
}

/// The client's final message, read and in order, but for its proof.
pub(in crate::auth) struct Claim {
    without_proof: Vec<u8>,
    proof: [u8; 32],
}

/// A proof that held.
pub(in crate::auth) struct Verified {
    /// The client's keys, complete: the proof revealed the client key, the server key was ours.
    pub(in crate::auth) keys: DerivedKeys,
    /// Our last message.
    pub(in crate::auth) server_final: Vec<u8>,
}

impl Exchange {
    /// Answers the client's first message. `server_nonce` is printable, without commas, and never used before.
    pub(in crate::auth) fn open(
        client_first: &[u8],
        server_nonce: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Exchange, Fault> {
        let first = ClientFirst::parse(client_first)?;
        let nonce = [first.nonce, server_nonce.as_bytes()].concat();
        let mut server_first = b"r=".to_vec();
        server_first.extend_from_slice(&nonce);
        server_first.extend_from_slice(format!(",s={},i={iterations}", BASE64.encode(salt)).as_bytes());

        Ok(Exchange {
            channel_binding: first.channel_binding,
            client_first_bare: first.bare.to_vec(),
            server_first,
            nonce,
        })
    }

    /// Our first message.
    pub(in crate::auth) fn server_first(&self) -> &[u8] {
        &self.server_first
    }

    /// Reads the client's final message: all of it but the proof is checked.
    pub(in crate::auth) fn read_final(&self, client_final: &[u8]) -> Result<Claim, Fault> {
        let last = ClientFinal::parse(client_final)?;
        if last.channel_binding != self.channel_binding {
            return Err(Fault("the client's channel binding is not the one it began with"));
        }
        if last.nonce != self.nonce {
            return Err(Fault("the client's nonce is not the one it was sent"));
        }
        Ok(Claim { without_proof: last.without_proof.to_vec(), proof: last.proof })
    }

    /// Checks the proof: two HMACs and a hash.
    pub(in crate::auth) fn verify(
        &self,
        claim: &Claim,
        stored_key: &[u8; 32],
        server_key: &[u8; 32],
    ) -> Option<Verified> {
        let transcript = Transcript {
            client_first_bare: &self.client_first_bare,
            server_first: &self.server_first,
            client_final_without_proof: &claim.without_proof,
        };
        let client_key = transcript.client_key(&claim.proof, stored_key)?;
        let signature = transcript.signature(server_key);
        Some(Verified {
            keys: DerivedKeys::new(client_key, *server_key),
            server_final: format!("v={}", BASE64.encode(signature)).into_bytes(),
        })
    }
}
