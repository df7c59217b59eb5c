//! Two snapshots of the counters and a period: the `avg_` columns of SHOW STATS and the `stats:` line of the log.
//!
//! Every `stats_period` the janitor calls [`Averages::roll`] with the totals of each database; the snapshot before the
//! last one is what averages count from, so an average covers between one and two periods and never only an instant.
//! No clock is read here: `now` is an argument. PgBouncer: `stats.c`, whose divisions [`average`] follows; a new
//! database counts from zero there as here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::counters::Totals;
use super::moment::Moment;

/// Totals by database.
pub type TotalsByDatabase = BTreeMap<Arc<str>, Totals>;

/// The snapshots that averages count from.
#[derive(Debug)]
pub struct Averages {
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    older_at: Moment,
    older: TotalsByDatabase,
    newer_at: Moment,
    newer: TotalsByDatabase,
}

impl Averages {
    /// No snapshots yet; the process started at `start`.
    ///
    /// Until the first roll, averages count from the start and one second more, so that the first query of a process is
    /// not shown as thousands per second.
    pub fn new(start: Moment) -> Averages {
        Averages {
            history: Mutex::new(History {
                older_at: start,
                older: BTreeMap::new(),
                newer_at: start,
                newer: BTreeMap::new(),
            }),
        }
    }

    /// A `stats_period` has passed: takes a snapshot, and gives the averages of that period over all databases.
    pub fn roll(&self, now: Moment, totals: TotalsByDatabase) -> Totals {
        let mut history = self.lock();
        history.older_at = history.newer_at;
        history.newer_at = now;
        let last = std::mem::replace(&mut history.newer, totals);
        history.older = last;
        average(&sum(&history.newer), &sum(&history.older), now.micros_since(history.older_at))
    }

    /// The averages of one database whose counters stand at `current`.
    pub fn of_database(&self, database: &str, current: &Totals, now: Moment) -> Totals {
        let history = self.lock();
        let older = history.older.get(database).copied().unwrap_or_default();
        average(current, &older, history.elapsed_us(now))
    }

    /// The averages over all databases whose counters add up to `current`.
    pub fn of_all(&self, current: &Totals, now: Moment) -> Totals {
        let history = self.lock();
        average(current, &sum(&history.older), history.elapsed_us(now))
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn elapsed_us(&self, now: Moment) -> u64 {
        let head_start_us = if self.older_at == self.newer_at { SECOND_US } else { 0 };
        now.micros_since(self.older_at) + head_start_us
    }
}

/// The sum over all databases.
pub fn sum(totals: &TotalsByDatabase) -> Totals {
    totals.values().fold(Totals::default(), |mut sum, totals| {
        sum += *totals;
        sum
    })
}

/// Averages between two snapshots: counts and bytes per second; times in microseconds per transaction, per query and,
/// for waiting, per server assignment.
///
/// All zero where no time passed. A counter that went back (its pool is gone) counts as unchanged.
pub fn average(current: &Totals, older: &Totals, elapsed_us: u64) -> Totals {
    if elapsed_us == 0 {
        return Totals::default();
    }
    let per_second = |field: fn(&Totals) -> u64| {
        let events = u128::from(field(current).saturating_sub(field(older)));
        u64::try_from(events * u128::from(SECOND_US) / u128::from(elapsed_us)).unwrap_or(u64::MAX)
    };
    let per_event = |time: fn(&Totals) -> u64, count: fn(&Totals) -> u64| {
        let events = count(current).saturating_sub(count(older));
        time(current).saturating_sub(time(older)).checked_div(events).unwrap_or(0)
    };
    Totals {
        server_assignment_count: per_second(|t| t.server_assignment_count),
        xact_count: per_second(|t| t.xact_count),
        query_count: per_second(|t| t.query_count),
        bytes_received: per_second(|t| t.bytes_received),
        bytes_sent: per_second(|t| t.bytes_sent),
        xact_time: per_event(|t| t.xact_time, |t| t.xact_count),
        query_time: per_event(|t| t.query_time, |t| t.query_count),
        wait_time: per_event(|t| t.wait_time, |t| t.server_assignment_count),
        client_parse_count: per_second(|t| t.client_parse_count),
        server_parse_count: per_second(|t| t.server_parse_count),
        bind_count: per_second(|t| t.bind_count),
        client_login_count: per_second(|t| t.client_login_count),
    }
}

/// The log's line for one period, as alerting on PgBouncer's log expects it.
pub fn log_line(averages: &Totals) -> String {
    let a = averages;
    format!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, {} client logins/s, \
         in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
        a.xact_count,
        a.query_count,
        a.client_parse_count,
        a.server_parse_count,
        a.bind_count,
        a.client_login_count,
        a.bytes_received,
        a.bytes_sent,
        a.xact_time,
        a.query_time,
        a.wait_time
    )
}

const SECOND_US: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(queries: u64, time_us: u64) -> Totals {
        Totals {
            xact_count: queries,
            query_count: queries,
            server_assignment_count: queries,
            query_time: time_us,
            xact_time: 2 * time_us,
            wait_time: time_us / 10,
            bytes_received: 100 * queries,
            ..Totals::default()
        }
    }

    fn one(database: &str, totals: Totals) -> TotalsByDatabase {
        BTreeMap::from([(Arc::from(database), totals)])
    }

    const MINUTE: u64 = 60 * SECOND_US;

    #[test]
    fn counts_are_per_second_and_times_per_event() {
        let average = average(&totals(300, 90_000), &totals(100, 30_000), 2 * SECOND_US);

        assert_eq!(average.query_count, 100);
        assert_eq!(average.bytes_received, 10_000);
        assert_eq!(average.query_time, 60_000 / 200);
        assert_eq!(average.xact_time, 120_000 / 200);
        assert_eq!(average.wait_time, 6_000 / 200);
    }

    #[test]
    fn no_time_and_no_events_give_zero() {
        assert_eq!(average(&totals(10, 10), &totals(0, 0), 0), Totals::default());
        assert_eq!(average(&totals(10, 10), &totals(10, 10), SECOND_US), Totals::default());
        let time_without_events = average(&totals(10, 500), &totals(10, 10), SECOND_US);
        assert_eq!(time_without_events.query_time, 0);
    }

    #[test]
    fn counters_that_went_back_count_as_unchanged() {
        assert_eq!(average(&totals(1, 1), &totals(10, 1000), SECOND_US), Totals::default());
    }

    #[test]
    fn huge_byte_counts_do_not_overflow() {
        let current = Totals { bytes_sent: u64::MAX, ..Totals::default() };

        assert_eq!(average(&current, &Totals::default(), SECOND_US).bytes_sent, u64::MAX);
        assert_eq!(average(&current, &Totals::default(), 1).bytes_sent, u64::MAX);
    }

    #[test]
    fn before_the_first_roll_averages_count_from_the_start() {
        let averages = Averages::new(Moment(1));

        let average = averages.of_database("a", &totals(100, 0), Moment(1 + 9 * SECOND_US));

        assert_eq!(average.query_count, 10, "nine seconds and one more");
    }

    #[test]
    fn averages_count_from_the_snapshot_before_the_last() {
        let averages = Averages::new(Moment(0));
        averages.roll(Moment(MINUTE), one("a", totals(600, 0)));
        averages.roll(Moment(2 * MINUTE), one("a", totals(1200, 0)));

        let half_a_period_later = Moment(2 * MINUTE + MINUTE / 2);
        let average = averages.of_database("a", &totals(1200 + 300, 0), half_a_period_later);

        assert_eq!(average.query_count, 900 / 90);
        assert_eq!(averages.of_all(&totals(1500, 0), half_a_period_later), average);
    }

    #[test]
    fn a_roll_gives_the_averages_of_the_last_period() {
        let averages = Averages::new(Moment(0));
        averages.roll(Moment(MINUTE), one("a", totals(600, 0)));

        let mut both = one("a", totals(1200, 0));
        both.extend(one("b", totals(600, 0)));
        let average = averages.roll(Moment(2 * MINUTE), both);

        assert_eq!(average.query_count, 20);
    }

    #[test]
    fn a_new_database_counts_from_zero() {
        let averages = Averages::new(Moment(0));
        averages.roll(Moment(MINUTE), one("a", totals(600, 0)));
        averages.roll(Moment(2 * MINUTE), one("a", totals(600, 0)));

        assert_eq!(averages.of_database("b", &totals(120, 0), Moment(3 * MINUTE)).query_count, 1);
    }

    #[test]
    fn the_log_line_keeps_its_wording() {
        let line = log_line(&Totals {
            xact_count: 1,
            query_count: 2,
            client_parse_count: 3,
            server_parse_count: 4,
            bind_count: 5,
            client_login_count: 6,
            bytes_received: 7,
            bytes_sent: 8,
            xact_time: 9,
            query_time: 10,
            wait_time: 11,
            ..Totals::default()
        });

        assert_eq!(
            line,
            "stats: 1 xacts/s, 2 queries/s, 3 client parses/s, 4 server parses/s, 5 binds/s, 6 client logins/s, \
             in 7 B/s, out 8 B/s, xact 9 us, query 10 us, wait 11 us"
        );
    }
}
