//! Reads what there is to read: the only file of this room that touches files.
//!
//! Follows `%include`, finds the sections of an ini file, reads `auth_file`, and hands out a [`Config`] or every
//! problem there is. Called at the start and again for each RELOAD. Reading blocks, so call it off the I/O threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::draft::{Draft, Entry, Group, Section};
use super::env::names::{CONFFILE, CONFIG_DIRS};
use super::hba::{ClientCert, HbaMethod};
use super::ini::{self, Item};
use super::ldap::LdapOptions;
use super::problem::{Fault, Place, Problem, nearest};
use super::records::{Files, Skipped};
use super::settings::{Settings, table};
use super::words::AuthType;
use super::{Config, Given, connstr, env, hba, ident, resolve, toml, userlist};

/// How deep `%include` may nest, as in PgBouncer.
const INCLUDE_DEPTH_MAX: usize = 10;

/// Where to look for the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file; TOML where its name ends in `.toml`. Without one, the environment names it or says it
    /// all.
    pub conffile: Option<PathBuf>,
    /// The environment's variables, names and values.
    pub environment: Vec<(String, String)>,
    /// Settings from the command line, names and values.
    pub overrides: Vec<(String, String)>,
    /// Is this a RELOAD? Then an `auth_file` that cannot be read is a problem, or its users would be gone; a process
    /// that starts goes on without them, as PgBouncer does.
    pub reload: bool,
    /// Settings from the command line that everything else outranks, as PgBouncer has it with -v.
    pub fallbacks: Vec<(String, String)>,
}

/// Reads and checks the whole configuration.
///
/// # Errors
/// Every problem of every source, in the order of the files; then nothing of it may be used.
pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    let list = |path: &Path| -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    load_from(sources, &Files { read: &|path| std::fs::read(path), list: &list })
}

/// Takes `bytes` for the configuration file called `name`, without reading any other: what it includes, and its
/// `auth_file`, count as not there.
///
/// # Errors
/// As for [`load`].
pub fn load_bytes(name: &str, bytes: &[u8]) -> Result<Config, Vec<Problem>> {
    let sources = Sources { conffile: Some(name.into()), ..Sources::default() };
    load_with(&sources, &|path| match path == Path::new(name) {
        true => Ok(bytes.to_vec()),
        false => Err(io::ErrorKind::NotFound.into()),
    })
}

/// Takes these variables for the whole environment and reads no file: what they name counts as not there.
///
/// # Errors
/// As for [`load`].
pub fn load_environment(variables: &[(String, String)]) -> Result<Config, Vec<Problem>> {
    let sources = Sources { environment: variables.to_vec(), ..Sources::default() };
    load_with(&sources, &|_| Err(io::ErrorKind::NotFound.into()))
}

/// Gives a file's bytes; a table of files in tests.
pub(super) type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// As [`load`], with files from elsewhere.
pub(super) fn load_with(sources: &Sources, read: Read<'_>) -> Result<Config, Vec<Problem>> {
    load_from(sources, &Files { read, list: &|_| Err(io::ErrorKind::NotFound.into()) })
}

fn load_from(sources: &Sources, files: &Files<'_>) -> Result<Config, Vec<Problem>> {
    let read = files.read;
    let mut draft = Draft::default();
    env::apply_command_line(&mut draft, &sources.fallbacks);
    let found = find(sources, read, &mut draft);
    if let Some((path, _)) = &found.conffile {
        match path.extension().is_some_and(|extension| extension == "toml") {
            true => read_toml(path, read, &mut draft),
            false => read_ini(path, read, &mut draft),
        }
    }
    let around = env::Around { file: found.conffile.is_some(), userlist: found.userlist };
    env::apply_environment(&mut draft, &sources.environment, read, &around);
    env::apply_command_line(&mut draft, &sources.overrides);

    let (mut config, mut problems) = resolve::resolve(draft);
    if let Some((path, place)) = found.conffile {
        let (name, value) = ("conffile".to_string(), path.display().to_string());
        config.given.insert(0, Given { name, value, place });
        config.settings.conffile.get_or_insert_with(|| path.clone());
        config.path = Some(path);
    }
    read_users(&mut config, sources.reload, read, &mut problems);
    read_records(&mut config, sources.reload, files, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// What there is to read, and who said so.
#[derive(Default)]
struct Found {
    conffile: Option<(PathBuf, Place)>,
    /// A list of users in place of `auth_file`, where there is no configuration file.
    userlist: Option<(String, Place)>,
}

/// Looks for the configuration file: the command line names it, or `PGWEIR_CONFFILE` does, or one lies in a folder of
/// `PGWEIR_CONFIG_DIRS`. The last is for images: whoever mounts a file where they always did finds it read.
fn find(sources: &Sources, read: Read<'_>, draft: &mut Draft) -> Found {
    let named = env::early(&sources.environment, CONFFILE);
    if let Some(path) = &sources.conffile {
        if let Some(other) = named.filter(|other| Path::new(other) != path) {
            draft
                .notices
                .push(format!("environment: {CONFFILE}: {other} is not read, because the command names a file"));
        }
        return Found { conffile: Some((path.clone(), Place::CommandLine)), userlist: None };
    }
    if let Some(path) = named {
        return Found { conffile: Some((path.into(), Place::Variable(CONFFILE.into()))), userlist: None };
    }
    let Some(dirs) = env::early(&sources.environment, CONFIG_DIRS) else { return Found::default() };
    // What cannot be read is there, and will be a problem; what is not there is not.
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    let there = |path: &Path| read(path).err().is_none_or(|error| !absent.contains(&error.kind()));
    let place = Place::Variable(CONFIG_DIRS.into());
    let dirs: Vec<&Path> = dirs.split(':').filter(|dir| !dir.is_empty()).map(Path::new).collect();
    let first =
        |names: &[&str]| dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))).find(|path| there(path));
    if let Some(path) = first(&["pgweir.toml", "pgbouncer.ini"]) {
        return Found { conffile: Some((path, place)), userlist: None };
    }
    if !env::environment_names_a_server(&sources.environment) {
        let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let expected = format!(
            "a pgweir.toml or pgbouncer.ini in {}, or a variable that names a server: DATABASES_HOST, DATABASE_URL, \
             DB_HOST or POSTGRESQL_HOST",
            dirs.join(" or ")
        );
        draft.problem(place.clone(), "", Fault::expected_unseen(expected));
    }
    Found { conffile: None, userlist: first(&["userlist.txt"]).map(|path| (path.display().to_string(), place)) }
}

fn read_toml(path: &Path, read: Read<'_>, draft: &mut Draft) {
    let file: Arc<str> = path.display().to_string().into();
    draft.files.push(Arc::clone(&file));
    match read(path) {
        Err(error) => draft.problem(Place::File(file), "", Fault::Unreadable(error.kind())),
        Ok(bytes) => match std::str::from_utf8(&Zeroizing::new(bytes)) {
            Ok(text) => toml::parse(text, &file, draft),
            Err(_) => draft.problem(Place::File(file), "", Fault::expected_unseen("text in UTF-8")),
        },
    }
}

fn read_ini(path: &Path, read: Read<'_>, draft: &mut Draft) {
    let mut reader = IniReader { read, draft, section: Where::Nowhere, settings_begun: false };
    let place = Place::File(path.display().to_string().into());
    reader.file(path, place.clone(), 0);
    let unread = reader.draft.problems.iter().any(|problem| matches!(problem.fault, Fault::Unreadable(_)));
    if !reader.settings_begun && !unread {
        draft.problem(place, "", Fault::expected_unseen("a section [pgbouncer]"));
    }
}

/// Puts the items of an ini file and of those it includes into the draft.
struct IniReader<'a> {
    read: Read<'a>,
    draft: &'a mut Draft,
    /// Where the next pair belongs. An included file starts in, and may change, the section of the one including it.
    section: Where,
    settings_begun: bool,
}

#[derive(Clone, Copy)]
enum Where {
    /// Before the first section.
    Nowhere,
    /// In a section of unknown name, which has been reported.
    Unknown,
    In(Section),
}

impl IniReader<'_> {
    /// Reads a file, `from` where its name stands.
    fn file(&mut self, path: &Path, from: Place, depth: usize) {
        let file: Arc<str> = path.display().to_string().into();
        let key = if depth == 0 { "" } else { &file };
        if depth > INCLUDE_DEPTH_MAX {
            let expected = format!("at most {INCLUDE_DEPTH_MAX} files including each other");
            return self.draft.problem(from, key, Fault::expected_unseen(expected));
        }
        let bytes = match (self.read)(path) {
            Ok(bytes) => bytes,
            Err(error) => return self.draft.problem(from, key, Fault::Unreadable(error.kind())),
        };
        if !self.draft.files.contains(&file) {
            self.draft.files.push(Arc::clone(&file));
        }

        let bytes = Zeroizing::new(bytes);
        let parsed = ini::parse(&bytes);
        for (line, fault) in parsed.faults {
            let place = Place::Line(Arc::clone(&file), line);
            self.draft.problem(place, "", Fault::expected_unseen(fault.to_string()));
        }
        for (line, item) in parsed.items {
            let place = Place::Line(Arc::clone(&file), line);
            match item {
                Item::Include(path) => self.file(Path::new(&path), place, depth + 1),
                Item::Section(name) => self.begin(&name, place),
                Item::Pair(key, value) => self.pair(&key, &Zeroizing::new(value), place),
            }
        }
    }

    fn begin(&mut self, name: &str, place: Place) {
        self.section = match Section::named(name) {
            Some(section) => Where::In(section),
            None => {
                let near = nearest(name, Section::NAMES);
                self.draft.problem(place.clone(), name, Fault::Unknown { what: "section", near });
                Where::Unknown
            }
        };
        if let Where::In(Section::Settings) = self.section {
            if self.settings_begun {
                self.reset(&place);
            }
            self.settings_begun = true;
        }
    }

    /// A second `[pgbouncer]` puts every setting with a default back to it, as in PgBouncer: a file that has worked
    /// there must not mean something else here. Whoever wrote it hears of it.
    fn reset(&mut self, place: &Place) {
        let mut reset = Vec::new();
        for row in table() {
            let set_before = self.draft.settings.iter().any(|entry| entry.key == row.name);
            if let Some(default) = row.default.filter(|_| set_before) {
                self.draft.setting(row.name, default, place.clone());
                reset.push(row.name);
            }
        }
        if !reset.is_empty() {
            let names = reset.join(", ");
            let notice = format!("{place}: [pgbouncer] again, so these go back to their defaults first: {names}");
            self.draft.notices.push(notice);
        }
    }

    fn pair(&mut self, key: &str, value: &str, place: Place) {
        let section = match self.section {
            Where::In(Section::Settings) => return self.draft.setting(key, value, place),
            Where::In(section) => section,
            Where::Unknown => return,
            Where::Nowhere => {
                return self.draft.problem(place, key, Fault::expected_unseen("a [section] above it"));
            }
        };
        match connstr::parse(value) {
            Ok(pairs) => {
                let keys = Entry::all_at(&place, pairs);
                self.draft.group(section, Group { name: key.to_string(), place, keys });
            }
            Err(error) => self.draft.problem(place, key, Fault::expected_unseen(error.to_string())),
        }
    }
}

/// Reads `auth_file`.
fn read_users(config: &mut Config, reload: bool, read: Read<'_>, problems: &mut Vec<Problem>) {
    let Settings { auth_file: Some(path), auth_type, .. } = &config.settings else {
        return;
    };
    let file: Arc<str> = path.display().to_string().into();
    let problem = |place, fault| Problem { place, key: "auth_file".into(), fault };
    match read(path) {
        Err(error) if !reload || *auth_type == AuthType::Any => {
            let problem = problem(Place::File(file), Fault::Unreadable(error.kind()));
            config.notices.push(format!("{problem}; its users are not known"));
        }
        Err(error) => problems.push(problem(Place::File(file), Fault::Unreadable(error.kind()))),
        Ok(bytes) => match userlist::parse(&Zeroizing::new(bytes)) {
            Ok(secrets) => {
                for user in config.secrets.contradicted_by(&secrets) {
                    let login = format!("login {user}");
                    let place = config.given.iter().find(|given| given.name == login).map(|given| &given.place);
                    let place = place.map_or_else(String::new, |place| format!("{place}: "));
                    config.notices.push(format!("{place}has no effect for {login}, because {file} says otherwise"));
                }
                config.secrets.add_all(secrets.into_pairs());
            }
            Err(faults) => problems.extend(faults.into_iter().map(|(line, fault)| {
                problem(Place::Line(Arc::clone(&file), line), Fault::expected_unseen(fault.to_string()))
            })),
        },
    }
}

/// Reads `auth_hba_file` and `auth_ident_file`. They are read whatever auth_type is, so that SET can choose hba, but
/// what is wrong with them matters only when they count.
fn read_records(config: &mut Config, reload: bool, files: &Files<'_>, problems: &mut Vec<Problem>) {
    let Settings { auth_type, auth_hba_file, auth_ident_file, .. } = &config.settings;
    let counts = *auth_type == AuthType::Hba;
    let mut notices = Vec::new();
    let mut found = Vec::new();
    let unreadable = |path: &Path, key: &str, error: io::Error| Problem {
        place: Place::File(path.display().to_string().into()),
        key: key.into(),
        fault: Fault::Unreadable(error.kind()),
    };
    let passed_over = |line: &Skipped| format!("{}: this line is passed over: {}", line.place, line.why);

    let mut maps = ident::IdentMaps::default();
    if let Some(path) = auth_ident_file {
        match ident::read(path, files) {
            Ok(read) => {
                notices.extend(read.skipped.iter().map(passed_over));
                maps = read.maps;
            }
            Err(error) => found.push(unreadable(path, "auth_ident_file", error)),
        }
    }
    match auth_hba_file {
        None => notices.push("auth_type is hba, but auth_hba_file is not set: nobody can log in".into()),
        Some(path) => match hba::read(path, files, &maps) {
            Ok(read) => {
                for line in &read.skipped {
                    match line.fatal {
                        false => notices.push(passed_over(line)),
                        true => problems.extend(counts.then(|| Problem {
                            place: line.place.clone(),
                            key: "auth_hba_file".into(),
                            fault: Fault::expected_unseen(format!(
                                "a line that can be followed, or passing over it could let in whom it keeps out ({})",
                                line.why
                            )),
                        })),
                    }
                }
                for record in read.hba.records() {
                    if record.clientcert != ClientCert::Off && config.settings.client_tls_ca_file.is_none() {
                        let why = "clientcert: client_tls_ca_file is not set: whom this line fits is refused";
                        notices.push(format!("{}: {why}", record.place));
                    }
                    let why = match &record.method {
                        HbaMethod::Pam(Err(why)) => why.clone(),
                        HbaMethod::Ldap(options) => match LdapOptions::parse(options.reveal()) {
                            Ok(_) => continue,
                            Err(why) => why,
                        },
                        _ => continue,
                    };
                    // Not passed over: a later line might let in whom this one is for.
                    notices.push(format!("{}: {why}: whom this line fits is refused", record.place));
                }
                config.hba = read.hba;
            }
            Err(error) => found.push(unreadable(path, "auth_hba_file", error)),
        },
    }
    if counts && reload {
        problems.append(&mut found);
    }
    if counts {
        notices.extend(found.iter().map(|problem| format!("{problem}; it is taken for empty")));
        config.notices.append(&mut notices);
    }
}

#[cfg(test)]
mod tests;
