//! Users who are not in auth_file: auth_query asks PostgreSQL for their secrets.
//!
//! ```text
//!   auth_user set? ─► which database? ─► remembered? ─► a server of its own pool ─► ask ─► name and secret
//! ```
//!
//! The query runs in the database that the client asks for, or in auth_dbname's, as auth_user, on servers that no
//! client ever gets ([`crate::pool::Registry::lookup_pool`]). Nothing of what the client said is applied to them, so
//! that nobody can answer the query for the server by way of a search_path (CVE-2025-12819).
//!
//! Each login asks, unless auth_query_lifetime says for how long an answer is good. Then answers are remembered, for
//! ten thousand users at most, and only with secrets of a usual length. A login that fails makes its answer forgotten,
//! a RELOAD or SET makes all forgotten.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use lru::LruCache;

use super::Shared;
use super::farewell::Farewell;
use crate::admin;
use crate::auth::Secret;
use crate::config::Config;
use crate::net::buffers::Inbox;
use crate::net::stream::Stream;
use crate::net::{workers, world};
use crate::pool::{Ask, Lease, NoPool, Pool, Waiter};
use crate::server::{self, KnownUser, LookupError};
use crate::stats::lines::Tag;
use crate::stats::moment::Moment;
use crate::stats::roster::{ClientCard, ClientState};

/// As many users' secrets are remembered; then the least recently used is forgotten.
const USERS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// A longer secret is not remembered: hashed ones have some 130 bytes.
const REMEMBERED_SECRET_MAX: usize = 1024;

/// What is to be asked about a user, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question<'a> {
    auth_user: &'a str,
    query: &'a str,
    /// auth_dbname, or else the database that the client asks for.
    database: &'a str,
}

impl<'a> Question<'a> {
    /// For clients of this database. `None` where nobody is to be asked: there is no such database, or no auth_user.
    pub(super) fn for_clients_of(database: &'a str, config: &'a Config) -> Option<Question<'a>> {
        let settings = &config.settings;
        let own = config.database(database).filter(|_| database != admin::DATABASE);
        if own.is_none() && database != admin::DATABASE {
            return None;
        }
        let of_database = |text: Option<&'a String>| text.map(String::as_str);
        Some(Question {
            auth_user: of_database(own.and_then(|own| own.auth_user.as_ref()).or(settings.auth_user.as_ref()))?,
            query: of_database(own.and_then(|own| own.auth_query.as_ref())).unwrap_or(&settings.auth_query),
            database: of_database(own.and_then(|own| own.auth_dbname.as_ref()).or(settings.auth_dbname.as_ref()))
                .unwrap_or(database),
        })
    }
}

/// A connection on its way in whose user is to be looked up.
pub(super) struct Asker<'a> {
    pub(super) shared: &'a Shared,
    pub(super) config: &'a Arc<Config>,
    pub(super) card: &'a Arc<ClientCard>,
    pub(super) stream: &'a mut Stream,
    pub(super) inbox: &'a mut Inbox,
}

impl Asker<'_> {
    /// The name and secret of `user`, a client of `database`, as the answer to `question` has them; `None` where there
    /// is no such user.
    pub(super) async fn ask(
        &mut self,
        question: &Question<'_>,
        database: &str,
        user: &str,
    ) -> Result<Option<(String, Secret)>, Farewell> {
        let lifetime = self.config.settings.auth_query_lifetime;
        let now = world::now();
        if !lifetime.is_zero() {
            let fresh = |answer: &Answer| now.since(answer.asked) <= lifetime;
            if let Some(answer) = self.shared.looked_up.find(self.config, database, user).filter(fresh) {
                return Ok(Some((answer.name, answer.secret)));
            }
        }
        let pool = self.pool(question)?;
        let lease = self.borrow(&pool).await;
        self.card.set_state(ClientState::Login);
        let Some(known) = self.run(lease?, question, user).await? else { return Ok(None) };
        let KnownUser { name, secret } = known;
        // NULL is a secret that nobody can prove: an empty password.
        let short = secret.as_ref().is_none_or(|text| text.len() <= REMEMBERED_SECRET_MAX);
        let secret = Secret::parse(secret.as_ref().map_or("", |text| text));
        if !lifetime.is_zero() && short {
            let answer = Answer { name: name.clone(), secret: secret.clone(), asked: now };
            self.shared.looked_up.remember(self.config, database, user, answer);
        }
        Ok(Some((name, secret)))
    }

    fn pool(&self, question: &Question<'_>) -> Result<Arc<Pool>, Farewell> {
        let tag = Tag::client(self.card);
        if question.database == admin::DATABASE {
            let name = admin::DATABASE;
            tracing::error!(conn = ?tag, "cannot use the reserved \"{name}\" database as an auth_dbname");
            return Err(Farewell::AuthQueryFailed);
        }
        self.shared.registry.lookup_pool(question.database, question.auth_user).map_err(|no| match no {
            NoPool::NoSuchDatabase => {
                let name = question.database;
                tracing::error!(conn = ?tag, "authentication database \"{name}\" is not configured.");
                Farewell::AuthQueryFailed
            }
            NoPool::Disabled => Farewell::AuthDatabaseDisabled(question.database.to_owned()),
            NoPool::ShuttingDown => Farewell::ShuttingDown,
        })
    }

    /// A server of the pool; the client stands in line for it like any other.
    async fn borrow(&mut self, pool: &Arc<Pool>) -> Result<Lease, Farewell> {
        let waiter = Waiter::new(self.card.clone(), pool.clone());
        let now = world::now();
        self.card.set_request_at(now);
        let mut ticket = match pool.ask(&waiter, workers::current(), now) {
            Ask::Granted(lease) => return Ok(lease),
            Ask::Refused(refusal) => return Err(Farewell::Refused(refusal)),
            Ask::Waiting(ticket) => ticket,
        };
        std::future::poll_fn(|cx| match ticket.poll() {
            Some(Ok(lease)) => Poll::Ready(Ok(lease)),
            Some(Err(refusal)) => Poll::Ready(Err(Farewell::Refused(refusal))),
            None => self.stream.poll_gone(cx, self.inbox).map(|()| Err(Farewell::ClientGone)),
        })
        .await
    }

    async fn run(&self, mut lease: Lease, question: &Question<'_>, user: &str) -> Result<Option<KnownUser>, Farewell> {
        let answer = match lease.move_here() {
            Ok(()) => server::look_up(&mut lease, question.query, user).await,
            Err(error) => Err(LookupError::Lost(error)),
        };
        match answer {
            Ok(known) => {
                lease.release(world::now());
                Ok(known)
            }
            Err(error) => {
                if let LookupError::Failed(message) = &error {
                    tracing::error!(conn = ?Tag::server(lease.card()), "S: error in auth_query: {message}");
                }
                tracing::error!(conn = ?Tag::client(self.card), "auth_query: {error}");
                lease.close(&error.to_string());
                Err(Farewell::AuthQueryFailed)
            }
        }
    }
}

/// Answers that are still good.
#[derive(Debug, Default)]
pub struct LookedUp {
    held: Mutex<Option<Held>>,
}

/// Answers under one configuration: another may ask otherwise.
#[derive(Debug)]
struct Held {
    config: Weak<Config>,
    /// By the database and user that the client asks for.
    answers: LruCache<(Box<str>, Box<str>), Answer>,
}

#[derive(Clone, Debug)]
struct Answer {
    name: String,
    secret: Secret,
    asked: Moment,
}

impl LookedUp {
    fn find(&self, config: &Arc<Config>, database: &str, user: &str) -> Option<Answer> {
        let mut held = self.lock();
        let held = held.as_mut().filter(|held| held.is_under(config))?;
        held.answers.get(&(database.into(), user.into())).cloned()
    }

    fn remember(&self, config: &Arc<Config>, database: &str, user: &str, answer: Answer) {
        let mut held = self.lock();
        if !held.as_ref().is_some_and(|held| held.is_under(config)) {
            *held = Some(Held { config: Arc::downgrade(config), answers: LruCache::new(USERS_MAX) });
        }
        if let Some(held) = &mut *held {
            held.answers.put((database.into(), user.into()), answer);
        }
    }

    /// The next login of this user of this database asks.
    pub(super) fn forget(&self, database: &str, user: &str) {
        if let Some(held) = &mut *self.lock() {
            held.answers.pop(&(database.into(), user.into()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn is_under(&self, config: &Arc<Config>) -> bool {
        self.config.ptr_eq(&Arc::downgrade(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_bytes;

    fn config(databases: &str, settings: &str) -> Arc<Config> {
        let text = format!("[databases]\n{databases}\n[pgbouncer]\n{settings}\n");
        Arc::new(load_bytes("test.ini", text.as_bytes()).expect("it is in order"))
    }

    #[test]
    fn a_database_asks_its_own_question_and_else_the_common_one() {
        let config = config(
            "own = host=h auth_user=guard auth_query='SELECT 1, $1' auth_dbname=safe\nplain = host=h",
            "auth_user = common\nauth_query = SELECT 2, $1",
        );
        let question = |database| Question::for_clients_of(database, &config);

        let own = Question { auth_user: "guard", query: "SELECT 1, $1", database: "safe" };
        assert_eq!(question("own"), Some(own));
        let plain = Question { auth_user: "common", query: "SELECT 2, $1", database: "plain" };
        assert_eq!(question("plain"), Some(plain));
        let console = Question { auth_user: "common", query: "SELECT 2, $1", database: "pgbouncer" };
        assert_eq!(question("pgbouncer"), Some(console));
        assert_eq!(question("nosuchdb"), None, "nobody is to learn from outside that it does not exist");
    }

    #[test]
    fn without_auth_user_nobody_is_asked() {
        let config = config("* = host=h auth_dbname=safe", "auth_query = SELECT 2, $1");

        assert_eq!(Question::for_clients_of("app", &config), None);
        assert_eq!(Question::for_clients_of("pgbouncer", &config), None);
    }

    #[test]
    fn answers_are_forgotten_after_a_failure_a_change_of_the_configuration_and_when_there_are_too_many() {
        let (first, second) = (config("* = host=h", ""), config("* = host=h", ""));
        let looked_up = LookedUp::default();
        let answer = || Answer { name: "ann".into(), secret: Secret::parse("x"), asked: Moment(1) };
        let knows = |config, user: &str| looked_up.find(config, "app", user).is_some();

        looked_up.remember(&first, "app", "ann", answer());
        assert!(knows(&first, "ann") && !knows(&second, "ann") && !knows(&first, "bob"));
        looked_up.forget("app", "ann");
        assert!(!knows(&first, "ann"));
        for n in 0..=USERS_MAX.get() {
            looked_up.remember(&first, "app", &format!("user{n}"), answer());
        }
        assert!(!knows(&first, "user0") && knows(&first, "user1"));
        assert!(looked_up.find(&first, "other", "user1").is_none());
    }
}
