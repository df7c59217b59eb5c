//! The tables of SHOW.
//!
//! Each has its columns and a function that fills its rows from the [`Context`] (but for [`fds`], whose rows the
//! connections themselves make): [`sockets`] has clients and servers, [`pools`] pools, databases and users, [`stats`]
//! counters and averages, [`process`] settings, version and the like. Names, order and types of columns are PgBouncer
//! 1.25's (and the login counts of its next version): exporters depend on them, so a test freezes them.

pub mod fds;
pub mod pools;
pub mod process;
pub mod sockets;
pub mod stats;

use super::Context;
use super::table::{Column, Table};
use crate::stats::moment::Moment;

/// What SHOW can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are PgBouncer's; the tour above says where each is")]
pub enum Show {
    ActiveSockets,
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Fds,
    Help,
    Lists,
    Mem,
    PeerPools,
    Peers,
    Pools,
    Servers,
    Sockets,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    /// STATS with `stats_login_counts` off; so for the others.
    Stats125,
    StatsAverages125,
    StatsTotals125,
    Totals,
    Users,
    Version,
}

/// Each with the word that asks for it.
pub const NAMES: [(&str, Show); 22] = [
    ("active_sockets", Show::ActiveSockets),
    ("clients", Show::Clients),
    ("config", Show::Config),
    ("databases", Show::Databases),
    ("dns_hosts", Show::DnsHosts),
    ("dns_zones", Show::DnsZones),
    ("fds", Show::Fds),
    ("help", Show::Help),
    ("lists", Show::Lists),
    ("mem", Show::Mem),
    ("peer_pools", Show::PeerPools),
    ("peers", Show::Peers),
    ("pools", Show::Pools),
    ("servers", Show::Servers),
    ("sockets", Show::Sockets),
    ("state", Show::State),
    ("stats", Show::Stats),
    ("stats_averages", Show::StatsAverages),
    ("stats_totals", Show::StatsTotals),
    ("totals", Show::Totals),
    ("users", Show::Users),
    ("version", Show::Version),
];

impl Show {
    /// The table that this word asks for, in any case of letters.
    pub fn from_name(name: &str) -> Option<Show> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, show)| *show)
    }

    /// The table shown for it under this setting of `stats_login_counts`.
    #[must_use]
    pub fn with_login_counts(self, shown: bool) -> Show {
        match self {
            _ if shown => self,
            Show::Stats => Show::Stats125,
            Show::StatsAverages => Show::StatsAverages125,
            Show::StatsTotals => Show::StatsTotals125,
            _ => self,
        }
    }

    /// Its columns; `None` where it is not a table (HELP is a notice).
    pub fn columns(self) -> Option<&'static [Column]> {
        Some(match self {
            Show::Help => return None,
            Show::Fds => &fds::FDS,
            Show::Clients | Show::Servers => &sockets::COLUMNS,
            Show::Sockets | Show::ActiveSockets => &sockets::COLUMNS_WITH_BUFFERS,
            Show::Databases => &pools::DATABASES,
            Show::Peers => &pools::PEERS,
            Show::PeerPools => &pools::PEER_POOLS,
            Show::Pools => &pools::POOLS,
            Show::Users => &pools::USERS,
            Show::Lists => &pools::LISTS,
            Show::Stats => &stats::STATS,
            Show::StatsAverages => &stats::STATS_AVERAGES,
            Show::StatsTotals => &stats::STATS_TOTALS,
            Show::Stats125 => &stats::STATS_125,
            Show::StatsAverages125 => &stats::STATS_AVERAGES_125,
            Show::StatsTotals125 => &stats::STATS_TOTALS_125,
            Show::Totals => &stats::TOTALS,
            Show::Config => &process::CONFIG,
            Show::DnsHosts => &process::DNS_HOSTS,
            Show::DnsZones => &process::DNS_ZONES,
            Show::Mem => &process::MEM,
            Show::State => &process::STATE,
            Show::Version => &process::VERSION,
        })
    }

    /// Its columns and present rows; `None` where it is not a table, or its rows are not to be had at once (FDS).
    pub fn table(self, context: &Context, now: Moment) -> Option<Table> {
        let mut table = Table::new(self.columns()?);
        match self {
            Show::Fds | Show::Help => return None,
            Show::Clients => sockets::clients(&mut table, context, now),
            Show::Servers => sockets::servers(&mut table, context),
            Show::Sockets => sockets::sockets(&mut table, context, now, sockets::Which::All),
            Show::ActiveSockets => sockets::sockets(&mut table, context, now, sockets::Which::Active),
            Show::Databases => pools::databases(&mut table, context),
            Show::Peers => pools::peers(&mut table, context),
            Show::PeerPools => pools::peer_pools(&mut table, context),
            Show::Pools => pools::pools(&mut table, context, now),
            Show::Users => pools::users(&mut table, context),
            Show::Lists => pools::lists(&mut table, context, now),
            Show::Stats | Show::Stats125 => stats::stats(&mut table, context, now),
            Show::StatsAverages | Show::StatsAverages125 => stats::stats_averages(&mut table, context, now),
            Show::StatsTotals | Show::StatsTotals125 => stats::stats_totals(&mut table, context),
            Show::Totals => stats::totals(&mut table, context, now),
            Show::Config => process::config(&mut table, context),
            Show::Mem => process::mem(&mut table, context, now),
            Show::State => process::state(&mut table, context),
            Show::Version => process::version(&mut table),
            Show::DnsHosts => process::dns_hosts(&mut table, context),
            Show::DnsZones => process::dns_zones(&mut table, context),
        }
        Some(table)
    }
}
