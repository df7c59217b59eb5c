//! THE table: one row per setting of `[pgbouncer]`.
//!
//! Pure: the rows, and what the console does with them. To add a setting, add its row here and the code that obeys it;
//! parsing, `SHOW CONFIG`, `SET`, the environment, the reference page and the sample files follow by themselves
//! (`UPDATE_GOLDEN=1 cargo test --lib config::reference` rewrites the pages). Rows are in groups for the reader and in
//! alphabetical order within PgBouncer's group, as `SHOW CONFIG` lists them. `tests/tidy.rs` fails for a row that no
//! code reads.

use super::ldap::LdapOptions;
use super::pam;
use super::table::{Change, Misfit, SettingInfo, settings};
use super::values::{
    Bytes, CheckQuery, Commas, Count, DatabaseName, FileMode, FilePath, Flag, Hidden, Milliseconds, Optional, PeerId,
    Port, Seconds, Text, Whole, WholeSeconds, Words,
};
use super::words::{AuthType, LogFormat, PoolMode, SslMode, SslNegotiation};

settings! {
    /// The settings of `[pgbouncer]`, one field each. Times of zero mean "never" or "off" unless a field says
    /// otherwise.
    pub struct Settings in Process, rows ROWS;

    Pgbouncer {
        /// Users who may run every console command.
        admin_users: Words = "", "users", Reload;
        /// Adds the client's host and port to the application_name it gives when it logs in.
        application_name_add_host: Flag = "0", "", Reload;
        /// The entry of `[databases]` in which auth_query runs; unset, it runs in the database the client asked for.
        auth_dbname: DatabaseName, "", Reload;
        /// The list of users and their secrets, read again at RELOAD.
        auth_file: FilePath, "", Reload;
        /// The records that auth_type hba follows.
        auth_hba_file: FilePath = "", "", Reload;
        /// The maps from certificate or system names to database users.
        auth_ident_file: FilePath, "", Reload;
        /// How auth_type ldap reaches its directory.
        auth_ldap_options: Hidden, "", Reload;
        /// Finds the secret of a user who is not in auth_file, where auth_user is set. $1 is the user's name.
        auth_query: Text = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                            FROM pg_authid WHERE rolname=$1 AND rolcanlogin", "", Reload;
        /// How clients show who they are; pam asks its service pgbouncer.
        auth_type: AuthType = "md5", "", Reload;
        /// The user who runs auth_query.
        auth_user: Optional, "", Reload;
        /// Databases made from the * entry are forgotten after this long without a connection.
        autodb_idle_timeout: Seconds = "3600", "seconds", Reload;
        /// A request to cancel that could not be passed on for this long is dropped. A server that a client has left in
        /// the middle is closed where PostgreSQL has not ended its query for this long. 0 is no limit.
        cancel_wait_timeout: Seconds = "10", "seconds", Reload;
        /// Clients that do nothing outside a transaction for this long are disconnected; 0 is never.
        client_idle_timeout: Seconds = "0", "seconds", Reload;
        /// How long a client may take to log in.
        client_login_timeout: Seconds = "60", "seconds", Reload;
        /// TLS 1.3 cipher suites for clients.
        client_tls13_ciphers: Optional, "", Reload;
        /// The authorities that client certificates must come from.
        client_tls_ca_file: FilePath = "", "", Reload;
        /// The certificate shown to clients.
        client_tls_cert_file: FilePath = "", "", Reload;
        /// Ciphers for clients up to TLS 1.2, in OpenSSL's notation.
        client_tls_ciphers: Text = "default", "", Reload;
        /// Diffie-Hellman parameters for clients: none, auto or legacy.
        client_tls_dheparams: Text = "auto", "", Reload;
        /// The elliptic curve for clients: none, auto or a curve's name.
        client_tls_ecdhcurve: Text = "auto", "", Reload;
        /// The private key of client_tls_cert_file.
        client_tls_key_file: FilePath = "", "", Reload;
        /// TLS versions for clients: tlsv1.0 to tlsv1.3, all or secure.
        client_tls_protocols: Text = "secure", "", Reload;
        /// Whether clients may or must use TLS.
        client_tls_sslmode: SslMode = "disable", "", Reload;
        /// The configuration file the next RELOAD reads.
        conffile: FilePath, "", Reload;
        /// Servers per pair of database and user; 0 is no limit.
        default_pool_size: Count = "20", "servers", Reload;
        /// Refuses the simple Query message, which can carry several statements.
        disable_pqexec: Flag = "0", "", Restart;
        /// How long the addresses of a host in `[databases]` are remembered, whatever its DNS records say.
        dns_max_ttl: Seconds = "15", "seconds", Reload;
        /// How long it is remembered that such a host has no address, or that nobody told.
        dns_nxdomain_ttl: Seconds = "15", "seconds", Reload;
        /// How often the DNS zones of hosts are asked for their serial number; where it changed, their hosts are looked
        /// up again. 0 is never.
        dns_zone_check_period: Seconds = "0", "seconds", Reload;
        /// A client idle inside a transaction for this long is disconnected, its server closed; 0 is never.
        idle_transaction_timeout: Seconds = "0", "seconds", Reload;
        /// Startup parameters to accept from clients and drop. With options in the list, unknown parameters inside it
        /// are dropped too.
        ignore_startup_parameters: Words = "", "parameters", Reload;
        /// The name of this process among others: where it is not the default, and log_format is json, each line has it
        /// as the member job. PgBouncer uses it on Windows only, as the name of the service.
        job_name: Text = "pgbouncer", "", Restart;
        /// Addresses to listen on: names, IP addresses or * for all. Empty for Unix sockets only.
        listen_addr: Commas = "", "addresses", Restart;
        /// How many connections the kernel may keep waiting to be accepted.
        listen_backlog: Count = "128", "connections", Restart;
        /// The TCP port, also the number in the Unix socket's name.
        listen_port: Port = "6432", "", Restart;
        /// Logs each login.
        log_connections: Flag = "1", "", Reload;
        /// Logs each disconnection and its reason.
        log_disconnections: Flag = "1", "", Reload;
        /// Logs the errors sent to clients that do not come from a server.
        log_pooler_errors: Flag = "1", "", Reload;
        /// Logs a line of statistics every stats_period.
        log_stats: Flag = "1", "", Reload;
        /// The log file, opened again at RELOAD; the log also goes to standard error.
        logfile: FilePath = "", "", Reload;
        /// Told to each client as a NOTICE when it has logged in; nothing at all is no notice. Newer than PgBouncer
        /// 1.25.
        login_notify_message: Optional = "", "", Reload;
        /// Clients that may be connected at once, the console's apart.
        max_client_conn: Count = "100", "clients", Reload;
        /// Clients per database; 0 is no limit.
        max_db_client_connections: Count = "0", "clients", Reload;
        /// Servers per database, whoever the users are; 0 is no limit.
        max_db_connections: Count = "0", "servers", Reload;
        /// The longest message let through.
        max_packet_size: Bytes = "2147483647", "bytes", Reload;
        /// Prepared statements kept per server so that they work in transaction and statement mode; 0 turns that off.
        max_prepared_statements: Count = "200", "statements", Reload;
        /// Clients per user, whatever the database; 0 is no limit.
        max_user_client_connections: Count = "0", "clients", Reload;
        /// Servers per user, whatever the database; 0 is no limit.
        max_user_connections: Count = "0", "servers", Reload;
        /// Servers kept open per pool while it has clients or its database names a user.
        min_pool_size: Count = "0", "servers", Reload;
        /// This process's own number among its peers; 0 for none.
        peer_id: PeerId = "0", "", Reload;
        /// Where the process writes its number; needed for -d.
        pidfile: FilePath = "", "", Restart;
        /// The size of a connection's buffer. Buffers are lent while there are bytes, and the small ones have 16 KiB; a
        /// larger pkt_buf makes them larger, up to 1 MiB, and a smaller one changes nothing.
        pkt_buf: Whole<1, 2_147_483_647> = "4096", "bytes", Restart;
        /// A pool without clients and servers is forgotten after this long; 0 is never. Newer than PgBouncer 1.25.
        pool_idle_timeout: Seconds = "0", "seconds", Reload;
        /// When a server goes back to its pool.
        pool_mode: PoolMode = "session", "", Reload;
        /// A query that runs for this long costs its client the connection; 0 is never.
        query_timeout: Seconds = "0", "seconds", Reload;
        /// A client queued for this long is told so with a NOTICE; 0 is never.
        query_wait_notify: WholeSeconds<0> = "5", "seconds", Reload;
        /// A client queued for this long is disconnected; 0 is never.
        query_wait_timeout: Seconds = "120", "seconds", Reload;
        /// Servers a pool may open beyond its size when a client has waited for reserve_pool_timeout; 0 is none.
        reserve_pool_size: Count = "0", "servers", Reload;
        /// How long a client waits before the reserve is used.
        reserve_pool_timeout: Seconds = "5", "seconds", Reload;
        /// A file in place of /etc/resolv.conf. Its name servers may have a port, as in 127.0.0.1:5353.
        resolv_conf: FilePath = "", "", Restart;
        /// Full buffers read from one connection before others get their turn; 0 is no limit.
        sbuf_loopcnt: Count = "5", "buffers", Reload;
        /// Iterations of the SCRAM secrets made from plain ones.
        scram_iterations: Whole<1, 2_147_483_647> = "4096", "iterations", Reload;
        /// A server idle for longer than this is tried with server_check_query before it is used.
        server_check_delay: Seconds = "30", "seconds", Reload;
        /// The query that tries an idle server: `<empty>` is the empty query, and nothing at all is no check.
        server_check_query: CheckQuery = "<empty>", "", Reload;
        /// How long connecting to a server and logging in may take.
        server_connect_timeout: Seconds = "15", "seconds", Reload;
        /// In session mode, a server that is due to close closes at the end of its transaction, not of its session.
        server_fast_close: Flag = "0", "", Reload;
        /// A server idle for this long is closed; 0 is never.
        server_idle_timeout: Seconds = "600", "seconds", Reload;
        /// A server connected for this long is closed when it is next idle; 0 is after one use.
        server_lifetime: Seconds = "3600", "seconds", Reload;
        /// After a failed connection, how long before the next try; meanwhile clients get the same error.
        server_login_retry: Seconds = "15", "seconds", Reload;
        /// Run before a server goes to another client in session mode; nothing at all is no query.
        server_reset_query: Optional = "DISCARD ALL", "", Reload;
        /// Runs server_reset_query in every pool_mode.
        server_reset_query_always: Flag = "0", "", Reload;
        /// Uses a pool's servers in turn, not the most recently used first.
        server_round_robin: Flag = "0", "", Reload;
        /// TLS 1.3 cipher suites for servers.
        server_tls13_ciphers: Optional, "", Reload;
        /// The authorities that server certificates must come from.
        server_tls_ca_file: FilePath = "", "", Reload;
        /// The certificate shown to servers.
        server_tls_cert_file: FilePath = "", "", Reload;
        /// Ciphers for servers up to TLS 1.2, in OpenSSL's notation.
        server_tls_ciphers: Text = "default", "", Reload;
        /// The private key of server_tls_cert_file.
        server_tls_key_file: FilePath = "", "", Reload;
        /// TLS versions for servers: tlsv1.0 to tlsv1.3, all or secure.
        server_tls_protocols: Text = "secure", "", Reload;
        /// Whether servers may or must use TLS.
        server_tls_sslmode: SslMode = "prefer", "", Reload;
        /// Lets several processes listen on one port.
        so_reuseport: Flag = "0", "", Restart;
        /// The period of the averages and of the log's statistics.
        stats_period: WholeSeconds<1> = "60", "seconds", Reload;
        /// Users who may look at the console but change nothing.
        stats_users: Words = "", "users", Reload;
        /// How long SUSPEND waits for buffers to empty before it closes connections.
        suspend_timeout: Seconds = "10", "seconds", Reload;
        /// Sends the log to syslog.
        syslog: Flag = "0", "", Reload;
        /// The facility under which syslog files the log: auth, authpriv, daemon, user, or local0 to local7. Any other
        /// word counts as daemon.
        syslog_facility: Text = "daemon", "", Reload;
        /// The name under which the log goes to syslog.
        syslog_ident: Text = "pgbouncer", "", Reload;
        /// Lets the kernel accept a connection only when its first bytes are there.
        tcp_defer_accept: Flag = "1", "", Reload;
        /// Probes connections that are silent.
        tcp_keepalive: Flag = "1", "", Reload;
        /// Probes without an answer until a connection is given up; 0 is the system's value.
        tcp_keepcnt: Count = "0", "probes", Reload;
        /// Silence before the first probe; 0 is the system's value.
        tcp_keepidle: WholeSeconds<0> = "0", "seconds", Reload;
        /// Time between probes; 0 is the system's value.
        tcp_keepintvl: WholeSeconds<0> = "0", "seconds", Reload;
        /// The kernel's buffer per socket and direction; 0 is the system's value.
        tcp_socket_buffer: Count = "0", "bytes", Reload;
        /// How long sent bytes may go unacknowledged; 0 is the system's value.
        tcp_user_timeout: Milliseconds = "0", "milliseconds", Reload;
        /// Parameters, beyond the usual five, that follow a client from server to server; the server must report them.
        track_extra_parameters: Commas = "IntervalStyle", "parameters", Restart;
        /// A transaction open for this long costs its client the connection; 0 is never.
        transaction_timeout: Seconds = "0", "seconds", Reload;
        /// The directory of the Unix socket; @ in front makes it an abstract one, and nothing at all is no socket.
        unix_socket_dir: Optional = "/tmp", "", Restart;
        /// The group of the Unix socket.
        unix_socket_group: Optional = "", "", Restart;
        /// The permissions of the Unix socket.
        unix_socket_mode: FileMode = "0777", "", Restart;
        /// The system user to become after the start.
        user: Optional, "", Restart;
        /// How much is logged beyond the usual, 0 to 3; as many as -v on the command line.
        verbose: Count, "", Reload;
    }

    Pgweir {
        /// What a client sent before it left is carried out. This is how long its server may take for that, from when
        /// the client has said that it leaves, or is found to be gone; then the query is cancelled. A client that only
        /// sends no more, and still reads, gets all its answers. 0 ends at once what runs, and drops what does not run
        /// yet, as PgBouncer does.
        abandoned_query_timeout: Seconds = "1", "seconds", Reload;
        /// How long a secret that auth_query found is used for further logins; 0 asks at each login, as PgBouncer does,
        /// so that a changed password counts at once. A login that fails makes the next one ask.
        auth_query_lifetime: Seconds = "0", "seconds", Reload;
        /// Cancels what PostgreSQL still does for a client that has left or was sent away, rolls its transaction back,
        /// and keeps the server, which counts against every limit meanwhile. 0 closes the server at once, as PgBouncer
        /// does: PostgreSQL may go on with the query for as long as it takes, next to the servers opened since.
        cancel_abandoned_queries: Flag = "1", "", Reload;
        /// Gives clients SQLSTATE 08P01 for every error that is not a server's, as PgBouncer does, for programs that
        /// match on it. 0 gives each error its own: 28P01 for a wrong password, 53300 for a limit, 57P03 for not now.
        legacy_sqlstate: Flag = "0", "", Reload;
        /// What a line of the log looks like: PgBouncer's lines, or one JSON object each.
        log_format: LogFormat = "pgbouncer", "", Restart;
        /// Logins that one address may try at once before login_rate_limit holds it back.
        login_rate_burst: Count = "20", "logins", Reload;
        /// Logins per second that one address may try, an IPv6 network of 64 bits counting as one; 0 is no limit. The
        /// console and Unix sockets are exempt. Mind clients that share an address, behind NAT or another proxy.
        login_rate_limit: Count = "0", "logins/s", Reload;
        /// How TLS with servers begins: postgres asks first, direct does not, which servers take from PostgreSQL 17 on
        /// and which server_tls_sslmode must demand.
        server_tls_sslnegotiation: SslNegotiation = "postgres", "", Reload;
        /// Shows the counts of logins in SHOW STATS, STATS_TOTALS and STATS_AVERAGES, as PgBouncer's next version does.
        /// 0 leaves them out for readers that know the columns of 1.25 by their number, such as pgbouncer_fdw.
        stats_login_counts: Flag = "1", "", Reload;
        /// Threads that carry connections; 0 is one per core.
        worker_threads: Count = "0", "threads", Restart;
    }
}

/// Every setting of `[pgbouncer]`, in the order of `SHOW CONFIG`.
pub fn table() -> Vec<&'static SettingInfo> {
    let mut rows: Vec<_> = ROWS.iter().collect();
    rows.sort_by_key(|row| row.name);
    rows
}

/// One row of `SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The setting's name.
    pub name: &'static str,
    /// Its value as text; `None` is NULL.
    pub value: Option<String>,
    /// Its default as text; `None` is NULL.
    pub default: Option<&'static str>,
    /// Whether a change takes effect without a restart.
    pub changeable: bool,
}

/// What became of a setting that the console has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetEffect {
    /// It holds from now on.
    Now,
    /// It holds from now on, and nobody can log in; why.
    NobodyIn(String),
    /// Nothing: it is read at the start only.
    NeedsRestart,
    /// Nothing: it names a file that is read at the start and by RELOAD, when the configuration file says which.
    NeedsReload,
    /// It is kept, but with it there is no TLS to be had, for this reason: the old one stays in force.
    TlsAsBefore(String),
}

/// Why the console cannot set a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// There is none of that name.
    Unknown,
    /// The value does not fit; what would, to stand after "expected".
    Unfit(String),
    /// This build does not obey it, and connections would be less safe than it promises.
    NotInThisBuild(&'static str),
}

impl std::fmt::Display for SetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SetError::Unknown => f.write_str("there is no such setting"),
            SetError::Unfit(expected) => write!(f, "expected {expected}"),
            SetError::NotInThisBuild(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SetError {}

impl Settings {
    /// Every setting as `SHOW CONFIG` lists it, in alphabetical order.
    pub fn show(&self) -> Vec<Shown> {
        let mut rows: Vec<Shown> = ROWS.iter().zip(self.texts()).map(|(row, text)| shown(row, text)).collect();
        rows.sort_by_key(|row| row.name);
        rows
    }

    /// Changes one setting while running, as the console's `SET` does. One that is read at the start only stays as it
    /// is, as in PgBouncer, whose `SET` passes over it in silence.
    ///
    /// # Errors
    /// Leaves everything as it was and says why: no such setting, a value that does not fit, or one that this build
    /// must not run with.
    pub fn set(&mut self, name: &str, value: &str) -> Result<SetEffect, SetError> {
        let row = ROWS.iter().find(|row| row.name == name).ok_or(SetError::Unknown)?;
        let mut changed = self.clone();
        changed.assign(name, value).map_err(|misfit| match misfit {
            Misfit::Unknown => SetError::Unknown,
            Misfit::Value(_) => SetError::Unfit((row.expected)()),
        })?;
        if row.change == Change::Restart {
            return Ok(SetEffect::NeedsRestart);
        }
        if let Some((_, why)) = changed.unsafe_to_run() {
            return Err(SetError::NotInThisBuild(why));
        }
        *self = changed;
        if matches!(name, "auth_file" | "auth_hba_file" | "auth_ident_file") {
            return Ok(SetEffect::NeedsReload);
        }
        let why = if name.starts_with("auth_") { self.keeps_all_out() } else { None };
        Ok(why.map_or(SetEffect::Now, SetEffect::NobodyIn))
    }

    /// Why nobody can log in with this auth_type, whatever a client does; the text begins with the name of a setting.
    fn keeps_all_out(&self) -> Option<String> {
        match self.auth_type {
            AuthType::Cert => self.lacks_for_cert().map(str::to_owned),
            AuthType::Ldap => self.lacks_for_ldap(),
            _ => None,
        }
    }

    /// What auth_type cert lacks: it is a matter of TLS.
    pub fn lacks_for_cert(&self) -> Option<&'static str> {
        if self.auth_type != AuthType::Cert {
            None
        } else if self.client_tls_sslmode != SslMode::VerifyFull {
            Some("auth_type=cert requires client_tls_sslmode=verify-full")
        } else if self.client_tls_ca_file.is_none() {
            Some("auth_type=cert requires client_tls_ca_file")
        } else {
            None
        }
    }

    /// What is wrong with the options of auth_type ldap.
    pub(super) fn lacks_for_ldap(&self) -> Option<String> {
        if self.auth_type != AuthType::Ldap {
            return None;
        }
        let Some(options) = &self.auth_ldap_options else {
            return Some("auth_ldap_options is not set, but auth_type is ldap".to_owned());
        };
        LdapOptions::parse(options.reveal()).err().map(|why| format!("auth_ldap_options: {why}"))
    }

    /// The setting this build must not run with, since connections would be less safe than it promises; and why.
    pub(super) fn unsafe_to_run(&self) -> Option<(&'static str, &'static str)> {
        (self.auth_type == AuthType::Pam && !pam::BUILT_IN).then_some(("auth_type", pam::NOT_BUILT_IN))
    }
}

fn shown(row: &'static SettingInfo, text: Option<String>) -> Shown {
    // Nothing set reads as NULL only where the default is NULL too, as in PgBouncer.
    let value = text.or_else(|| row.default.map(|_| String::new()));
    Shown { name: row.name, value, default: row.default, changeable: row.change == Change::Reload }
}

#[cfg(test)]
mod tests;
