//! pgweir: a transaction-pooling PostgreSQL proxy, the drop-in replacement for PgBouncer.
//!
//! Applications connect to pgweir as if it were PostgreSQL. When one begins a transaction it is lent one of a few
//! server connections, and when the transaction ends the server goes to whoever waits next: a thousand clients share
//! twenty-five backends. This page is the map. Read it once from top to bottom, and any feature's room is found in a
//! minute.
//!
//! **The shape in one sentence**: one crate, a dozen rooms on eight floors, rules without sockets in the middle,
//! sockets at the edge. Whatever *decides* (framing, replies due, statement names, parameters, scheduling,
//! authentication, configuration) is data in, data out; its files say `Pure:` in their header, read no clock, hold no
//! lock and await nothing, and so are tested by properties, by simulation and by the fuzzer.
//!
//! # The floors
//!
//! ```text
//!  main.rs     arguments → configuration → app::run → exit code
//!  ────────────────────────────────────────────────────────────────────────────────────────────────
//!  8  app        the process: accept, janitor, reload, shutdown, signals, log
//!  7  (doctor, web: kept free, see below)
//!  6  client     one application's connection: hello → login → session ⇄ relay → farewell
//!  5  admin      the console: commands, SHOW tables
//!  4  pool       who gets which server, and when          cancel   keys, look-up, forwarding
//!  3  server     one connection to PostgreSQL: connect, check, reset
//!  2  auth       who are you? (pure dialogues)            net      sockets, buffers, threads, the clock
//!  1  protocol   what a conversation is owed (pure)       config   what was asked of us     stats   counts, cards
//!  0  wire       how messages look (pure)
//! ```
//!
//! A room imports lower floors only, and no room beside it. Where a lower room must reach up, it owns the trait:
//! the console asks the process to reload through [`admin::ProcessControl`], which [`app::control::Control`]
//! implements. `tests/tidy.rs` fails when a floor is broken or a `Pure:` file is not pure; `clippy.toml` keeps the
//! clock in [`net::world`].
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
//! 1. **Rest.** `client/session.rs` ★ waits at a *safe point*: no server, no half message, no buffer. Only here do a
//!    reload, a drain and KILL take hold without harm. It wakes for bytes, or for an order on its card
//!    ([`stats::roster`]). The janitor leaves the timeouts' orders there; no query arms a timer ([`client::overdue`]).
//! 2. **Ask.** A request's first message is there: [`pool::Pool::ask`]. One short lock, and either an idle server that
//!    lives on this very thread comes back ([`pool::idle`]), or the client joins the line ([`pool::waiting`]). What the
//!    [`pool::scheduler`] wants done (open, check, close, grant, refuse) it leaves as [`pool::orders`], carried out
//!    after the lock is released, by [`pool`] and `pool/errands.rs`.
//! 3. **Adopt.** Where the server's parameters differ from the client's ([`protocol::parameters`]), one round trip of
//!    SETs makes them equal ([`server::check`]). Mostly both are the same allocation, and the comparison is of two
//!    pointers.
//! 4. **Relay.** `client/relay.rs` ★: one task, two sockets, no channel. Each turn reads one side, walks the bytes as
//!    pieces in place ([`wire::framing`]), tells [`protocol::exchange`] of each message, and sends the run of bytes on
//!    from the buffer it was read into. A side whose receiver is slow is not read: back-pressure is one `return`.
//!    Named statements are rewritten on the way by `client/prepared.rs`, with the books of [`protocol::statements`] and
//!    [`protocol::outstanding`].
//! 5. **Part.** `ReadyForQuery(idle)`, nothing owed, nothing half sent: the relay returns.
//! 6. **Release.** [`pool::Lease::release`] hands the server to the next in line or puts it on the shelf. *Any other
//!    end* (an error, a timeout, a panic, a task that is dropped) drops the lease, and a dropped lease closes its
//!    server: a dirty one cannot come back by omission.
//!
//! Before all that: [`app::accept`] → `client/hello.rs` (first packets) → `client/login.rs` ([`auth::Handshake`], the
//! pool, the greeting). On the other side: `pool/errands.rs` → [`server::connect`](mod@server::connect)
//! ([`auth::Prover`]).
//!
//! # Where do I look for…
//!
//! | what is asked for | room |
//! |---|---|
//! | a setting: default, documentation line, reloadable | `config/settings.rs`, [`config::keys`] |
//! | how a value is written | [`config::values`] |
//! | `pgbouncer.ini`, TOML | [`config::ini`], [`config::toml`] |
//! | variables of the environment, of which images, in which order | `config/env.rs`, their names in `env/names.rs` |
//! | what the log of the start says of each setting | [`config::Given`] |
//! | `auth_file`; connection strings | [`config::userlist`], [`config::connstr`] |
//! | what is said about a bad file | `config/problem.rs`, `config/resolve.rs` |
//! | which setting wins for a (database, user) | [`pool::rules`] |
//! | RELOAD, SET | [`app::control`], then [`pool::registry`] |
//! | **Login** | |
//! | SSLRequest, GSSENCRequest, protocol versions | `client/hello.rs`, [`wire::startup`] |
//! | TLS: settings, certificates, whom to trust, cipher names | [`net::tls`] and its rooms |
//! | who is asked for what: secrets, methods, order of checks | `client/login.rs` |
//! | `auth_query`, `auth_user`, `auth_dbname` | [`client::auth_query`], [`server::look_up`] |
//! | `auth_hba_file`, `auth_ident_file` | [`config::hba`], [`config::ident`], `client/records.rs` |
//! | LDAP: its options, then asking a directory | [`config::ldap`], [`net::ldap`] |
//! | PAM: its service, then a process that asks it | [`config::pam`], [`net::pam`] |
//! | who waits while others check passwords | [`net::outside`] |
//! | where keys are derived and handshakes signed, whose turn is next | [`net::compute`] |
//! | a method, towards clients and towards servers | [`auth`], `auth/prover.rs` |
//! | SCRAM, and the cache of its keys | `auth/scram/`, `auth/keys.rs` |
//! | max_client_conn and its kin | `client/mod.rs`, `pool/registry/crowd.rs` |
//! | how often one address may log in | [`client::throttle`] |
//! | startup parameters, `options` | [`protocol::parameters`], [`wire::startup`] |
//! | **Traffic** | |
//! | messages, large messages | [`wire::framing`] |
//! | pipelines, COPY, errors in between, what is owed | [`protocol::exchange`], [`protocol::outstanding`] |
//! | parameters that follow the client | [`protocol::parameters`] |
//! | prepared statements | [`protocol::statements`], [`protocol::rename`], `client/prepared.rs` |
//! | back-pressure, both directions | `client/relay.rs` |
//! | replication connections | `client/replication.rs`; their servers: `pool/scheduler/dedicated.rs` |
//! | buffers, memory of idle clients | [`net::buffers`] |
//! | timeouts of clients | [`client::overdue`] |
//! | an error a client sees, its SQLSTATE | [`client::farewell`], [`wire::error`] |
//! | **Pools** | |
//! | pool size, reserve, the line, login retry, RECONNECT | [`pool::scheduler`] |
//! | server_lifetime, idle timeout, checks due, min_pool_size | `pool/scheduler/upkeep.rs` |
//! | max_db_connections, max_user_connections | [`pool::quota`] |
//! | several hosts, load_balance_hosts | [`pool::hosts`] |
//! | PAUSE, KILL, DISABLE, WAIT_CLOSE and their kin | `pool/registry/control.rs` |
//! | SUSPEND: how everybody stops at the edge of a message | [`pool::suspension`], `pool/registry/suspend.rs` |
//! | connecting to PostgreSQL | [`server::connect`](mod@server::connect), [`net::dial`] |
//! | host names: DNS, `/etc/hosts`, servers that follow a name | [`net::dns`], its policy in [`net::dns::cache`] |
//! | reset, check and connect queries | [`server::check`], `pool/errands.rs` |
//! | cancel requests: whose key, which loan | [`cancel`], `client/canceler.rs` |
//! | their connections, and under which caps; `[peers]` | [`pool::cancel_line`], `pool/cancels.rs` |
//! | **Operation** | |
//! | a console command: grammar, then deed and rights | [`admin::command`], [`admin::control`] |
//! | a SHOW table | [`admin::show`] |
//! | the console's extended protocol | [`admin::extended`], [`admin::console`] |
//! | counters, averages | [`stats::counters`], [`stats::averages`] |
//! | a log line that others grep; format; files | [`stats::lines`], [`app::logging`] |
//! | syslog, the journal | [`app::logging::records`] |
//! | listening, tcp_* settings | [`net::listen`], [`net::sockopt`] |
//! | systemd: notifications, then sockets it passes | [`app::systemd`], [`net::inherit`] |
//! | signals, and how the process ends | [`app::signals`], [`app::shutdown`] |
//! | `-R`: taking the place of a running process | [`app::takeover`], then [`client::handover`], `pool/adopt.rs` |
//! | what is handed over: SHOW FDS, SHOW HANDOVER | [`protocol::handover`], `client/showing.rs` |
//! | a rolling restart on a shared port | [`app::accept`], its last call |
//! | command line, pidfile, `-d`, `user` | [`app::cli`], [`app::process`] |
//! | health checks, `--ping` | [`app::ping`] |
//! | `--check`, beyond reading the files | [`app::check`] |
//! | the image, compose file, Kubernetes; Debian package | `docker/`; `debian/`, `Cargo.toml`; `docs/install.md` |
//! | threads: which runtime, how many take part | [`app::runtime`], [`app::balance`], [`net::workers`] |
//!
//! To add a setting: one row in `config/settings.rs` (or `keys.rs`), the code that obeys it, and
//! `UPDATE_GOLDEN=1 cargo test --lib config::` for the reference page and the samples.
//!
//! # Words
//!
//! *client*: an application's connection. *server*: a connection to PostgreSQL. *frontend*, *backend*: directions of
//! messages, in `wire` only. *pool*: the servers of one (database, user). *host*: where servers live. *peer*: another
//! pooler of ours. *lease*: a server on loan. *card*: a connection's public face in the roster. *safe point*: a moment
//! without loan or half message. *fact*, *order*: what goes into the scheduler and what comes out. *piece*, *run*: a
//! part of the stream, and adjacent pieces that go on unchanged. *at rest*: owes nothing, may change hands. *dirty*:
//! must be closed. *worker*: a thread that carries connections.
//! *dedicated*: opened for one client, never lent to another. Names of messages are the PostgreSQL manual's; names of
//! settings, states, commands and columns are PgBouncer's, letter for letter.
//!
//! # Shared state: few homes, one law
//!
//! | state | home | how |
//! |---|---|---|
//! | configuration | [`pool::Registry::config`] | an `Arc`; clients compare a version number at safe points |
//! | one pool | [`pool::scheduler`] | a mutex private to [`pool`] |
//! | caps across pools | [`pool::quota`] | a mutex in `pool/ledger.rs`, touched when servers open or close |
//! | all pools | [`pool::registry`] | a read-write lock, read once per login |
//! | names and their addresses | [`net::dns::cache`] | a mutex in `net/dns.rs`, taken when servers open |
//! | certificates, keys, TLS settings | [`net::tls::Tls`] | a read-write lock, read once per connection made |
//! | cancel keys, cards | [`cancel::table`], [`stats::roster`] | locked when clients come or go; cards are atomics |
//! | equal statements, equal parameters | [`protocol::shared`] | a lock where a value is new, never per query |
//! | addresses that log in too often | [`client::throttle`] | a mutex in [`client::Shared`], once per login |
//! | counters | [`stats::counters`] | relaxed atomics, a shard for each worker |
//!
//! The law: std mutexes, private to their file, held for no call that could block and across no `await`; orders are
//! carried out after unlocking; locks nest registry → pool → waiter only. What belongs to one connection (buffers,
//! exchange, statements) belongs to the task that holds it.
//!
//! **Threads.** Each worker is a single-threaded runtime. A client lives on one worker, and a server on loan to it is
//! moved there if it does not live there already, so that a transaction wakes no other thread. Pools are shared in
//! meaning: 25 servers are 25, whatever the number of workers. One worker carries everybody while it has time to spare;
//! [`app::balance`] lets more take part when it has not. How workers are made is [`app::runtime`]'s secret.
//!
//! # The room left for what comes next
//!
//! Each of these has its place in the shape; nothing of it is built.
//!
//! - **Any SET kept across servers; pins** for LISTEN, advisory locks, temporary tables, WITH HOLD cursors:
//!   `protocol/footprint.rs`, which says what session state a request makes, and whether it can be replayed or must
//!   pin. The relay already asks one question before a server changes hands (`may_part`); what can be replayed travels
//!   with [`protocol::parameters::difference`].
//! - **Failures that explain themselves**: [`client::farewell`] has DETAIL and HINT for each reason, and
//!   [`pool::Refusal`] carries the server's own error. A room `doctor` on floor 7 tries each database step by step.
//! - **A second I/O back end** (io_uring): under [`net::stream::Stream`]. All the relay ever says is "fill this inbox",
//!   whose buffer is lent while it holds bytes, and "send this run": that is what completions want, too.
//! - **Metrics, health, a status page**: a room `web` on floor 7, `stats/histogram.rs`.
//! - **Cancelling what still waits in line**: one [`stats::roster::Order`] more. Whom a key means is known, and whoever
//!   waits looks at its card.
//!
//! # Tests
//!
//! Unit and property tests stand beside the code. `tests/sim` drives the scheduler with seeds, a million events and
//! more, and checks its promises after each. `tests/e2e` runs the real binary before a real PostgreSQL, one file per
//! concern of an operator; the same tests run against PgBouncer itself. `tests/docker` builds the image and starts
//! compose files with it where a Docker Engine answers, `tests/packages.rs` checks what else is delivered. `tests/fuzz`
//! has a target for each parser of foreign bytes. `benches/load` measures pgweir beside PgBouncer on one machine,
//! `benches/scheduler.rs` the two calls a pool makes per transaction.
//!
//! # Why it is not quite as first drawn
//!
//! - **A waiting client has a slot, not a channel.** A grant is put into [`pool::Waiter`] and the client's card wakes
//!   it: one allocation for a client's whole life in place of one for each wait.
//! - **Two calls answer directly.** [`pool::scheduler`] is facts in, orders out, except for the two calls that every
//!   transaction makes: a queue between question and answer would be most of their cost.
//! - **A configuration is published, not broadcast.** Clients compare a number when they are about to borrow, so that a
//!   reload wakes nobody.
//! - **Secrets come before the dialogue.** [`auth::Handshake`] is given the secret instead of asking for it half-way:
//!   the startup message names the user, so there is nothing to wait for. What a dialogue does ask for is a key
//!   derivation, because that must leave the I/O thread.
//! - **A login's timeout is swept like all others**: the janitor looks at the cards, so nothing arms a timer.
//! - **A trait in place of a request channel** between console and process: there is one process, and its answer is
//!   awaited anyway.
//! - **Reload lives in [`app::control`]** with SET beside it: the two differ in where the new values come from.
//! - **Logging uses no spans.** One for each idle client would cost more memory than the client; a connection's
//!   [`stats::lines::Tag`] is made where a line is.
//! - **The rules are simulated, the whole proxy is not.** What lies between rules and sockets is tested with real
//!   sockets, a scripted PostgreSQL (`pool/tests`) or a real one (`tests/e2e`), on the binary that is shipped.
//!
//! # Packages
//!
//! Taken where they save more than they cost to read: `tokio` (readiness, tasks), `rustix`, `nix` and `socket2` (system
//! calls without unsafe code), `sha2`, `hmac`, `md-5`, `stringprep`, `subtle`, `zeroize`, `base64`,
//! `getrandom` (authentication), `ldap3` (directories), `nonstick` (PAM), `domain` (questions to name servers), `toml`,
//! `serde_json` (text), `tracing` (the log's macros), `jiff` (time zones), `lru` (statements per server), `lexopt` (the
//! command line), `sd-notify` and `listenfd` (systemd),
//! `rustls` with `aws-lc-rs`, its `rustls-webpki` and `x509-parser` (TLS).
//!
//! Looked for here and not found:
//!
//! - `pam`, `pam-client`: bindgen makes their bindings, so that a build wants libclang. `pam-client2` brings its own
//!   along, but is under the MPL.
//! - `scram`: it cannot check a login against a stored secret, nor start from a client key, which pass-through needs.
//!   So `auth/scram` is ours, over the RustCrypto primitives.
//! - `hickory-resolver`: 67 packages more where `domain` is 14, and a reader of `resolv.conf` that knows no port.
//! - `pbkdf2`: it does all rounds in one call, and a derivation must stop when its login is gone ([`auth`]). The tests
//!   compare with it.
//! - `postgres-protocol`: the client's half of messages and SCRAM only, and keys are derived on the calling thread. The
//!   tests compare with it, as an independent opinion on SCRAM and md5.
//! - `bytes`, `tokio-util`: their buffers are reference-counted and belong to a connection, codecs hand over one
//!   message at a time. A relay hands on *runs*, and an idle connection owns no buffer at all ([`net::buffers`]).
//! - `serde`: a derived reader stops at the first fault and knows no lines; `config` reports all faults with theirs,
//!   and reads `toml`'s spanned table itself.
//! - `tracing-subscriber`: [`app::logging`] writes PgBouncer's lines, from a queue that no slow disk can stop.
//! - `syslog`: it connects once and blocks while the daemon is busy; [`app::logging::records`] does neither.
//! - an ini library: PgBouncer's dialect is its own ([`config::ini`]).

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
