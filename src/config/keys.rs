//! The keys of `[databases]`, `[users]` and `[peers]`, one row each.
//!
//! Pure: the same macro and the same rows as `[pgbouncer]`. What they share is that a key may be left out, and then the
//! setting of the whole process holds. PgBouncer reads the numbers here in decimal only (`atoi`), and takes a time of 0
//! and a count of -1 for "left out"; so do these kinds.

use std::time::Duration;

use super::table::settings;
use super::values::{Commas, Hidden, Kind, List, Optional, Seconds};
use super::words::{LoadBalanceHosts, PoolMode, Word};

settings! {
    /// What an entry of `[databases]` says, key by key.
    pub(super) struct DatabaseKeys in Database, rows DATABASE_ROWS;

    Pgbouncer {
        /// The database's name on the server. If unset, it is the name that clients use.
        dbname: Optional, "", Reload;
        /// Hosts, separated by commas: names, IP addresses, or directories of Unix sockets (@ for abstract sockets). If
        /// unset, the Unix socket in unix_socket_dir.
        host: Hosts, "", Reload;
        /// One port for all hosts, or one port per host, separated by commas.
        port: Ports = "5432", "", Reload;
        /// The user that all server connections log in as, for every client. Such a database has one pool.
        user: Optional, "", Reload;
        /// The password of that user, if auth_file has none.
        password: Hidden, "", Reload;
        /// Overrides auth_user.
        auth_user: Optional, "", Reload;
        /// Overrides auth_query.
        auth_query: Optional, "", Reload;
        /// Overrides auth_dbname.
        auth_dbname: Optional, "", Reload;
        /// Overrides default_pool_size.
        pool_size: OptionalCount, "servers", Reload;
        /// Overrides min_pool_size.
        min_pool_size: OptionalCount, "servers", Reload;
        /// Overrides reserve_pool_size. reserve_pool is an old name of this key.
        reserve_pool_size: OptionalCount, "servers", Reload;
        /// Overrides pool_mode.
        pool_mode: OptionalWord<PoolMode>, "", Reload;
        /// Overrides max_db_connections.
        max_db_connections: OptionalCount, "servers", Reload;
        /// Overrides max_db_client_connections.
        max_db_client_connections: OptionalCount, "clients", Reload;
        /// Overrides server_lifetime. 0 means unset.
        server_lifetime: OptionalSeconds, "seconds", Reload;
        /// Overrides query_wait_timeout. 0 means unset. Newer than PgBouncer 1.25.
        query_wait_timeout: OptionalSeconds, "seconds", Reload;
        /// Which of several hosts a new server connection uses.
        load_balance_hosts: LoadBalanceHosts = "round-robin", "", Reload;
        /// The query that runs on each new server connection before its first client. An error in it is only logged.
        connect_query: Optional, "", Reload;
        /// The client_encoding that server connections start with.
        client_encoding: Optional, "", Reload;
        /// The DateStyle that server connections start with.
        datestyle: Optional, "", Reload;
        /// The TimeZone that server connections start with.
        timezone: Optional, "", Reload;
        /// The application_name that server connections start with.
        application_name: Optional, "", Reload;
    }
}

settings! {
    /// What an entry of `[users]` says: limits and timeouts of one user. What is `None` is as for everyone.
    pub struct UserRules in User, rows USER_ROWS;

    Pgbouncer {
        /// Overrides the database's pool_size and default_pool_size.
        pool_size: OptionalCount, "servers", Reload;
        /// Overrides reserve_pool_size, the database's too.
        reserve_pool_size: OptionalCount, "servers", Reload;
        /// Overrides pool_mode, the database's too.
        pool_mode: OptionalWord<PoolMode>, "", Reload;
        /// Overrides max_user_connections.
        max_user_connections: OptionalCount, "servers", Reload;
        /// Overrides max_user_client_connections.
        max_user_client_connections: OptionalCount, "clients", Reload;
        /// Overrides query_timeout. 0 means unset.
        query_timeout: OptionalSeconds, "seconds", Reload;
        /// Overrides query_wait_timeout, the database's too. 0 means unset. Newer than PgBouncer 1.25.
        query_wait_timeout: OptionalSeconds, "seconds", Reload;
        /// Overrides idle_transaction_timeout. 0 means unset.
        idle_transaction_timeout: OptionalSeconds, "seconds", Reload;
        /// Overrides transaction_timeout. 0 means unset.
        transaction_timeout: OptionalSeconds, "seconds", Reload;
        /// Overrides client_idle_timeout. 0 means unset.
        client_idle_timeout: OptionalSeconds, "seconds", Reload;
    }
}

settings! {
    /// What an entry of `[peers]` says, key by key.
    pub(super) struct PeerKeys in Peer, rows PEER_ROWS;

    Pgbouncer {
        /// The address of the peer: a name, an IP address or the directory of its Unix socket.
        host: Optional, "", Reload;
        /// The port of the peer.
        port: Ports = "6432", "", Reload;
        /// How many cancel requests may be sent to the peer at the same time. Overrides default_pool_size.
        pool_size: OptionalCount, "requests", Reload;
    }
}

/// Old names of keys that are still accepted in `[databases]`.
pub(super) fn current_name(key: &str) -> &str {
    if key == "reserve_pool" { "reserve_pool_size" } else { key }
}

/// One host or several.
#[derive(Debug)]
pub struct Hosts;

impl Kind for Hosts {
    type Value = List;
    const NAME: &'static str = "list";

    fn expected() -> String {
        "hosts separated by commas, none of them empty".into()
    }

    fn parse(text: &str) -> Option<List> {
        let complete = text.split(',').all(|host| !host.trim().is_empty());
        Commas::parse(text).filter(|_| complete)
    }

    fn print(value: &List) -> Option<String> {
        Commas::print(value)
    }
}

/// One port or several.
#[derive(Debug)]
pub struct Ports;

impl Kind for Ports {
    type Value = Vec<u16>;
    const NAME: &'static str = "port";

    fn expected() -> String {
        "a port from 1 to 65535, or several separated by commas".into()
    }

    fn parse(text: &str) -> Option<Vec<u16>> {
        text.split(',').map(|port| u16::try_from(decimal(port.trim())?).ok().filter(|port| *port > 0)).collect()
    }

    fn print(value: &Vec<u16>) -> Option<String> {
        Some(value.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
    }
}

/// A count that may be left out; -1 leaves it out.
#[derive(Debug)]
pub struct OptionalCount;

impl Kind for OptionalCount {
    type Value = Option<u32>;
    const NAME: &'static str = "number";

    fn expected() -> String {
        format!("a whole number from 0 to {}", i32::MAX)
    }

    fn parse(text: &str) -> Option<Option<u32>> {
        match decimal(text)? {
            -1 => Some(None),
            number => u32::try_from(number).ok().map(Some),
        }
    }

    fn print(value: &Option<u32>) -> Option<String> {
        value.map(|number| number.to_string())
    }
}

/// A time that may be left out; 0 leaves it out.
#[derive(Debug)]
pub struct OptionalSeconds;

impl Kind for OptionalSeconds {
    type Value = Option<Duration>;
    const NAME: &'static str = Seconds::NAME;

    fn expected() -> String {
        Seconds::expected()
    }

    fn parse(text: &str) -> Option<Option<Duration>> {
        Seconds::parse(text).map(|time| Some(time).filter(|time| !time.is_zero()))
    }

    fn print(value: &Option<Duration>) -> Option<String> {
        value.as_ref().and_then(Seconds::print)
    }
}

/// A word that may be left out.
#[derive(Debug)]
pub struct OptionalWord<T>(std::marker::PhantomData<T>);

impl<T: Word> Kind for OptionalWord<T> {
    type Value = Option<T>;
    const NAME: &'static str = T::NAME;

    fn expected() -> String {
        T::expected()
    }

    fn parse(text: &str) -> Option<Option<T>> {
        T::parse(text).map(Some)
    }

    fn print(value: &Option<T>) -> Option<String> {
        value.as_ref().and_then(T::print)
    }
}

/// A whole number as C's `atoi` reads it, but refusing what is not a number or does not fit a C `int`.
fn decimal(text: &str) -> Option<i32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_databases_are_decimal_and_minus_one_is_left_out() {
        assert_eq!(OptionalCount::parse("010"), Some(Some(10)));
        assert_eq!(OptionalCount::parse("0"), Some(Some(0)));
        assert_eq!(OptionalCount::parse("-1"), Some(None));
        assert_eq!(OptionalCount::parse("-2"), None);
        assert_eq!(OptionalCount::parse("0x10"), None);
        assert_eq!(OptionalCount::parse("3x"), None);
    }

    #[test]
    fn a_time_of_zero_is_left_out() {
        assert_eq!(OptionalSeconds::parse("0"), Some(None));
        assert_eq!(OptionalSeconds::parse("1.5"), Some(Some(Duration::from_millis(1500))));
        assert_eq!(OptionalSeconds::parse("-1"), None);
    }

    #[test]
    fn no_host_of_a_list_is_empty() {
        assert_eq!(Hosts::parse("a, b").as_deref(), Some(["a".to_string(), "b".to_string()].as_slice()));
        for refused in ["", ",", "a,", "a,,b"] {
            assert_eq!(Hosts::parse(refused), None, "{refused}");
        }
    }

    #[test]
    fn ports_come_in_lists_and_are_never_zero() {
        assert_eq!(Ports::parse("5432, 6543"), Some(vec![5432, 6543]));
        assert_eq!(Ports::print(&vec![5432, 6543]).as_deref(), Some("5432,6543"));
        for refused in ["0", "", "5432,", "65536", "-1", "pg"] {
            assert_eq!(Ports::parse(refused), None, "{refused}");
        }
    }
}
