//! The keys we give clients to cancel with.
//!
//! Pure: bytes in, bytes out; the randomness is an argument.
//!
//! A client never learns its server's key, which changes with every loan. It gets one of ours in BackendKeyData, for as
//! long as it stays. Eight bytes, of which the first four are called a process id and the rest a secret:
//!
//! ```text
//!  byte   0           1        2        3 4 5 6    7
//!        sign bit 0  peer id  peer id  random     low 2 bits: hops left
//!                    low      high
//! ```
//!
//! Peer id and hops are there only where `peer_id` is set, and are laid out as PgBouncer lays them out, so that peers
//! of both kinds pass on each other's cancel requests. 45 random bits remain then, 63 otherwise. We negotiate every
//! client down to protocol 3.0, whose secrets have 4 bytes; the up to 256 of 3.2 would only concern this type. Manual:
//! "Canceling Requests in Progress". PgBouncer: `welcome_client`, `accept_cancel_request`.

/// The largest `peer_id`, as in PgBouncer.
pub const PEER_ID_MAX: u16 = 16_383;

const HOPS_MASK: u8 = 0b11;

/// A key as a client has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CancelKey([u8; 8]);

impl CancelKey {
    /// A key for a client of ours, from 8 random bytes. `peer_id` 0 is none.
    pub fn new(random: [u8; 8], peer_id: u16) -> CancelKey {
        debug_assert!(peer_id <= PEER_ID_MAX);
        let mut key = random;
        // Clients take the first four bytes for a process id, and pg_basebackup cannot do with a negative one.
        key[0] &= 0x7f;
        if peer_id > 0 {
            [key[1], key[2]] = peer_id.to_le_bytes();
            key[7] |= HOPS_MASK;
        }
        CancelKey(key)
    }

    /// The key in a CancelRequest. `None` where it cannot be one of ours or of a peer's, by the length of its secret.
    pub fn from_request(pid: i32, secret: &[u8]) -> Option<CancelKey> {
        let secret: [u8; 4] = secret.try_into().ok()?;
        let mut key = [0; 8];
        key[..4].copy_from_slice(&pid.to_be_bytes());
        key[4..].copy_from_slice(&secret);
        Some(CancelKey(key))
    }

    /// The key that a predecessor gave a client, as its eight bytes in a row.
    pub fn from_number(number: u64) -> CancelKey {
        CancelKey(number.to_be_bytes())
    }

    /// The key's eight bytes in a row, for a successor.
    pub fn to_number(self) -> u64 {
        u64::from_be_bytes(self.0)
    }

    /// The process id for BackendKeyData; never negative in a key of ours.
    pub fn pid(&self) -> i32 {
        let [a, b, c, d, ..] = self.0;
        i32::from_be_bytes([a, b, c, d])
    }

    /// The secret for BackendKeyData.
    pub fn secret(&self) -> &[u8] {
        &self.0[4..]
    }

    /// Whose client has this key. Means something only where peering is on.
    pub fn peer_id(&self) -> u16 {
        u16::from_le_bytes([self.0[1], self.0[2]])
    }

    /// The key as it was given out, whatever hops it has made: what a peer looks up that finds its own id in it.
    #[must_use]
    pub fn as_given(mut self) -> CancelKey {
        self.0[7] |= HOPS_MASK;
        self
    }

    /// The key to send on to a peer, with one hop less. `None` where none is left: a loop between peers ends here.
    #[must_use]
    pub fn for_next_hop(mut self) -> Option<CancelKey> {
        if self.0[7] & HOPS_MASK == 0 {
            return None;
        }
        self.0[7] -= 1;
        Some(self)
    }
}

/// A key lets anybody stop a client's queries, so it stays out of logs.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_peers_all_but_the_sign_is_random() {
        let key = CancelKey::new([0xff, 1, 2, 3, 4, 5, 6, 0], 0);

        assert_eq!(key.pid(), 0x7f01_0203);
        assert_eq!(key.secret(), [4, 5, 6, 0]);
    }

    #[test]
    fn peers_find_id_and_hops_where_pgbouncer_has_them() {
        let key = CancelKey::new([0xff, 1, 2, 3, 4, 5, 6, 0xf0], 0x1234);

        assert_eq!(key.pid(), 0x7f34_1203);
        assert_eq!(key.secret(), [4, 5, 6, 0xf3]);
        assert_eq!(key.peer_id(), 0x1234);
    }

    #[test]
    fn a_key_makes_three_hops_and_is_known_after_each() {
        let key = CancelKey::new([9; 8], 7);

        let hops: Vec<_> = std::iter::successors(Some(key), |key| key.for_next_hop()).collect();

        assert_eq!(hops.len(), 4);
        assert!(hops.iter().all(|hop| hop.as_given() == key && hop.peer_id() == 7));
    }

    #[test]
    fn a_secret_of_another_length_is_no_key_of_ours() {
        for len in [0, 3, 5, 32, 256] {
            assert_eq!(CancelKey::from_request(1, &vec![0; len]), None, "{len}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", CancelKey::new([7; 8], 0)), "CancelKey { .. }");
    }

    proptest! {
        #[test]
        fn what_the_client_sends_back_is_what_it_was_given(random: [u8; 8], peer_id in 0..=PEER_ID_MAX) {
            let key = CancelKey::new(random, peer_id);

            prop_assert!(key.pid() >= 0);
            prop_assert_eq!(CancelKey::from_request(key.pid(), key.secret()), Some(key));
            prop_assert!(peer_id == 0 || key.peer_id() == peer_id);
        }
    }
}
