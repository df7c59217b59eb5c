//! Pure: SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it, in both roles.
//!
//! ```text
//!   client                                      server
//!     n,,n=,r=<client nonce>             ──►
//!                                        ◄──     r=<both nonces>,s=<salt>,i=<iterations>
//!     c=biws,r=<both nonces>,p=<proof>   ──►
//!                                        ◄──     v=<signature>
//! ```
//!
//! [`verify`] is us as the server, checking a client; [`prove`] is us as the client, logging in to PostgreSQL.
//! [`messages`] reads what the other side says; here is the arithmetic both share. Neither role derives keys from a
//! password: they say which they need, and continue when they are given them (see [`super::keys`]).
//!
//! Where the connection is encrypted, each role binds the exchange to it (tls-server-end-point, RFC 5929): somebody who
//! has let two TLS connections end at himself cannot pass the messages on. A client's exchange is bound to its
//! connection with us, ours to that with PostgreSQL.
//!
//! Why no crate: `scram` cannot check a login against a stored secret; `postgres-protocol` has the client's role only,
//! derives inline on the calling thread, keeps no keys and cannot start from a client key, which pass-through needs.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub(super) mod messages;
pub(super) mod prove;
pub(super) mod verify;

/// The kind of channel binding there is here, as the header of a client's first message names it.
const END_POINT_HEADER: &[u8] = b"p=tls-server-end-point,,";

/// What both sides sign: the conversation so far, in three parts that are joined by commas.
#[derive(Clone, Copy)]
struct Transcript<'a> {
    client_first_bare: &'a [u8],
    server_first: &'a [u8],
    client_final_without_proof: &'a [u8],
}

impl Transcript<'_> {
    /// `HMAC(key, transcript)`: the client's signature with the stored key, the server's with the server key.
    fn signature(self, key: &[u8; 32]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(self.client_first_bare);
        mac.update(b",");
        mac.update(self.server_first);
        mac.update(b",");
        mac.update(self.client_final_without_proof);
        mac.finalize().into_bytes().into()
    }

    /// What a client sends to prove that it has `client_key`; `stored_key` is that key's hash.
    fn proof(self, client_key: &[u8; 32], stored_key: &[u8; 32]) -> [u8; 32] {
        xor(client_key, &self.signature(stored_key))
    }

    /// The client key a proof reveals, if it is the one whose hash is `stored_key`.
    fn client_key(self, proof: &[u8; 32], stored_key: &[u8; 32]) -> Option<[u8; 32]> {
        let client_key = xor(proof, &self.signature(stored_key));
        bool::from(Sha256::digest(client_key).ct_eq(stored_key)).then_some(client_key)
    }
}

fn xor(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|index| left[index] ^ right[index])
}

#[cfg(test)]
mod tests;
