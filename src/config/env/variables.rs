//! The variables as they are looked up: each by its name, or by the file that its `*_FILE` names.
//!
//! Pure: what has been looked up is known, and what is left unknown at the end may be a look-alike.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::draft::Draft;
use super::super::load::Read;
use super::super::problem::{Fault, Place};
use super::names::FILE_SUFFIX;

/// A variable's value, and the variable that gave it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The value.
    pub(super) value: String,
    /// The variable, or the one that names the file.
    pub(super) place: Place,
}

impl Found {
    /// A value that no variable gives.
    pub(super) fn default(value: &str) -> Found {
        Found { value: value.to_string(), place: Place::Container }
    }
}

/// All variables but those that Kubernetes makes for services.
pub(super) struct Variables<'a> {
    list: BTreeMap<&'a str, &'a str>,
    read: Read<'a>,
    known: BTreeSet<String>,
}

impl<'a> Variables<'a> {
    /// The variables of `list`; `read` gives the content of a file.
    pub(super) fn new(list: &'a [(String, String)], read: Read<'a>) -> Variables<'a> {
        let list = list
            .iter()
            .filter(|(name, value)| !is_service_link(name, value))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Variables { list, read, known: BTreeSet::new() }
    }

    /// Whether a variable with anything in it has such a name.
    pub(super) fn any(&self, named: impl Fn(&str) -> bool) -> bool {
        self.list.iter().any(|(name, value)| !value.is_empty() && named(name))
    }

    /// Names of the variables with anything in them, in alphabetical order, `*_FILE` taken off.
    pub(super) fn bases(&self) -> BTreeSet<&'a str> {
        let set = self.list.iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, _)| name.strip_suffix(FILE_SUFFIX).unwrap_or(name)).collect()
    }

    /// Names of the variables with anything in them that nobody has asked for.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &'a str> {
        let unknown = self.list.iter().filter(|(name, value)| !value.is_empty() && !self.known.contains(**name));
        unknown.map(|(name, _)| *name)
    }

    /// Marks variables as known without looking at them.
    pub(super) fn know<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        self.known.extend(names.into_iter().map(str::to_string));
    }

    /// The value of a variable, which is as good as unset where it is empty. What is wrong becomes a problem.
    pub(super) fn take(&mut self, name: &str, draft: &mut Draft) -> Option<Found> {
        self.take_even_empty(name, draft).filter(|found| !found.value.is_empty())
    }

    /// As [`Variables::take`], but a variable may be set to nothing.
    pub(super) fn take_even_empty(&mut self, name: &str, draft: &mut Draft) -> Option<Found> {
        let file_name = format!("{name}{FILE_SUFFIX}");
        self.know([name, &file_name]);
        let direct = self.list.get(name).copied();
        let place = Place::Variable(file_name.as_str().into());
        let Some(path) = self.list.get(file_name.as_str()).copied().filter(|path| !path.is_empty()) else {
            let value = direct?;
            let place = Place::Variable(name.into());
            if value.contains(char::REPLACEMENT_CHARACTER) {
                draft.problem(place, "", Fault::expected_unseen("text in UTF-8"));
                return None;
            }
            return Some(Found { value: value.to_string(), place });
        };
        if direct.is_some_and(|value| !value.is_empty()) {
            let expected = format!("{name} or {file_name}, not both");
            draft.problem(place, "", Fault::expected_unseen(expected));
            return None;
        }
        let bytes = match (self.read)(Path::new(path)) {
            Ok(bytes) => bytes,
            Err(error) => {
                draft.problem(place, path, Fault::Unreadable(error.kind()));
                return None;
            }
        };
        let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        let Some(text) = text else {
            draft.problem(place, path, Fault::expected_unseen("text in UTF-8, without zero bytes"));
            return None;
        };
        let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        Some(Found { value: line.unwrap_or(&text).to_string(), place })
    }
}

/// Whether Kubernetes makes such a variable for a service: `PGBOUNCER_SERVICE_HOST`, `PGBOUNCER_PORT=tcp://…`,
/// `PGBOUNCER_PORT_6432_TCP_ADDR`. A service may be called `db` or `pgbouncer`; what is made for it is no setting.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return true;
    }
    if name.ends_with("_PORT") && ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme)) {
        return true;
    }
    let Some((_, port)) = name.split_once("_PORT_") else { return false };
    let digits = port.bytes().take_while(u8::is_ascii_digit).count();
    let after = &port[digits..];
    digits > 0 && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| after.starts_with(protocol))
}
