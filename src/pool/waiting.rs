//! The line: clients waiting for a server, first come, first served.
//!
//! Pure: no clock, lock, socket or task.
//!
//! A doubly linked list inside a slab: joining, leaving from anywhere and taking the first are one step each, and
//! memory is bounded by the longest the line ever was. (A plain queue with holes would grow for as long as its head
//! waits.) A [`Place`] carries its turn, so that a stale one never touches whoever has the seat now.

use std::time::Duration;

use crate::stats::moment::Moment;

/// A seat in the line. Stale once its holder was served, refused or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    seat: u32,
    turn: u64,
}

/// One waiting client.
#[derive(Debug)]
pub struct InLine<W> {
    /// How to reach it.
    pub waiter: W,
    /// When it joined.
    pub since: Moment,
    /// The worker thread it runs on.
    pub worker: usize,
    /// Has it been told that it waits (`query_wait_notify`)?
    notified: bool,
    /// Is something under way for it and nobody else? See [`Line::first_unserved`].
    served: bool,
}

/// The line of one pool.
#[derive(Debug)]
pub struct Line<W> {
    seats: Vec<Seat<W>>,
    /// First of the free seats, linked by `next`.
    free: u32,
    head: u32,
    tail: u32,
    len: usize,
    /// Turns given out; the next is one more.
    turns: u64,
}

#[derive(Debug)]
struct Seat<W> {
    previous: u32,
    next: u32,
    turn: u64,
    taken: Option<InLine<W>>,
}

const NONE: u32 = u32::MAX;

impl<W> Line<W> {
    /// An empty line.
    pub fn new() -> Line<W> {
        Line { seats: Vec::new(), free: NONE, head: NONE, tail: NONE, len: 0, turns: 0 }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Joins at the end.
    pub fn join(&mut self, waiter: W, worker: usize, now: Moment) -> Place {
        self.turns += 1;
        let seat = Seat {
            previous: self.tail,
            next: NONE,
            turn: self.turns,
            taken: Some(InLine { waiter, since: now, worker, notified: false, served: false }),
        };
        let index = if self.free == NONE {
            self.seats.push(seat);
            u32::try_from(self.seats.len() - 1).expect("fewer clients than file descriptors, of which there are 2^31")
        } else {
            let index = self.free;
            self.free = self.seats[index as usize].next;
            self.seats[index as usize] = seat;
            index
        };
        match self.tail {
            NONE => self.head = index,
            tail => self.seats[tail as usize].next = index,
        }
        self.tail = index;
        self.len += 1;
        Place { seat: index, turn: self.turns }
    }

    /// Leaves from anywhere; nothing where the place is stale.
    pub fn leave(&mut self, place: Place) -> Option<InLine<W>> {
        let seat = self.seats.get(place.seat as usize)?;
        if seat.turn != place.turn || seat.taken.is_none() {
            return None;
        }
        self.unlink(place.seat)
    }

    /// Takes the first.
    pub fn pop(&mut self) -> Option<InLine<W>> {
        match self.head {
            NONE => None,
            head => self.unlink(head),
        }
    }

    /// The first for whom nothing is under way, with its place.
    pub fn first_unserved(&self) -> Option<(Place, &InLine<W>)> {
        let mut at = self.head;
        while let Some(seat) = self.seats.get(at as usize) {
            match &seat.taken {
                Some(in_line) if !in_line.served => return Some((Place { seat: at, turn: seat.turn }, in_line)),
                _ => at = seat.next,
            }
        }
        None
    }

    /// Says whether something is under way for the one with this place; nothing happens where the place is stale.
    pub fn set_served(&mut self, place: Place, served: bool) {
        if let Some(seat) = self.seats.get_mut(place.seat as usize)
            && seat.turn == place.turn
            && let Some(in_line) = &mut seat.taken
        {
            in_line.served = served;
        }
    }

    /// The first in line.
    pub fn head(&self) -> Option<&InLine<W>> {
        self.iter().next()
    }

    /// Everyone, in order.
    pub fn iter(&self) -> impl Iterator<Item = &InLine<W>> {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let seat = self.seats.get(at as usize)?;
            at = seat.next;
            seat.taken.as_ref()
        })
    }

    /// Takes everyone who has waited longer than `timeout` (zero: nobody), in order.
    pub fn expire(&mut self, now: Moment, timeout: Duration, mut gone: impl FnMut(InLine<W>)) {
        if timeout.is_zero() {
            return;
        }
        let mut at = self.head;
        while let Some(seat) = self.seats.get(at as usize) {
            let next = seat.next;
            if seat.taken.as_ref().is_some_and(|in_line| now.since(in_line.since) > timeout)
                && let Some(in_line) = self.unlink(at)
            {
                gone(in_line);
            }
            at = next;
        }
    }

    /// Visits everyone who has waited longer than `delay` (zero: nobody) and was not visited before.
    pub fn notify(&mut self, now: Moment, delay: Duration, mut tell: impl FnMut(&W)) {
        if delay.is_zero() {
            return;
        }
        let mut at = self.head;
        while let Some(seat) = self.seats.get_mut(at as usize) {
            at = seat.next;
            if let Some(in_line) = &mut seat.taken
                && !in_line.notified
                && now.since(in_line.since) > delay
            {
                in_line.notified = true;
                tell(&in_line.waiter);
            }
        }
    }

    fn unlink(&mut self, index: u32) -> Option<InLine<W>> {
        let seat = self.seats.get_mut(index as usize)?;
        let taken = seat.taken.take()?;
        let (previous, next) = (seat.previous, seat.next);
        seat.next = self.free;
        self.free = index;
        match previous {
            NONE => self.head = next,
            previous => self.seats[previous as usize].next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => self.seats[next as usize].previous = previous,
        }
        self.len -= 1;
        Some(taken)
    }
}

impl<W> Default for Line<W> {
    fn default() -> Line<W> {
        Line::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(line: &Line<u32>) -> Vec<u32> {
        line.iter().map(|in_line| in_line.waiter).collect()
    }

    #[test]
    fn a_stale_place_never_touches_the_next_holder_of_the_seat() {
        let mut line = Line::new();
        let first = line.join(1, 0, Moment(0));
        assert_eq!(line.pop().map(|in_line| in_line.waiter), Some(1));
        let second = line.join(2, 0, Moment(0));

        assert_eq!(first.seat, second.seat, "the seat is used again");
        assert!(line.leave(first).is_none());
        assert_eq!(names(&line), [2]);
    }

    #[test]
    fn those_who_waited_too_long_go_in_order_and_the_rest_stay() {
        let mut line = Line::new();
        for (waiter, since) in [(1, 0), (2, 10), (3, 5), (4, 20)] {
            line.join(waiter, 0, Moment(since));
        }
        let mut gone = Vec::new();

        line.expire(Moment(21), Duration::from_micros(11), |in_line| gone.push(in_line.waiter));

        assert_eq!(gone, [1, 3]);
        assert_eq!(names(&line), [2, 4]);
    }

    #[test]
    fn everyone_is_notified_once() {
        let mut line = Line::new();
        line.join(1, 0, Moment(0));
        line.join(2, 0, Moment(50));
        let mut told = Vec::new();

        line.notify(Moment(40), Duration::from_micros(30), |waiter| told.push(*waiter));
        line.notify(Moment(90), Duration::from_micros(30), |waiter| told.push(*waiter));
        line.notify(Moment(990), Duration::ZERO, |waiter| told.push(*waiter));

        assert_eq!(told, [1, 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_behaves_like_a_list(steps in proptest::collection::vec((0u8..3, 0usize..8), 0..200)) {
            let mut line = Line::new();
            let mut model: Vec<(u32, Place)> = Vec::new();
            for (number, (step, pick)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let waiter = number as u32;
                        model.push((waiter, line.join(waiter, 0, Moment(0))));
                    }
                    1 => {
                        let expected = (!model.is_empty()).then(|| model.remove(0).0);
                        prop_assert_eq!(line.pop().map(|in_line| in_line.waiter), expected);
                    }
                    _ if pick < model.len() => {
                        let (waiter, place) = model.remove(pick);
                        prop_assert_eq!(line.leave(place).map(|in_line| in_line.waiter), Some(waiter));
                        prop_assert!(line.leave(place).is_none());
                    }
                    _ => {}
                }
                prop_assert_eq!(names(&line), model.iter().map(|(waiter, _)| *waiter).collect::<Vec<_>>());
                prop_assert_eq!(line.len(), model.len());
            }
        }
    }
}
