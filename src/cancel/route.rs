//! Where a request to cancel goes, by its key alone.
//!
//! Pure: a key in, a direction out.
//!
//! Behind a load balancer, or on a port that several processes share, a request may reach a process that did not give
//! the key. The key tells which did (`peer_id`), and how often it may still be passed on: where each process takes
//! another for that peer, the request must not go round for ever. PgBouncer: `accept_cancel_request`.

use super::key::CancelKey;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This process gave the key, as it stands here.
    Here(CancelKey),
    /// That peer gave it, and is to be sent this.
    Peer(u16, CancelKey),
    /// That peer gave it, but it was passed on too often.
    Exhausted(u16),
}

/// The way for a key that came to the process with this `peer_id`; 0 has no peers.
pub fn route(key: CancelKey, own: u16) -> Route {
    let giver = key.peer_id();
    if own == 0 {
        return Route::Here(key);
    }
    if giver == own {
        return Route::Here(key.as_given());
    }
    match key.for_next_hop() {
        Some(next) => Route::Peer(giver, next),
        None => Route::Exhausted(giver),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cancel::key::PEER_ID_MAX;

    #[test]
    fn without_an_id_of_its_own_a_process_has_no_peers() {
        let key = CancelKey::new([9; 8], 7);

        assert_eq!(route(key, 0), Route::Here(key));
    }

    #[test]
    fn between_peers_that_do_not_know_the_giver_a_request_goes_round_three_times() {
        let mut key = CancelKey::new([9; 8], 7);
        for _ in 0..3 {
            match route(key, 1) {
                Route::Peer(7, next) => key = next,
                other => panic!("{other:?}"),
            }
        }

        assert_eq!(route(key, 1), Route::Exhausted(7));
    }

    proptest! {
        #[test]
        fn a_request_finds_the_client_after_up_to_three_hops(
            random: [u8; 8],
            giver in 1..=PEER_ID_MAX,
            others in proptest::collection::vec(1..=PEER_ID_MAX, 0..=3),
        ) {
            let given = CancelKey::new(random, giver);
            let mut key = given;
            for other in others.into_iter().filter(|other| *other != giver) {
                match route(key, other) {
                    Route::Peer(to, next) if to == giver => key = next,
                    wrong => prop_assert!(false, "{wrong:?}"),
                }
            }

            prop_assert_eq!(route(key, giver), Route::Here(given));
        }
    }
}
