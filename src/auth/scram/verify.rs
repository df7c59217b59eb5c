//! Pure: we are the SCRAM server: a client proves itself to us.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Transcript;
use super::messages::{Binding, ClientFinal, ClientFirst, Fault};
use crate::auth::keys::DerivedKeys;

/// The exchange after the client's first message: our first message is ready, the client's final one awaited.
pub(in crate::auth) struct Exchange {
    /// What the client must repeat of its header, and of the channel, encoded.
    channel_binding: String,
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
    /// Answers the client's first message. `end_point` is what binds to the channel, where there is something, and
    /// `plus` whether the client has chosen to be bound to it. `server_nonce` is printable, without commas, and never
    /// used before.
    pub(in crate::auth) fn open(
        client_first: &[u8],
        end_point: Option<&[u8]>,
        plus: bool,
        server_nonce: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Exchange, Fault> {
        let first = ClientFirst::parse(client_first)?;
        let bound = match (first.binding, plus, end_point) {
            (Binding::EndPoint, true, Some(end_point)) => end_point,
            (Binding::EndPoint, ..) => {
                return Err(Fault("the client requires channel binding and chose a mechanism without it"));
            }
            (_, true, _) => return Err(Fault("the client chose channel binding, but its message has none")),
            // Somebody between us has taken the better mechanism out of our offer.
            (Binding::NotOffered, false, Some(_)) => {
                return Err(Fault("the client supports channel binding but thinks that we do not"));
            }
            (Binding::None | Binding::NotOffered, false, _) => &[],
        };
        let channel_binding = BASE64.encode([first.header, bound].concat());
        let nonce = [first.nonce, server_nonce.as_bytes()].concat();
        let mut server_first = b"r=".to_vec();
        server_first.extend_from_slice(&nonce);
        server_first.extend_from_slice(format!(",s={},i={iterations}", BASE64.encode(salt)).as_bytes());

        Ok(Exchange { channel_binding, client_first_bare: first.bare.to_vec(), server_first, nonce })
    }

    /// Our first message.
    pub(in crate::auth) fn server_first(&self) -> &[u8] {
        &self.server_first
    }

    /// Reads the client's final message: all of it but the proof is checked.
    pub(in crate::auth) fn read_final(&self, client_final: &[u8]) -> Result<Claim, Fault> {
        let last = ClientFinal::parse(client_final)?;
        if last.channel_binding != self.channel_binding.as_bytes() {
            return Err(Fault("the client's channel binding is not that of this connection"));
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
