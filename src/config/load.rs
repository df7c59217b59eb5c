//! Reads what there is to read: the only file of this room that touches files.
//!
//! Follows `%include`, finds the sections of an ini file, reads `auth_file`, and hands out a [`Config`] or every
//! problem there is. Called at the start and again for each RELOAD. Reading blocks, so call it off the I/O threads.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::draft::{Draft, Entry, Group, Section};
use super::ini::{self, Item};
use super::problem::{Fault, Place, Problem, nearest};
use super::settings::{Settings, table};
use super::words::AuthType;
use super::{Config, connstr, env, resolve, toml, userlist};

/// How deep `%include` may nest, as in PgBouncer.
const INCLUDE_DEPTH_MAX: usize = 10;

/// Where to look for the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file; TOML where its name ends in `.toml`. Without one, the environment says it all.
    pub conffile: Option<PathBuf>,
    /// The environment's variables, names and values.
    pub environment: Vec<(String, String)>,
    /// Settings from the command line, names and values.
    pub overrides: Vec<(String, String)>,
}

/// Reads and checks the whole configuration.
///
/// # Errors
/// Every problem of every source, in the order of the files; then nothing of it may be used.
pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    load_with(sources, &|path| std::fs::read(path))
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

/// Gives a file's bytes; a table of files in tests.
pub(super) type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// As [`load`], with files from elsewhere.
pub(super) fn load_with(sources: &Sources, read: Read<'_>) -> Result<Config, Vec<Problem>> {
    let mut draft = Draft::default();
    if let Some(path) = &sources.conffile {
        match path.extension().is_some_and(|extension| extension == "toml") {
            true => read_toml(path, read, &mut draft),
            false => read_ini(path, read, &mut draft),
        }
    }
    env::apply_environment(&mut draft, &sources.environment);
    env::apply_command_line(&mut draft, &sources.overrides);

    let (mut config, mut problems) = resolve::resolve(draft);
    config.path.clone_from(&sources.conffile);
    if config.settings.conffile.is_none() {
        config.settings.conffile.clone_from(&sources.conffile);
    }
    read_users(&mut config, read, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn read_toml(path: &Path, read: Read<'_>, draft: &mut Draft) {
    let file: Arc<str> = path.display().to_string().into();
    draft.files.push(Arc::clone(&file));
    match read(path) {
        Err(error) => draft.problem(Place::File(file), "", Fault::Unreadable(error.kind())),
        Ok(bytes) => match std::str::from_utf8(&bytes) {
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
                Item::Pair(key, value) => self.pair(&key, &value, place),
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

/// Reads `auth_file`. PgBouncer starts without it and lets nobody in; here it is a problem, except with auth_type any,
/// which needs it for nothing but the passwords of users named by databases.
fn read_users(config: &mut Config, read: Read<'_>, problems: &mut Vec<Problem>) {
    let Settings { auth_file: Some(path), auth_type, .. } = &config.settings else {
        return;
    };
    let file: Arc<str> = path.display().to_string().into();
    let problem = |place, fault| Problem { place, key: "auth_file".into(), fault };
    match read(path) {
        Err(error) if *auth_type == AuthType::Any => {
            config.notices.push(problem(Place::File(file), Fault::Unreadable(error.kind())).to_string());
        }
        Err(error) => problems.push(problem(Place::File(file), Fault::Unreadable(error.kind()))),
        Ok(bytes) => match userlist::parse(&bytes) {
            Ok(secrets) => config.secrets.add_all(secrets),
            Err(faults) => problems.extend(faults.into_iter().map(|(line, fault)| {
                problem(Place::Line(Arc::clone(&file), line), Fault::expected_unseen(fault.to_string()))
            })),
        },
    }
}

#[cfg(test)]
mod tests;
