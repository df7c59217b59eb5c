//! Draft → `Config`: names become fields, texts become values, and everything is checked.
//!
//! Pure: takes all that the front ends gathered and gives a configuration together with *all* its problems. Where a
//! value is wrong the default stands in, so that checking can go on; `load` hands out the result only when there is no
//! problem. What is right but has no effect becomes a notice, each with its place.

use std::collections::{BTreeMap, HashMap};

use super::draft::{Draft, Entry, Group, Login};
use super::keys::{DATABASE_ROWS, DatabaseKeys, PEER_ROWS, PeerKeys, USER_ROWS, current_name};
use super::problem::{Fault, Place, Problem, nearest};
use super::settings::{Settings, table};
use super::table::{Misfit, SettingInfo};
use super::userlist::{SECRET_LENGTH_MAX, USER_LENGTH_MAX};
use super::values::{CONSOLE, Kind};
use super::words::{AuthType, SyslogFacility};
use super::{Config, DATABASE_LENGTH_MAX, Database, Given, Host, Peer, UserRules, connstr};

/// The configuration a draft describes, and everything that is wrong with it, in the order of the files' lines.
pub(super) fn resolve(mut draft: Draft) -> (Config, Vec<Problem>) {
    let problems = std::mem::take(&mut draft.problems);
    let mut resolver = Resolver { problems, notices: std::mem::take(&mut draft.notices) };
    let settings = resolver.settings(&draft.settings);
    let needs_users = !matches!(settings.auth_type, AuthType::Any | AuthType::Ldap | AuthType::Pam);
    if needs_users && settings.auth_file.is_none() && settings.auth_user.is_none() && draft.logins.is_empty() {
        resolver.notices.push(format!("auth_type is {}, but auth_file is not set", settings.auth_type));
    }

    let mut config = Config::default();
    for group in &draft.databases {
        let database = resolver.database(group, &settings);
        if config.databases.insert(group.name.clone(), database).is_some() {
            resolver.notice(&group.place, &group.name, "stands here again; this one counts");
        }
    }
    for group in &draft.users {
        config.users.insert(group.name.clone(), resolver.user(group));
    }
    for group in &draft.peers {
        config.peers.extend(resolver.peer(group));
    }
    config.given = given(&draft, &settings);
    let mut logins: HashMap<String, Login> = HashMap::new();
    for login in draft.logins {
        if let Some(before) = logins.get(&login.user).filter(|before| before.secret != login.secret) {
            let fact = format!("has no effect for login {}, because {} says otherwise", login.user, login.place);
            resolver.notices.push(format!("{}: {fact}", before.place));
        }
        logins.insert(login.user.clone(), login);
    }
    config.secrets.add_all(logins.into_values().map(|Login { user, secret, .. }| (user, secret)));
    config.settings = settings;
    config.notices = resolver.notices;

    let order: HashMap<&str, usize> = draft.files.iter().map(|file| file.as_ref()).zip(0..).collect();
    let mut problems = resolver.problems;
    problems.sort_by_key(|problem| match &problem.place {
        Place::File(file) => (order.get(file.as_ref()).copied().unwrap_or(usize::MAX), 0),
        Place::Line(file, line) => (order.get(file.as_ref()).copied().unwrap_or(usize::MAX), *line),
        Place::Variable(_) | Place::CommandLine | Place::Container => (usize::MAX, u32::MAX),
    });
    (config, problems)
}

struct Resolver {
    problems: Vec<Problem>,
    notices: Vec<String>,
}

impl Resolver {
    fn settings(&mut self, entries: &[Entry]) -> Settings {
        let mut settings = Settings::default();
        let mut places: HashMap<&str, &Place> = HashMap::new();
        for entry in entries {
            let misfit = settings.assign(&entry.key, entry.value.reveal()).err();
            self.misfit(misfit, entry, "", &table());
            places.insert(&entry.key, &entry.place);
        }

        let place = |name: &str| places.get(name).map_or(Place::CommandLine, |place| (*place).clone());
        if let Some((name, why)) = settings.unsafe_to_run() {
            let row = settings.show().into_iter().find(|row| row.name == name);
            let got = row.and_then(|row| row.value).unwrap_or_default();
            self.problem(place(name), name, Fault::expected(format!("another value ({why})"), &got));
        }
        if SyslogFacility::named(&settings.syslog_facility).is_none() {
            let fact = format!("is not {}; daemon counts", SyslogFacility::expected());
            self.notice(&place("syslog_facility"), "syslog_facility", &fact);
        }
        if let Some(why) = settings.lacks_for_ldap() {
            let blamed = if settings.auth_ldap_options.is_some() { "auth_ldap_options" } else { "auth_type" };
            self.notices.push(format!("{}: {why}: nobody can log in", place(blamed)));
        }
        if settings.default_pool_size > 0 && settings.min_pool_size > settings.default_pool_size {
            self.notice(&place("min_pool_size"), "min_pool_size", "is more than default_pool_size, which counts");
        }
        settings
    }

    fn database(&mut self, group: &Group, settings: &Settings) -> Database {
        let mut keys = DatabaseKeys::default();
        for entry in &group.keys {
            let misfit = keys.assign(current_name(&entry.key), entry.value.reveal()).err();
            self.misfit(misfit, entry, &group.name, &DATABASE_ROWS.iter().collect::<Vec<_>>());
        }

        if group.name == CONSOLE {
            let expected = format!("a name other than {CONSOLE}, which is the console's");
            self.problem(group.place.clone(), &group.name, Fault::expected_unseen(expected));
        }
        self.limit(group, "", group.name.len(), DATABASE_LENGTH_MAX);
        self.limit(group, "dbname", keys.dbname.as_ref().map_or(0, String::len), DATABASE_LENGTH_MAX);
        self.limit(group, "user", keys.user.as_ref().map_or(0, String::len), USER_LENGTH_MAX);
        self.limit(group, "password", keys.password.as_ref().map_or(0, |s| s.reveal().len()), SECRET_LENGTH_MAX);
        if keys.password.is_some() && keys.user.is_none() {
            self.notice(&group.place, &group.name, "has a password without a user; it has no effect");
        }
        if keys.auth_dbname.as_deref() == Some(CONSOLE) {
            let place = place_of(group, "auth_dbname").clone();
            self.notice(
                &place,
                &group.name,
                "has the console for its auth_dbname; users not in auth_file cannot log in",
            );
        }
        let pool_size = keys.pool_size.unwrap_or(settings.default_pool_size);
        if pool_size > 0 && keys.min_pool_size.is_some_and(|min| min > pool_size) {
            self.notice(&group.place, &group.name, "has a min_pool_size above its pool_size, which counts");
        }

        let hosts = self.hosts(group, &keys, settings);
        let startup = [
            ("client_encoding", keys.client_encoding),
            ("datestyle", keys.datestyle),
            ("timezone", keys.timezone),
            ("application_name", keys.application_name),
        ];
        Database {
            name: group.name.clone(),
            dbname: keys.dbname,
            hosts,
            user: keys.user,
            password: keys.password,
            auth_user: keys.auth_user,
            auth_query: keys.auth_query,
            auth_dbname: keys.auth_dbname,
            pool_size: keys.pool_size,
            min_pool_size: keys.min_pool_size,
            reserve_pool_size: keys.reserve_pool_size,
            pool_mode: keys.pool_mode,
            max_db_connections: keys.max_db_connections,
            max_db_client_connections: keys.max_db_client_connections,
            server_lifetime: keys.server_lifetime,
            query_wait_timeout: keys.query_wait_timeout,
            load_balance_hosts: keys.load_balance_hosts,
            connect_query: keys.connect_query,
            startup: startup.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect(),
        }
    }

    /// The hosts of a database: each with its port, or all with the one port there is.
    fn hosts(&mut self, group: &Group, keys: &DatabaseKeys, settings: &Settings) -> Vec<Host> {
        let port = |n: usize| keys.port.get(n).or(keys.port.first()).copied().unwrap_or(5432);
        if keys.host.is_empty() {
            let Some(dir) = &settings.unix_socket_dir else {
                let expected = "a host, since unix_socket_dir is empty";
                self.problem(group.place.clone(), &group.name, Fault::expected_unseen(expected));
                return Vec::new();
            };
            return vec![Host::Unix { dir: dir.clone(), port: port(0) }];
        }
        if keys.port.len() > 1 && keys.port.len() != keys.host.len() {
            let expected = format!("one port, or {} as there are hosts", keys.host.len());
            let place = place_of(group, "port").clone();
            self.problem(place, &format!("{}: port", group.name), Fault::expected_unseen(expected));
        }
        keys.host.iter().enumerate().map(|(n, host)| Host::new(host, port(n))).collect()
    }

    fn user(&mut self, group: &Group) -> UserRules {
        let mut rules = UserRules::default();
        for entry in &group.keys {
            let misfit = rules.assign(&entry.key, entry.value.reveal()).err();
            self.misfit(misfit, entry, &group.name, &USER_ROWS.iter().collect::<Vec<_>>());
        }
        self.limit(group, "", group.name.len(), USER_LENGTH_MAX);
        rules
    }

    fn peer(&mut self, group: &Group) -> Option<(u32, Peer)> {
        let mut keys = PeerKeys::default();
        for entry in &group.keys {
            let misfit = keys.assign(&entry.key, entry.value.reveal()).err();
            self.misfit(misfit, entry, &group.name, &PEER_ROWS.iter().collect::<Vec<_>>());
        }

        let id = group.name.parse().ok().filter(|id| (1..=65_535).contains(id));
        if id.is_none() {
            let fault = Fault::expected("a peer's number from 1 to 65535", &group.name);
            self.problem(group.place.clone(), &group.name, fault);
        }
        if keys.host.is_none() {
            self.problem(group.place.clone(), &group.name, Fault::expected_unseen("a host"));
        }
        let port = keys.port.first().copied().unwrap_or(6432);
        Some((id?, Peer { host: Host::new(&keys.host?, port), pool_size: keys.pool_size }))
    }

    /// Turns what `assign` refused into a problem; `owner` is the entry the key belongs to, empty for `[pgbouncer]`.
    fn misfit(&mut self, misfit: Option<Misfit>, entry: &Entry, owner: &str, rows: &[&'static SettingInfo]) {
        let fault = match misfit {
            None => return,
            Some(Misfit::Unknown) => {
                let what = if owner.is_empty() { "setting" } else { "key" };
                Fault::Unknown { what, near: nearest(&entry.key, rows.iter().map(|row| row.name)) }
            }
            Some(Misfit::Value(name)) => {
                let row = rows.iter().find(|row| row.name == name);
                let expected = row.map_or_else(String::new, |row| (row.expected)());
                match row.is_some_and(|row| row.secret) {
                    true => Fault::expected_unseen(expected),
                    false => Fault::expected(expected, entry.value.reveal()),
                }
            }
        };
        let key = if owner.is_empty() { entry.key.clone() } else { format!("{owner}: {}", entry.key) };
        self.problem(entry.place.clone(), &key, fault);
    }

    fn limit(&mut self, group: &Group, key: &str, length: usize, most: usize) {
        if length > most {
            let (key, what) = match key {
                "" => (group.name.clone(), "a name"),
                key => (format!("{}: {key}", group.name), "text"),
            };
            let expected = format!("{what} of at most {most} bytes");
            self.problem(group.place.clone(), &key, Fault::expected_unseen(expected));
        }
    }

    fn problem(&mut self, place: Place, key: &str, fault: Fault) {
        self.problems.push(Problem { place, key: key.to_string(), fault });
    }

    fn notice(&mut self, place: &Place, what: &str, fact: &str) {
        self.notices.push(format!("{place}: {what} {fact}"));
    }
}

/// Everything that is not as by default, with its place: settings by name, then entries, then who may log in.
fn given(draft: &Draft, settings: &Settings) -> Vec<Given> {
    let mut given = Vec::new();
    let differences = settings.differences(&Settings::default());
    for (row, shown) in table().into_iter().zip(settings.show()) {
        let entry = draft.settings.iter().rfind(|entry| entry.key == row.name);
        let Some(entry) = entry.filter(|_| differences.iter().any(|other| other.name == row.name)) else { continue };
        let value = if row.secret { STARS.to_string() } else { shown.value.unwrap_or_default() };
        given.push(Given { name: row.name.to_string(), value, place: entry.place.clone() });
    }
    for (what, groups) in [("database", &draft.databases), ("user", &draft.users), ("peer", &draft.peers)] {
        let mut last: BTreeMap<&str, &Group> = BTreeMap::new();
        last.extend(groups.iter().map(|group| (group.name.as_str(), group)));
        let left = last.len().saturating_sub(GIVEN_ENTRIES_MAX);
        for group in last.values().take(GIVEN_ENTRIES_MAX) {
            let shown = |entry: &Entry| match HIDDEN_KEYS.contains(&entry.key.as_str()) {
                true => (entry.key.clone(), STARS.to_string()),
                false => (entry.key.clone(), entry.value.reveal().to_string()),
            };
            let value = connstr::print(&group.keys.iter().map(shown).collect::<Vec<_>>());
            given.push(Given { name: format!("{what} {}", group.name), value, place: group.place.clone() });
            // In a file all keys stand together; in the environment each has a variable.
            let elsewhere = |entry: &&Entry| matches!(entry.place, Place::Variable(_) | Place::Container);
            for entry in group.keys.iter().filter(elsewhere).filter(|entry| entry.place != group.place) {
                let (key, value) = shown(entry);
                given.push(Given { name: format!("{what} {}: {key}", group.name), value, place: entry.place.clone() });
            }
        }
        if left > 0 {
            let place = groups.last().map_or(Place::CommandLine, |group| group.place.clone());
            given.push(Given { name: format!("{left} more"), value: format!("{what}s not listed"), place });
        }
    }
    let mut logins: BTreeMap<&str, &Login> = BTreeMap::new();
    logins.extend(draft.logins.iter().map(|login| (login.user.as_str(), login)));
    for (user, login) in logins {
        given.push(Given { name: format!("login {user}"), value: STARS.to_string(), place: login.place.clone() });
    }
    given
}

/// What stands in the log in place of a secret.
const STARS: &str = "***";

/// Keys of entries that may hold a secret.
const HIDDEN_KEYS: [&str; 2] = ["password", "connect_query"];

/// As many entries of a section are listed at the start.
const GIVEN_ENTRIES_MAX: usize = 100;

/// Where a key of an entry stands; the entry itself where the key is not written.
fn place_of<'a>(group: &'a Group, key: &str) -> &'a Place {
    group.keys.iter().rfind(|entry| entry.key == key).map_or(&group.place, |entry| &entry.place)
}
