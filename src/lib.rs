//! pgweir: a connection pooler for PostgreSQL and a drop-in replacement for PgBouncer.
//!
//! Applications connect to pgweir as if it were PostgreSQL. When a client begins a transaction, pgweir assigns it one
//! of a few server connections. When the transaction ends, the server goes to the next waiting client. So a thousand
//! clients can share twenty-five server connections. This page is the map of the code. Read it once from top to bottom.
//! The decisions with their reasons, the packages, and what is left for later are in `docs/design.md`.
//!
//! **The shape in one sentence**: one crate with a dozen modules in layers; the code that makes decisions is in the
//! middle and uses no sockets, and the sockets are at the edge.
//!
//! Code that *decides* takes data and returns data: framing, outstanding replies, statement names, parameters,
//! scheduling, authentication, configuration. Most of its files say `Pure:` in their header. A pure file reads no
//! clock, holds no lock and awaits nothing. So it can be tested with property tests, with simulation and with the
//! fuzzer.
//!
//! # The layers
//!
//! ```text
//!  main.rs     arguments → configuration → app::run → exit code
//!  ────────────────────────────────────────────────────────────────────────────────────────────────
//!  8  app        the process: accept, janitor, reload, shutdown, signals, log
//!  7  (doctor, web: reserved names, not built)
//!  6  client     one client connection: hello → login → session ⇄ relay → farewell
//!  5  admin      the console: commands, SHOW tables
//!  4  pool       which client gets which server, and when   cancel   keys, look-up, forwarding
//!  3  server     one server connection: connect, check, reset
//!  2  auth       authentication dialogues (pure)            net      sockets, buffers, threads, the clock
//!  1  protocol   state of a conversation (pure)             config   the settings       stats   counters, status
//!  0  wire       message formats (pure)
//! ```
//!
//! A module imports lower layers only, and no module of the same layer. If a lower module must call a higher one, it
//! defines a trait: the console asks the process to reload through [`admin::ProcessControl`], and
//! [`app::control::Control`] implements it. `tests/tidy.rs` fails if an import breaks this rule, or if a `Pure:` file
//! is not pure. `clippy.toml` forbids reading the clock outside [`net::world`].
//!
//! # The life of a query: the reading order
//!
//! ```text
//!  client socket                                                                   server socket
//!       │ poll_fill                                                                      ▲ poll_send
//!       ▼                                                                                │
//!  net::buffers ─► wire::framing ─► client/session ─► pool ─► pool::lease ─► client/relay ─► server
//!       ▲                                              │ ▲                     │   ▲
//!       │                                       facts  ▼ │ orders              │   │ verdicts
//!       │                                        pool::scheduler               │  protocol::exchange
//!       └──────────────────────────────── poll_send ◄──────────────────────────┘
//! ```
//!
//! 1. **Idle.** `client/session.rs` ★ waits at a *safe point*: the client has no server, no partly received message and
//!    no buffer. A reload, a shutdown and KILL take effect only here, so that they break nothing. The session wakes up
//!    when bytes arrive, or when its card ([`stats::roster`]) holds an order. The janitor checks the timeouts and puts
//!    orders on the cards ([`client::overdue`]), so no query needs a timer.
//! 2. **Request a server.** When the first message of a request is complete, the session calls [`pool::Pool::ask`].
//!    Under one short lock, it gets an idle server of the same thread ([`pool::idle`]), or the client is added to the
//!    wait queue ([`pool::waiting`]). The [`pool::scheduler`] returns what must be done as [`pool::orders`]: open,
//!    check, close, grant, refuse. [`pool`] and `pool/errands.rs` carry out these orders after the lock is released.
//! 3. **Set parameters.** If the server's parameters differ from the client's ([`protocol::parameters`]), one round
//!    trip of SETs makes them equal ([`server::check`]). Usually both are the same allocation, and the comparison is
//!    one of pointers.
//! 4. **Relay.** `client/relay.rs` ★: one task, two sockets, no channel. Each turn reads one side and walks the bytes
//!    as pieces in place ([`wire::framing`]). It reports each message to [`protocol::exchange`], and sends the run of
//!    bytes from the buffer that it was read into. If the receiver is slow, the relay stops reading from the sender:
//!    back-pressure is one `return`. `client/prepared.rs` rewrites the names of prepared statements, with the tables of
//!    [`protocol::statements`] and [`protocol::outstanding`].
//! 5. **Detach.** After `ReadyForQuery(idle)`, with no reply outstanding and no message partly sent, the relay returns.
//! 6. **Release.** [`pool::Lease::release`] gives the server to the next waiting client, or to the idle list. *Any
//!    other end* (an error, a timeout, a panic, a dropped task) drops the lease, and dropping a lease closes its
//!    server. So a server in an unknown state cannot go back to the pool by mistake.
//!
//! Before that: [`app::accept`] → `client/hello.rs` (first packets) → `client/login.rs` ([`auth::Handshake`], the pool,
//! the first reply). On the other side: `pool/errands.rs` → [`server::connect`](mod@server::connect)
//! ([`auth::Prover`]).
//!
//! # Where do I look for…
//!
//! | topic | where |
//! |---|---|
//! | a setting: default, documentation line, reloadable | `config/settings.rs`, [`config::keys`] |
//! | how a value is written | [`config::values`] |
//! | `pgbouncer.ini`, TOML | [`config::ini`], [`config::toml`] |
//! | environment variables, the images they come from, precedence | `config/env.rs`, their names in `env/names.rs` |
//! | what the log at startup says about each setting | [`config::Given`] |
//! | `auth_file`; connection strings | [`config::userlist`], [`config::connstr`] |
//! | the errors for a file | `config/problem.rs`, `config/resolve.rs` |
//! | which setting applies to a (database, user) | [`pool::rules`] |
//! | RELOAD, SET | [`app::control`], then [`pool::registry`] |
//! | **Login** | |
//! | SSLRequest, GSSENCRequest, protocol versions | `client/hello.rs`, [`wire::startup`] |
//! | TLS: settings, certificates, trust, cipher names | [`net::tls`] and its files |
//! | secrets, methods and order of checks for a login | `client/login.rs` |
//! | `auth_query`, `auth_user`, `auth_dbname` | [`client::auth_query`], [`server::look_up`] |
//! | `auth_hba_file`, `auth_ident_file` | [`config::hba`], [`config::ident`], `client/records.rs` |
//! | LDAP: its options, then the requests to a directory | [`config::ldap`], [`net::ldap`] |
//! | PAM: its service, then the process that calls it | [`config::pam`], [`net::pam`] |
//! | logins that wait for LDAP or PAM | [`net::outside`] |
//! | threads for key derivation and TLS signatures, and their order | [`net::compute`] |
//! | an authentication method, for clients and for servers | [`auth`], `auth/prover.rs` |
//! | SCRAM, and the cache of its keys | `auth/scram/`, `auth/keys.rs` |
//! | max_client_conn and the other limits of clients | `client/mod.rs`, `pool/registry/crowd.rs` |
//! | login_rate_limit | [`client::throttle`] |
//! | the parameters that a client gets at its login | [`pool::greeting`], then `client/login.rs` |
//! | startup parameters, `options` | [`protocol::parameters`], [`wire::startup`] |
//! | **Traffic** | |
//! | messages, large messages | [`wire::framing`] |
//! | pipelines, COPY, errors in a pipeline, outstanding replies | [`protocol::exchange`], [`protocol::outstanding`] |
//! | parameters that follow the client, their encoding | [`protocol::parameters`], `client/reports.rs` |
//! | prepared statements | [`protocol::statements`], [`protocol::rename`], `client/prepared.rs` |
//! | back-pressure, both directions | `client/relay.rs` |
//! | replication connections | `client/replication.rs`; their servers: `pool/scheduler/dedicated.rs` |
//! | buffers, memory of idle clients | [`net::buffers`] |
//! | timeouts of clients | [`client::overdue`] |
//! | an error that a client gets, its SQLSTATE | [`client::farewell`], [`wire::error`] |
//! | **Pools** | |
//! | pool size, reserve, the wait queue, login retry, RECONNECT | [`pool::scheduler`] |
//! | server_lifetime, idle timeout, checks, min_pool_size | `pool/scheduler/upkeep.rs` |
//! | max_db_connections, max_user_connections | [`pool::quota`] |
//! | several hosts, load_balance_hosts | [`pool::hosts`] |
//! | PAUSE, KILL, DISABLE, WAIT_CLOSE and similar commands | `pool/registry/control.rs` |
//! | SUSPEND: how all connections stop between two messages | [`pool::suspension`], `pool/registry/suspend.rs` |
//! | connecting to PostgreSQL | [`server::connect`](mod@server::connect), [`net::dial`] |
//! | host names: DNS, `/etc/hosts`, servers that follow a name | [`net::dns`], its policy in [`net::dns::cache`] |
//! | reset, check and connect queries | [`server::check`], `pool/errands.rs` |
//! | cancel requests: the key, the server that it belongs to | [`cancel`], `client/canceler.rs` |
//! | connections for cancel requests, their limits; `[peers]` | [`pool::cancel_line`], `pool/cancels.rs` |
//! | **Operation** | |
//! | a console command: grammar, then effect and permissions | [`admin::command`], [`admin::control`] |
//! | a SHOW table | [`admin::show`] |
//! | the console's extended protocol | [`admin::extended`], [`admin::console`] |
//! | counters, averages | [`stats::counters`], [`stats::averages`] |
//! | a log line that tools match; format; files | [`stats::lines`], [`app::logging`] |
//! | syslog, the journal | [`app::logging::records`] |
//! | listening, tcp_* settings | [`net::listen`], [`net::sockopt`] |
//! | systemd: notifications, then socket activation | [`app::systemd`], [`net::inherit`] |
//! | signals, and how the process exits | [`app::signals`], [`app::shutdown`] |
//! | `-R`: taking over from a running process | [`app::takeover`], then [`client::handover`], `pool/adopt.rs` |
//! | what is handed over: SHOW FDS, SHOW HANDOVER | [`protocol::handover`], `client/showing.rs` |
//! | a rolling restart on a shared port | [`app::accept`], its end |
//! | command line, pidfile, `-d`, `user` | [`app::cli`], [`app::process`] |
//! | health checks, `--ping` | [`app::ping`] |
//! | `--check`, beyond reading the files | [`app::check`] |
//! | the image, compose file, Kubernetes; Debian package | `docker/`; `debian/`, `Cargo.toml`; `docs/install.md` |
//! | threads: the runtimes, how many are used | [`app::runtime`], [`app::balance`], [`net::workers`] |
//!
//! To add a setting of `[pgbouncer]`: add one row in `config/settings.rs` and the code that reads it, then run
//! `UPDATE_GOLDEN=1 cargo test --lib config::` for the reference page and the samples. `SHOW CONFIG`, SET, TOML and the
//! environment need no change.
//!
//! A key of `[databases]` is more work: a row in `config/keys.rs`, a field in `config/mod.rs`, its transfer in
//! `config/resolve.rs`, the rule in `pool/rules.rs`, and the code that uses it. If SHOW DATABASES lists the key, also
//! `pool/registry/views.rs` and `admin/show/pools.rs`. A key of `[users]` needs no field and no transfer.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | client | an application's connection |
//! | server | a connection to PostgreSQL |
//! | frontend, backend | the directions of messages, in `wire` only |
//! | pool | the servers of one (database, user) |
//! | host | an address with PostgreSQL servers |
//! | peer | another pgweir or PgBouncer process behind the same address |
//! | lease | a server that is assigned to a client; dropping it closes the server |
//! | dedicated | a server that is opened for one client and never used by another |
//! | card | the shared status of a connection, listed in the roster |
//! | safe point | a moment at which a client has no server and no partly received message |
//! | fact, order | what the scheduler is given, and what it returns |
//! | piece, run | a part of the byte stream; adjacent pieces that are forwarded unchanged |
//! | at rest | nothing is outstanding, so the server may go to another client |
//! | dirty | a server in an unknown state, which must be closed |
//! | worker | a thread that serves connections |
//!
//! Names of messages are those of PostgreSQL's manual. Names of settings, states, commands and columns are PgBouncer's.
//!
//! # Shared state
//!
//! | state | where | how |
//! |---|---|---|
//! | configuration | [`pool::Registry::config`] | an `Arc`; clients compare a version number at safe points |
//! | one pool | [`pool::scheduler`] | a mutex private to [`pool`] |
//! | limits across pools | [`pool::quota`] | a mutex in `pool/ledger.rs`, locked when servers open or close |
//! | all pools | [`pool::registry`] | a read-write lock, read once per login |
//! | names and their addresses | [`net::dns::cache`] | a mutex in `net/dns.rs`, locked when servers open |
//! | certificates, keys, TLS settings | [`net::tls::Tls`] | a read-write lock, read once per connection |
//! | cancel keys, cards | [`cancel::table`], [`stats::roster`] | locked at login and disconnection; cards are atomics |
//! | equal statements, equal parameters | [`protocol::shared`] | a lock for each new value, never per query |
//! | addresses that log in too often | [`client::throttle`] | a mutex in [`client::Shared`], locked once per login |
//! | counters | [`stats::counters`] | relaxed atomics, a shard per worker |
//!
//! The rules for locks:
//!
//! - A lock is a std mutex (or read-write lock) that is private to its file.
//! - It is not held during a call that can block, and not across an `await`.
//! - Orders are carried out after unlocking.
//! - Locks nest in one order only: registry → pool → waiter.
//!
//! State of one connection (buffers, exchange, statements) belongs to the task of that connection.
//!
//! **Threads.** Each worker is a single-threaded runtime. A client runs on one worker. If the server that it gets is on
//! another worker, the server is moved, so that a transaction wakes no other thread. The workers share the pools: 25
//! servers are 25 in total, whatever the number of workers. One worker serves all clients while it has time to spare.
//! Under more load, [`app::balance`] uses more workers.
//!
//! # Tests
//!
//! - Unit and property tests are beside the code.
//! - `tests/sim` runs the scheduler with seeds, for a million events and more, and checks its promises after each
//!   event.
//! - `tests/e2e` runs the real binary with a real PostgreSQL, one file per topic of operation. The same tests run
//!   against PgBouncer.
//! - `tests/docker` builds the image and starts compose files with it, if a Docker Engine is available.
//! - `tests/packages.rs` checks the Debian package, the unit, the man page and the Kubernetes manifests.
//! - `tests/fuzz` has a target for each parser of untrusted bytes.
//! - `benches/load` compares pgweir with PgBouncer on one machine. `benches/scheduler.rs` measures the two calls that a
//!   pool makes per transaction.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cancel;
pub mod client;
pub mod config;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod server;
pub mod stats;
pub mod wire;
