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
        /// Users who may run every command on the console.
        admin_users: Words = "", "users", Reload;
        /// Adds the client's host and port to the application_name that the client sends at login.
        application_name_add_host: Flag = "0", "", Reload;
        /// The entry of `[databases]` in which auth_query runs. If unset, auth_query runs in the database that the
        /// client asked for.
        auth_dbname: DatabaseName, "", Reload;
        /// The file with the users and their secrets. RELOAD reads it again.
        auth_file: FilePath, "", Reload;
        /// The file with the HBA records for auth_type hba.
        auth_hba_file: FilePath = "", "", Reload;
        /// The file with the user name maps: from names of certificates or system users to database users.
        auth_ident_file: FilePath, "", Reload;
        /// How auth_type ldap connects to the LDAP server.
        auth_ldap_options: Hidden, "", Reload;
        /// The query that finds the secret of a user who is not in auth_file. It needs auth_user. $1 is the user's
        /// name.
        auth_query: Text = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END \
                            FROM pg_authid WHERE rolname=$1 AND rolcanlogin", "", Reload;
        /// How clients authenticate. pam uses the PAM service pgbouncer.
        auth_type: AuthType = "md5", "", Reload;
        /// The user who runs auth_query.
        auth_user: Optional, "", Reload;
        /// A database made from the * entry is removed after this long without a connection.
        autodb_idle_timeout: Seconds = "3600", "seconds", Reload;
        /// A cancel request that cannot be forwarded for this long is dropped. A server whose client has left in the
        /// middle is closed if PostgreSQL does not end the query within this time. 0 means no limit.
        cancel_wait_timeout: Seconds = "10", "seconds", Reload;
        /// A client that is idle outside a transaction for this long is disconnected. 0 disables this.
        client_idle_timeout: Seconds = "0", "seconds", Reload;
        /// How long a client may take to log in.
        client_login_timeout: Seconds = "60", "seconds", Reload;
        /// TLS 1.3 cipher suites for clients.
        client_tls13_ciphers: Optional, "", Reload;
        /// The certificate authorities that client certificates are checked against.
        client_tls_ca_file: FilePath = "", "", Reload;
        /// The certificate for connections from clients.
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
        /// The configuration file that the next RELOAD reads.
        conffile: FilePath, "", Reload;
        /// Server connections per pair of database and user. 0 means no limit.
        default_pool_size: Count = "20", "servers", Reload;
        /// Rejects the simple Query message, which can contain several statements.
        disable_pqexec: Flag = "0", "", Restart;
        /// How long the addresses of a host in `[databases]` are cached, whatever TTL its DNS records have.
        dns_max_ttl: Seconds = "15", "seconds", Reload;
        /// How long a failed look-up of such a host is cached: the host has no address, or the name server gave no
        /// answer.
        dns_nxdomain_ttl: Seconds = "15", "seconds", Reload;
        /// How often the serial numbers of the hosts' DNS zones are checked. If a serial number has changed, the hosts
        /// in that zone are looked up again. 0 disables this.
        dns_zone_check_period: Seconds = "0", "seconds", Reload;
        /// A client that is idle inside a transaction for this long is disconnected, and its server connection is
        /// closed. 0 disables this.
        idle_transaction_timeout: Seconds = "0", "seconds", Reload;
        /// Startup parameters that are accepted from clients and ignored. If options is in the list, unknown parameters
        /// inside options are ignored too.
        ignore_startup_parameters: Words = "", "parameters", Reload;
        /// The name of this process. If it is not the default and log_format is json, each log line has it as the
        /// member job. PgBouncer uses job_name on Windows only, as the name of the service.
        job_name: Text = "pgbouncer", "", Restart;
        /// Addresses to listen on: names, IP addresses, or * for all. Empty means Unix sockets only.
        listen_addr: Commas = "", "addresses", Restart;
        /// How many connections the kernel queues until they are accepted.
        listen_backlog: Count = "128", "connections", Restart;
        /// The TCP port. It is also the number in the Unix socket's name.
        listen_port: Port = "6432", "", Restart;
        /// Logs each login.
        log_connections: Flag = "1", "", Reload;
        /// Logs each disconnection and its reason.
        log_disconnections: Flag = "1", "", Reload;
        /// Logs the errors that clients get from the pooler, not from a server.
        log_pooler_errors: Flag = "1", "", Reload;
        /// Logs a line of statistics every stats_period.
        log_stats: Flag = "1", "", Reload;
        /// The log file. RELOAD opens it again. The log also goes to standard error.
        logfile: FilePath = "", "", Reload;
        /// A NOTICE that each client gets when it has logged in. Empty means no NOTICE. Newer than PgBouncer 1.25.
        login_notify_message: Optional = "", "", Reload;
        /// Client connections at the same time. Console connections do not count.
        max_client_conn: Count = "100", "clients", Reload;
        /// Client connections per database. 0 means no limit.
        max_db_client_connections: Count = "0", "clients", Reload;
        /// Server connections per database, for all users together. 0 means no limit.
        max_db_connections: Count = "0", "servers", Reload;
        /// The longest PostgreSQL message that may pass through.
        max_packet_size: Bytes = "2147483647", "bytes", Reload;
        /// Prepared statements kept per server connection, so that they work in transaction and statement mode. 0
        /// disables this.
        max_prepared_statements: Count = "200", "statements", Reload;
        /// Client connections per user, for all databases together. 0 means no limit.
        max_user_client_connections: Count = "0", "clients", Reload;
        /// Server connections per user, for all databases together. 0 means no limit.
        max_user_connections: Count = "0", "servers", Reload;
        /// Server connections that are kept open per pool while the pool has clients or its database entry names a
        /// user.
        min_pool_size: Count = "0", "servers", Reload;
        /// The number of this process among its peers. 0 means none.
        peer_id: PeerId = "0", "", Reload;
        /// The file that holds the process ID. -d needs it.
        pidfile: FilePath = "", "", Restart;
        /// The size of a connection's buffer. A connection has a buffer only while it holds bytes. The small buffers
        /// have 16 KiB. A larger pkt_buf makes them larger, up to 1 MiB. A smaller one has no effect.
        pkt_buf: Whole<1, 2_147_483_647> = "4096", "bytes", Restart;
        /// A pool without client and server connections is removed after this long. 0 disables this. Newer than
        /// PgBouncer 1.25.
        pool_idle_timeout: Seconds = "0", "seconds", Reload;
        /// When a server connection goes back to its pool: at the end of the session, the transaction or the statement.
        pool_mode: PoolMode = "session", "", Reload;
        /// A client whose query runs for this long is disconnected. 0 disables this.
        query_timeout: Seconds = "0", "seconds", Reload;
        /// A client that waits for a server connection for this long gets a NOTICE. 0 disables this.
        query_wait_notify: WholeSeconds<0> = "5", "seconds", Reload;
        /// A client that waits for a server connection for this long is disconnected. 0 disables this.
        query_wait_timeout: Seconds = "120", "seconds", Reload;
        /// Server connections that a pool may open beyond its size when a client has waited for reserve_pool_timeout. 0
        /// disables this.
        reserve_pool_size: Count = "0", "servers", Reload;
        /// How long a client waits before the pool uses the reserve.
        reserve_pool_timeout: Seconds = "5", "seconds", Reload;
        /// A file to read instead of /etc/resolv.conf. Its name servers may have a port, as in 127.0.0.1:5353.
        resolv_conf: FilePath = "", "", Restart;
        /// How many full buffers are read from one connection before the other connections are served. 0 means no
        /// limit.
        sbuf_loopcnt: Count = "5", "buffers", Reload;
        /// Iterations of the SCRAM secrets that are made from plain passwords.
        scram_iterations: Whole<1, 1_000_000> = "4096", "iterations", Reload;
        /// A server connection that was idle for longer than this is checked with server_check_query before it is used.
        server_check_delay: Seconds = "30", "seconds", Reload;
        /// The query that checks an idle server connection. `<empty>` is the empty query. No value at all means no
        /// check.
        server_check_query: CheckQuery = "<empty>", "", Reload;
        /// How long connecting to a server and logging in may take.
        server_connect_timeout: Seconds = "15", "seconds", Reload;
        /// In session mode, a server connection that is due to close closes at the end of the transaction, not of the
        /// session.
        server_fast_close: Flag = "0", "", Reload;
        /// A server connection that is idle for this long is closed. 0 disables this.
        server_idle_timeout: Seconds = "600", "seconds", Reload;
        /// A server connection that has existed for this long is closed when it is next idle. 0 closes it after one
        /// use.
        server_lifetime: Seconds = "3600", "seconds", Reload;
        /// How long to wait after a failed connection before the next attempt. Meanwhile clients get the same error.
        server_login_retry: Seconds = "15", "seconds", Reload;
        /// The query that runs before a server connection goes to another client in session mode. Empty means no query.
        server_reset_query: Optional = "DISCARD ALL", "", Reload;
        /// Runs server_reset_query in every pool_mode.
        server_reset_query_always: Flag = "0", "", Reload;
        /// Uses the server connections of a pool in turn, not the most recently used one first.
        server_round_robin: Flag = "0", "", Reload;
        /// TLS 1.3 cipher suites for servers.
        server_tls13_ciphers: Optional, "", Reload;
        /// The certificate authorities that server certificates are checked against.
        server_tls_ca_file: FilePath = "", "", Reload;
        /// The client certificate for connections to servers.
        server_tls_cert_file: FilePath = "", "", Reload;
        /// Ciphers for servers up to TLS 1.2, in OpenSSL's notation.
        server_tls_ciphers: Text = "default", "", Reload;
        /// The private key of server_tls_cert_file.
        server_tls_key_file: FilePath = "", "", Reload;
        /// TLS versions for servers: tlsv1.0 to tlsv1.3, all or secure.
        server_tls_protocols: Text = "secure", "", Reload;
        /// Whether servers may or must use TLS.
        server_tls_sslmode: SslMode = "prefer", "", Reload;
        /// Lets several processes listen on the same port.
        so_reuseport: Flag = "0", "", Restart;
        /// The period of the averages and of the statistics in the log.
        stats_period: WholeSeconds<1> = "60", "seconds", Reload;
        /// Users who may read on the console but change nothing.
        stats_users: Words = "", "users", Reload;
        /// How long SUSPEND waits for buffers to empty before it closes connections.
        suspend_timeout: Seconds = "10", "seconds", Reload;
        /// Sends the log to syslog.
        syslog: Flag = "0", "", Reload;
        /// The syslog facility: auth, authpriv, daemon, user, or local0 to local7. Any other word means daemon.
        syslog_facility: Text = "daemon", "", Reload;
        /// The program name in syslog.
        syslog_ident: Text = "pgbouncer", "", Reload;
        /// The kernel accepts a connection only when its first bytes have arrived.
        tcp_defer_accept: Flag = "1", "", Reload;
        /// Probes idle connections (TCP keepalive).
        tcp_keepalive: Flag = "1", "", Reload;
        /// Unanswered probes after which a connection is closed. 0 means the system's value.
        tcp_keepcnt: Count = "0", "probes", Reload;
        /// How long a connection is idle before the first probe. 0 means the system's value.
        tcp_keepidle: WholeSeconds<0> = "0", "seconds", Reload;
        /// The time between probes. 0 means the system's value.
        tcp_keepintvl: WholeSeconds<0> = "0", "seconds", Reload;
        /// The kernel's buffer per socket and direction. 0 means the system's value.
        tcp_socket_buffer: Count = "0", "bytes", Reload;
        /// How long sent bytes may stay unacknowledged. 0 means the system's value.
        tcp_user_timeout: Milliseconds = "0", "milliseconds", Reload;
        /// Parameters that follow a client from server to server, in addition to the usual five. The server must report
        /// them.
        track_extra_parameters: Commas = "IntervalStyle", "parameters", Restart;
        /// A client whose transaction is open for this long is disconnected. 0 disables this.
        transaction_timeout: Seconds = "0", "seconds", Reload;
        /// The directory of the Unix socket. A value that starts with @ makes the socket abstract. Empty means no Unix
        /// socket.
        unix_socket_dir: Optional = "/tmp", "", Restart;
        /// The group of the Unix socket.
        unix_socket_group: Optional = "", "", Restart;
        /// The permissions of the Unix socket.
        unix_socket_mode: FileMode = "0777", "", Restart;
        /// The system user that the process becomes after the start.
        user: Optional, "", Restart;
        /// How much is logged beyond the usual, 0 to 3. It is the same number as that of -v options on the command
        /// line.
        verbose: Count, "", Reload;
    }

    Pgweir {
        /// How long a server may work on the requests of a client that has left, or whose connection is broken. Then
        /// the query is cancelled. A client that has only shut down its sending side gets all its answers. 0 ends
        /// running queries at once and drops requests that have not started, as PgBouncer does.
        abandoned_query_timeout: Seconds = "1", "seconds", Reload;
        /// How long a secret that auth_query found is used for further logins. 0 runs auth_query at each login, as
        /// PgBouncer does, so that a changed password takes effect at once. After a failed login, the next login runs
        /// auth_query.
        auth_query_lifetime: Seconds = "0", "seconds", Reload;
        /// Cancels the query of a client that has left or was disconnected, rolls its transaction back and keeps the
        /// server. The server counts against every limit until PostgreSQL has answered. 0 closes the server at once, as
        /// PgBouncer does: PostgreSQL may continue the query beside the servers that are opened next.
        cancel_abandoned_queries: Flag = "1", "", Reload;
        /// Sends SQLSTATE 08P01 with every error that does not come from a server, as PgBouncer does, for programs that
        /// match on it. 0 sends the SQLSTATE of the cause: for example 28P01 for a wrong password, 53300 for a limit,
        /// 57P03 if no connection is possible now.
        legacy_sqlstate: Flag = "0", "", Reload;
        /// The format of the log: PgBouncer's lines, or one JSON object per line.
        log_format: LogFormat = "pgbouncer", "", Restart;
        /// Logins that one address may try at once before login_rate_limit applies.
        login_rate_burst: Count = "20", "logins", Reload;
        /// Logins per second that one address may try. An IPv6 network of 64 bits counts as one address. 0 means no
        /// limit. Logins to the console count, too. Unix sockets are exempt. Note that clients behind NAT or another
        /// proxy share an address.
        login_rate_limit: Count = "0", "logins/s", Reload;
        /// How TLS with servers begins. postgres asks the server first. direct starts TLS at once: this needs
        /// PostgreSQL 17 or later, and a server_tls_sslmode of require, verify-ca or verify-full.
        server_tls_sslnegotiation: SslNegotiation = "postgres", "", Reload;
        /// Shows the login counts in SHOW STATS, STATS_TOTALS and STATS_AVERAGES, as PgBouncer's next version does. 0
        /// leaves them out, for programs that know the columns of 1.25 by number, such as pgbouncer_fdw.
        stats_login_counts: Flag = "1", "", Reload;
        /// Threads that serve connections. 0 means one per core.
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
