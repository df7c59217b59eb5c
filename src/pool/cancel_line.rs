//! The requests to cancel of one pool, or to one peer: who stands in line for a connection, who has one.
//!
//! Pure: no clock, lock, socket or task.
//!
//! ```text
//!   join ─► in line ─► connecting ─► telling ─► leave
//!              ▲            │ no connection
//!              └── resting ◄┘
//! ```
//!
//! A connection that carries a request is no server of the pool's: nobody logs in on it, and PostgreSQL gives it no
//! backend. It takes a place under the same caps all the same, since a server must bear what is opened to it; the caps
//! are wider for it, since a query that is cancelled makes room. PgBouncer: `launch_new_connection`.

use std::collections::VecDeque;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In line for a connection.
    InLine,
    /// Its connection is being made.
    Connecting,
    /// No connection could be made; it tries again after a while.
    Resting,
    /// It is connected: the request is sent, and the other side has yet to hang up.
    Telling,
}

/// One request's place. Handed back when it ends.
#[derive(Debug)]
#[must_use = "a turn that is not handed back is counted for ever"]
pub struct Turn {
    number: u64,
    stage: Stage,
}

/// How many requests are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CancelCounts {
    /// Not yet connected (`cl_waiting_cancel_req`).
    pub waiting: u32,
    /// Of those, how many have a connection in the making (`sv_login`).
    pub connecting: u32,
    /// Connected (`cl_active_cancel_req`, `sv_active_cancel`).
    pub telling: u32,
}

impl CancelCounts {
    /// Connections that are open or being made.
    pub fn connections(&self) -> u32 {
        self.connecting + self.telling
    }
}

/// The line and the counts.
#[derive(Debug, Default)]
pub struct CancelLine {
    line: VecDeque<u64>,
    last: u64,
    connecting: u32,
    resting: u32,
    telling: u32,
}

impl CancelLine {
    /// A request comes, and stands in line.
    pub fn join(&mut self) -> Turn {
        self.last += 1;
        self.line.push_back(self.last);
        Turn { number: self.last, stage: Stage::InLine }
    }

    /// Is it the first in line?
    pub fn is_next(&self, turn: &Turn) -> bool {
        turn.stage == Stage::InLine && self.line.front() == Some(&turn.number)
    }

    /// A request goes on to another stage; back in line, it is the last.
    pub fn move_to(&mut self, turn: &mut Turn, stage: Stage) {
        self.strike(turn);
        turn.stage = stage;
        match stage {
            Stage::InLine => self.line.push_back(turn.number),
            Stage::Connecting => self.connecting += 1,
            Stage::Resting => self.resting += 1,
            Stage::Telling => self.telling += 1,
        }
    }

    /// A request has ended, however.
    pub fn leave(&mut self, turn: Turn) {
        self.strike(&turn);
    }

    /// How many are where.
    pub fn counts(&self) -> CancelCounts {
        let in_line = u32::try_from(self.line.len()).unwrap_or(u32::MAX);
        CancelCounts {
            waiting: in_line.saturating_add(self.resting + self.connecting),
            connecting: self.connecting,
            telling: self.telling,
        }
    }

    fn strike(&mut self, turn: &Turn) {
        match turn.stage {
            Stage::InLine => self.line.retain(|number| *number != turn.number),
            Stage::Connecting => self.connecting -= 1,
            Stage::Resting => self.resting -= 1,
            Stage::Telling => self.telling -= 1,
        }
    }
}

/// Whether one more connection may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes, whatever the caps across pools say.
    Free,
    /// Yes, where the caps across pools leave room.
    UnderCaps,
    /// Not now.
    None,
}

/// Room in a pool with this many servers, those that log in included, and this many connections for requests. Both
/// together may be twice `pool_size`: then each server can be told to stop at the same time. A `pool_size` of 0 is no
/// limit, and only the caps across pools hold.
pub fn room_in_pool(pool_size: u32, servers: u32, connections: u32) -> Room {
    let taken = u64::from(servers) + u64::from(connections);
    match u64::from(pool_size) * 2 {
        0 => Room::UnderCaps,
        most if taken < most => Room::Free,
        _ => Room::None,
    }
}

/// Room at a peer with this many connections to it. A `pool_size` of 0 is no limit.
pub fn room_at_peer(pool_size: u32, connections: u32) -> Room {
    match pool_size == 0 || connections < pool_size {
        true => Room::Free,
        false => Room::None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_served_in_order_of_arrival() {
        let mut line = CancelLine::default();
        let (mut one, two, mut three) = (line.join(), line.join(), line.join());

        assert!(line.is_next(&one) && !line.is_next(&two) && !line.is_next(&three));
        line.move_to(&mut one, Stage::Connecting);
        assert!(line.is_next(&two) && !line.is_next(&one));
        line.leave(two);
        assert!(line.is_next(&three));
        line.move_to(&mut one, Stage::Resting);
        line.move_to(&mut three, Stage::Connecting);
        line.move_to(&mut one, Stage::InLine);
        assert!(line.is_next(&one) && !line.is_next(&three));
    }

    #[test]
    fn who_is_not_connected_waits() {
        let mut line = CancelLine::default();
        let (_one, mut two, mut three, mut four) = (line.join(), line.join(), line.join(), line.join());
        line.move_to(&mut two, Stage::Connecting);
        line.move_to(&mut three, Stage::Resting);
        line.move_to(&mut four, Stage::Connecting);
        line.move_to(&mut four, Stage::Telling);

        let counts = line.counts();

        assert_eq!(counts, CancelCounts { waiting: 3, connecting: 1, telling: 1 });
        assert_eq!(counts.connections(), 2);
    }

    #[test]
    fn a_full_pool_has_room_to_cancel_each_of_its_servers() {
        let table = [
            ((5, 5, 0), Room::Free),
            ((5, 5, 4), Room::Free),
            ((5, 5, 5), Room::None),
            ((5, 7, 3), Room::None),
            ((5, 0, 9), Room::Free),
            ((0, 900, 900), Room::UnderCaps),
            ((u32::MAX, u32::MAX, u32::MAX), Room::None),
        ];
        for ((pool_size, servers, connections), expected) in table {
            assert_eq!(room_in_pool(pool_size, servers, connections), expected, "{pool_size} {servers} {connections}");
        }
    }

    #[test]
    fn a_peer_has_room_up_to_its_size() {
        assert_eq!(room_at_peer(2, 1), Room::Free);
        assert_eq!(room_at_peer(2, 2), Room::None);
        assert_eq!(room_at_peer(0, 1000), Room::Free);
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_the_turns(steps in proptest::collection::vec((0..6u8, 0..4usize), 0..60)) {
            let mut line = CancelLine::default();
            let mut turns: Vec<Turn> = Vec::new();
            for (step, which) in steps {
                let stages = [Stage::InLine, Stage::Connecting, Stage::Resting, Stage::Telling];
                match (step, turns.len()) {
                    (0, _) | (_, 0) => turns.push(line.join()),
                    (1, len) => line.leave(turns.remove(which % len)),
                    (step, len) => line.move_to(&mut turns[which % len], stages[usize::from(step) - 2]),
                }
                let at = |stage| u32::try_from(turns.iter().filter(|turn| turn.stage == stage).count()).unwrap();
                let counts = line.counts();
                prop_assert_eq!(counts.connecting, at(Stage::Connecting));
                prop_assert_eq!(counts.telling, at(Stage::Telling));
                let waiting = at(Stage::InLine) + at(Stage::Resting) + at(Stage::Connecting);
                prop_assert_eq!(counts.waiting, waiting);
                let next = turns.iter().filter(|turn| line.is_next(turn)).count();
                prop_assert_eq!(next, usize::from(at(Stage::InLine) > 0));
            }
        }
    }
}
