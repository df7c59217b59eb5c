//! What the variables of the three images mean: databases, logins, settings, and the defaults for want of a file.
//!
//! Pure: reads variables into a [`Draft`]. Where images differ, the difference is kept, since each is right for its
//! own users:
//!
//! - `DATABASES_USER` and `_PASSWORD` are the database's: every client becomes that user. The image has auth_type any,
//!   so that nobody has to prove anything; here the same pair is what clients log in with.
//! - `DB_USER` and `DB_PASSWORD`, or those of a URL, are a login. Servers are opened as whoever logged in, and
//!   auth_query looks up others as that user.
//! - `POSTGRESQL_USERNAME` and `_PASSWORD` are a login too; `PGBOUNCER_SET_DATABASE_USER` makes them the database's.

use super::super::draft::{Draft, Entry, Group, Login, Section};
use super::super::ini::{self, Item};
use super::super::keys::DATABASE_ROWS;
use super::super::problem::{Fault, Place};
use super::super::secret::Secret;
use super::super::settings::table;
use super::super::userlist;
use super::super::words::{SslMode, Word};
use super::super::{connstr, url};
use super::Around;
use super::names::{
    ALIASES, BARE_KEYS, DATABASES_PREFIX, DSN_PREFIX, IMAGE_PREFIX, NOT_BARE, NOT_FOR_IMAGES, dsn_number,
};
use super::variables::{Found, Variables};

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Images {
    groups: Vec<Group>,
    /// The strictest sslmode of the URLs.
    sslmode: Option<Found>,
    /// Users who administer the console for want of an admin_users.
    admins: Vec<String>,
    /// Which images' variables name servers.
    pgbouncer: bool,
    edoburu: bool,
    bitnami: bool,
    /// `DATABASE_URL` does, which is not that of one image alone.
    url: bool,
}

impl Images {
    /// Reads the variables that name servers and users. Those of `pgbouncer/pgbouncer` come last and so outrank the
    /// others where they name the same database.
    pub(super) fn targets(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        self.postgresql(draft, variables);
        self.numbered(draft, variables);
        self.edoburu(draft, variables);
        self.raw(draft, variables);
        self.databases(draft, variables);
        if self.pgbouncer || self.edoburu || self.url {
            self.admin("postgres");
        }
        let list = variables.take("PGBOUNCER_USERLIST", draft);
        if let Some(Found { value, place }) = list {
            match userlist::parse(value.as_bytes()) {
                Ok(users) => draft.logins.extend(users.into_logins(&place)),
                Err(faults) => {
                    for (line, fault) in faults {
                        let expected = format!("{fault} in line {line}");
                        draft.problem(place.clone(), "", Fault::expected_unseen(expected));
                    }
                }
            }
        }
    }

    /// Puts the databases into the draft, unless a file has its own: whoever wrote that list means it to be all.
    pub(super) fn put_targets(&mut self, draft: &mut Draft) {
        if draft.databases.is_empty() {
            draft.databases.append(&mut self.groups);
            let silent = !draft.settings.iter().any(|entry| entry.key == "server_tls_sslmode");
            if let Some(Found { value, place }) = self.sslmode.take().filter(|_| silent) {
                draft.setting("server_tls_sslmode", &value, place);
            }
            return;
        }
        let theirs = draft.databases[0].place.clone();
        for group in self.groups.drain(..) {
            draft.notices.push(format!("{}: makes no database, because {theirs} does", group.place));
        }
    }

    /// Reads the settings, by bare names and by `PGBOUNCER_` names, which outrank those.
    pub(super) fn settings(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        for row in table() {
            if NOT_FOR_IMAGES.iter().any(|(name, _)| *name == row.name) {
                continue;
            }
            let capitals = row.name.to_ascii_uppercase();
            let mut ranked = Vec::new();
            if !NOT_BARE.contains(&row.name) {
                ranked.extend(variables.take(&capitals, draft));
            }
            for (alias, _) in ALIASES.iter().rev().filter(|(_, setting)| *setting == row.name) {
                ranked.extend(variables.take(&format!("{IMAGE_PREFIX}{alias}"), draft));
            }
            ranked.extend(variables.take(&format!("{IMAGE_PREFIX}{capitals}"), draft));
            let Some(best) = ranked.pop() else { continue };
            for worse in ranked.iter().filter(|worse| worse.value != best.value) {
                draft.notices.push(format!("{}: has no effect, because {} says otherwise", worse.place, best.place));
            }
            if row.name == "auth_type" && best.value.eq_ignore_ascii_case("any") {
                draft.notices.push(format!("{}: whoever reaches the port is let in, without a password", best.place));
            }
            draft.setting(row.name, &best.value, best.place);
        }
    }

    /// Puts defaults in front of everything else, so that whatever is said outranks them.
    pub(super) fn put_defaults(&mut self, draft: &mut Draft, around: &Around) {
        let said = |draft: &Draft, name: &str| draft.settings.iter().any(|entry| entry.key == name);
        let mut defaults = vec![
            ("listen_addr", Found::default("*")),
            ("unix_socket_dir", Found::default("")),
            ("ignore_startup_parameters", Found::default("extra_float_digits")),
            ("admin_users", Found::default(&self.admins.join(","))),
        ];
        if let Some((path, place)) = &around.userlist {
            defaults.push(("auth_file", Found { value: path.clone(), place: place.clone() }));
        }

        // Secrets of a file may be md5 hashes, which no SCRAM login can be checked with; those of variables are plain.
        let has_file = said(draft, "auth_file") || around.userlist.is_some();
        let auth_type = if has_file && !self.bitnami { "md5" } else { "scram-sha-256" };
        defaults.push(("auth_type", Found::default(auth_type)));
        if self.pgbouncer && !said(draft, "auth_type") {
            draft.notices.push(format!(
                "auth_type is {auth_type}: the image pgbouncer/pgbouncer would take any and let everybody in without a \
                 password. Clients log in as DATABASES_USER with DATABASES_PASSWORD, or as auth_file says; \
                 PGBOUNCER_AUTH_TYPE changes that"
            ));
        }

        let alone = !self.pgbouncer && !self.bitnami;
        if alone && self.edoburu && !said(draft, "listen_port") {
            defaults.push(("listen_port", Found::default("5432")));
            draft.notices.push(
                "listen_port is 5432, as with the image edoburu/pgbouncer for DB_HOST and DATABASE_URLS; LISTEN_PORT \
                 changes that"
                    .to_string(),
            );
        } else if alone && self.url && !said(draft, "listen_port") {
            draft.notices.push(
                "listen_port is 6432, where the image edoburu/pgbouncer listens on 5432; LISTEN_PORT changes that"
                    .to_string(),
            );
        }
        let entries = defaults.into_iter().map(|(key, found)| entry(key, found));
        draft.settings.splice(0..0, entries);
    }

    /// `DATABASES_HOST` and its kin: one entry of `[databases]`, key by key.
    fn databases(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        let mut keys = Vec::new();
        for key in DATABASE_ROWS.iter().map(|row| row.name).chain(["reserve_pool"]) {
            let name = format!("{DATABASES_PREFIX}{}", key.to_ascii_uppercase());
            keys.extend(variables.take(&name, draft).map(|found| entry(key, found)));
        }
        let name = variables.take("DATABASES_CLIENT_SIDE_DBNAME", draft);
        let Some(host) = keys.iter().find(|entry| entry.key == "host") else {
            for entry in keys {
                draft.notices.push(format!("{}: has no effect without DATABASES_HOST", entry.place));
            }
            return;
        };
        self.pgbouncer = true;
        let place = host.place.clone();
        let find = |key: &str| keys.iter().find(|entry| entry.key == key);
        if let (Some(user), Some(password)) = (find("user"), find("password")) {
            draft.logins.push(login(user.value.reveal(), password.value.reveal(), &password.place));
        }
        let name = name.map_or_else(|| "*".to_string(), |found| found.value);
        self.groups.push(Group { name, place, keys });
    }

    /// `DATABASES_RAW`: lines of `[databases]`.
    fn raw(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        let Some(Found { value, place }) = variables.take("DATABASES_RAW", draft) else { return };
        self.pgbouncer = true;
        let parsed = ini::parse(value.as_bytes());
        for (line, fault) in parsed.faults {
            draft.problem(place.clone(), "", Fault::expected_unseen(format!("{fault} in line {line}")));
        }
        for (line, item) in parsed.items {
            match item {
                Item::Pair(name, value) => self.connection_string(&name, &value, &place, draft),
                Item::Section(name) if name == Section::NAMES[1] => {}
                Item::Section(_) | Item::Include(_) => {
                    let expected = format!("database = connection string in line {line}");
                    draft.problem(place.clone(), "", Fault::expected_unseen(expected));
                }
            }
        }
    }

    /// `PGBOUNCER_DSN_0` and so on: `database=connection string`.
    fn numbered(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        let mut numbers: Vec<u32> = variables.bases().into_iter().filter_map(dsn_number).collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(found) = variables.take(&format!("{DSN_PREFIX}{number}"), draft) else { continue };
            self.bitnami = true;
            match found.value.split_once('=') {
                Some((name, text)) => self.connection_string(name.trim(), text.trim(), &found.place, draft),
                None => draft.problem(found.place, "", Fault::expected_unseen("database=connection string")),
            }
        }
    }

    fn connection_string(&mut self, name: &str, text: &str, place: &Place, draft: &mut Draft) {
        match connstr::parse(text) {
            Ok(pairs) => {
                let keys = Entry::all_at(place, pairs);
                self.groups.push(Group { name: name.to_string(), place: place.clone(), keys });
            }
            Err(error) => draft.problem(place.clone(), name, Fault::expected_unseen(error.to_string())),
        }
    }

    /// `POSTGRESQL_HOST` and its kin.
    fn postgresql(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        let mut take = |name: &str| variables.take(name, draft);
        let host = take("POSTGRESQL_HOST");
        let user = take("POSTGRESQL_USERNAME");
        let password = take("POSTGRESQL_PASSWORD");
        let dbname = take("POSTGRESQL_DATABASE");
        let port = take("POSTGRESQL_PORT");
        let name = take("PGBOUNCER_DATABASE");
        let connect_query = take("PGBOUNCER_CONNECT_QUERY");
        let set_user = take("PGBOUNCER_SET_DATABASE_USER");
        let set_password = take("PGBOUNCER_SET_DATABASE_PASSWORD");

        let Some(said) = [&host, &user, &password, &dbname].into_iter().flatten().next() else {
            for found in [port, name, connect_query, set_user, set_password].into_iter().flatten() {
                draft.notices.push(format!("{}: has no effect without POSTGRESQL_HOST", found.place));
            }
            return;
        };
        let set_user = set_user.is_some_and(|found| yes(&found, draft));
        let set_password = set_password.is_some_and(|found| yes(&found, draft));
        self.bitnami = true;
        let place = said.place.clone();
        let user = user.unwrap_or_else(|| Found::default("postgres"));
        self.admin(&user.value);
        let secret = password.as_ref().map_or("", |found| &found.value);
        let login_place = password.as_ref().unwrap_or(&user).place.clone();
        draft.logins.push(login(&user.value, secret, &login_place));

        let name = name.unwrap_or_else(|| Found::default("postgres"));
        let dbname = match name.value.as_str() {
            "*" => None,
            _ => Some(dbname.unwrap_or_else(|| name.clone())),
        };
        let keys = [
            ("host", Some(host.unwrap_or_else(|| Found::default("postgresql")))),
            ("port", port),
            ("dbname", dbname),
            ("user", Some(user).filter(|_| set_user)),
            ("password", password.filter(|_| set_password)),
            ("connect_query", connect_query),
        ];
        let keys = keys.into_iter().filter_map(|(key, found)| Some(entry(key, found?))).collect();
        self.groups.push(Group { name: name.value, place, keys });
    }

    /// `DATABASE_URLS`, or for want of it `DATABASE_URL`, or for want of that `DB_HOST` and its kin.
    fn edoburu(&mut self, draft: &mut Draft, variables: &mut Variables<'_>) {
        let urls = variables.take("DATABASE_URLS", draft);
        let url = variables.take("DATABASE_URL", draft);
        let mut parts = Vec::new();
        for (name, key) in [("DB_HOST", "host"), ("DB_PORT", "port"), ("DB_NAME", "dbname")] {
            parts.extend(variables.take(name, draft).map(|found| entry(key, found)));
        }
        let user = variables.take("DB_USER", draft);
        let password = variables.take("DB_PASSWORD", draft);
        let host = parts.iter().find(|entry| entry.key == "host").map(|entry| entry.place.clone());
        let login_places = [&user, &password].into_iter().flatten().map(|found| &found.place);
        let pieces: Vec<Place> = parts.iter().map(|entry| &entry.place).chain(login_places).cloned().collect();
        self.edoburu = urls.is_some() || host.is_some();
        self.url = url.is_some();

        let first = self.groups.len();
        match (urls, url, host) {
            (Some(urls), url, _) => {
                overruled(url.map(|found| found.place).into_iter().chain(pieces), &urls.place, draft);
                for text in split_urls(&urls.value) {
                    self.url(text, &urls.place, draft);
                }
            }
            (None, Some(url), _) => {
                overruled(pieces, &url.place, draft);
                self.url(&url.value, &url.place, draft);
            }
            (None, None, Some(place)) => {
                let name = parts.iter().find(|entry| entry.key == "dbname");
                let name = name.map_or_else(|| "*".to_string(), |entry| entry.value.reveal().to_string());
                if let Some(user) = user {
                    let secret = password.as_ref().map_or("", |found| &found.value);
                    let login_place = password.as_ref().unwrap_or(&user).place.clone();
                    draft.logins.push(login(&user.value, secret, &login_place));
                    parts.push(entry("auth_user", user));
                }
                self.groups.push(Group { name, place, keys: parts });
            }
            (None, None, None) => {
                for place in pieces {
                    draft.notices.push(format!("{place}: has no effect without DB_HOST"));
                }
            }
        }
        if first < self.groups.len() {
            for (name, key) in BARE_KEYS {
                let Some(found) = variables.take(name, draft) else { continue };
                for group in &mut self.groups[first..] {
                    group.keys.push(entry(key, found.clone()));
                }
            }
        }
    }

    /// One URL: a database of the URL's name, or `*`, and a login.
    fn url(&mut self, text: &str, place: &Place, draft: &mut Draft) {
        let parts = match url::parse(text) {
            Ok(parts) => parts,
            Err(error) => return draft.problem(place.clone(), "", Fault::expected_unseen(error.to_string())),
        };
        let mut keys: Vec<(String, String)> = Vec::new();
        let list = |items: &[String]| Some(items.join(",")).filter(|_| !items.is_empty());
        keys.extend(list(&parts.hosts).map(|hosts| ("host".to_string(), hosts)));
        keys.extend(list(&parts.ports).map(|ports| ("port".to_string(), ports)));
        keys.extend(parts.dbname.map(|name| ("dbname".to_string(), name)));
        let (mut user, mut password) = (parts.user, parts.password);
        for (key, value) in parts.parameters {
            match key.as_str() {
                "host" | "port" | "dbname" | "client_encoding" | "application_name" => {
                    keys.retain(|(known, _)| *known != key);
                    keys.push((key, value));
                }
                "user" => user = Some(value),
                "password" => password = Some(Secret::new(value)),
                "sslmode" => self.sslmode(Found { value, place: place.clone() }, draft),
                _ => draft.notices.push(format!("{place}: parameter {key} has no effect")),
            }
        }
        if let Some(user) = user {
            draft.logins.push(login(&user, password.as_ref().map_or("", Secret::reveal), place));
            keys.push(("auth_user".to_string(), user));
        }
        let name = keys.iter().find(|(key, _)| key == "dbname").map_or("*", |(_, name)| name).to_string();
        self.groups.push(Group { name, place: place.clone(), keys: Entry::all_at(place, keys) });
    }

    /// There is one setting for all servers, so the strictest of the URLs counts.
    fn sslmode(&mut self, found: Found, draft: &mut Draft) {
        let rank = |text: &str| SslMode::WORDS.iter().position(|(word, _)| word.eq_ignore_ascii_case(text));
        if let Some(before) = &self.sslmode {
            if before.value != found.value {
                draft.notices.push(format!("{}: the strictest sslmode counts for all servers", found.place));
            }
            if rank(&before.value) > rank(&found.value) {
                return;
            }
        }
        self.sslmode = Some(found);
    }

    fn admin(&mut self, user: &str) {
        if !self.admins.iter().any(|admin| admin == user) {
            self.admins.push(user.to_string());
        }
    }
}

/// Says of variables that another one of the same image leaves them nothing to say.
fn overruled(places: impl IntoIterator<Item = Place>, by: &Place, draft: &mut Draft) {
    for place in places {
        draft.notices.push(format!("{place}: has no effect, because {by} is set"));
    }
}

/// URLs separated by commas; a comma inside one separates its hosts.
fn split_urls(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    for (comma, _) in text.match_indices(',') {
        let next = text[comma + 1..].trim_start();
        if next.split(',').next().is_some_and(|next| next.contains("://")) {
            starts.push(comma + 1);
        }
    }
    let ends = starts.iter().skip(1).map(|start| start - 1).chain([text.len()]);
    let pieces = starts.iter().zip(ends).map(|(start, end)| text[*start..end].trim().trim_end_matches(','));
    pieces.filter(|url| !url.is_empty()).collect()
}

/// A switch as `bitnami/pgbouncer` reads it, but strict: other words are a problem.
fn yes(found: &Found, draft: &mut Draft) -> bool {
    let is = |words: &[&str]| words.iter().any(|word| found.value.eq_ignore_ascii_case(word));
    if !is(&["yes", "true", "1", "no", "false", "0"]) {
        draft.problem(found.place.clone(), "", Fault::expected("yes or no", &found.value));
    }
    is(&["yes", "true", "1"])
}

fn entry(key: &str, found: Found) -> Entry {
    Entry { key: key.to_string(), value: Secret::new(found.value), place: found.place }
}

fn login(user: &str, secret: &str, place: &Place) -> Login {
    Login { user: user.to_string(), secret: Secret::new(secret), place: place.clone() }
}
