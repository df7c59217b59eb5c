//! The environment and the command line.
//!
//! Pure: takes the variables as a list, and the files that `*_FILE` variables name through a function.
//!
//! Three images of PgBouncer are configured by variables, each by its own, and people mix them up; all are read here,
//! together, in one order. The table below is what `docs/environment.md` explains, from the first word to the last:
//!
//! ```text
//!  1  the command line
//!  2  PGWEIR_<SETTING>
//!  3  the configuration file                      ─┐ one or the other: beside a file, variables of the images
//!  4  PGBOUNCER_<SETTING>, then the bare <SETTING> ─┘ give logins, and databases where the file has none
//!  5  defaults for a process without a file: listen on every address, SCRAM, …
//!  6  defaults
//! ```
//!
//! Variables of the images count only where one of them names a server ([`TARGETS`](names::TARGETS)): an environment is
//! shared, and `VERBOSE` or `LISTEN_PORT` may be somebody else's. What looks like a setting and has no effect is
//! mentioned, so that nobody believes in a pool mode they do not have; a `PGWEIR_` variable that is a slip of the pen
//! is a problem, as a misspelt setting in a file is.

use std::collections::BTreeSet;

use super::draft::Draft;
use super::load::Read;
use super::problem::Place;
use super::settings::table;

mod images;
mod lookalikes;
pub(super) mod names;
mod variables;

use images::Images;
use names::{CONFFILE, CONFIG_DIRS, PREFIX};
use variables::Variables;

/// What the loader knows when it asks for the environment's part.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    /// Whether a configuration file was read.
    pub(super) file: bool,
    /// The `userlist.txt` found where the configuration was looked for, and who said to look there.
    pub(super) userlist: Option<(String, Place)>,
}

/// Adds what the environment's variables say; `read` gives the content of a file.
pub(super) fn apply_environment(draft: &mut Draft, list: &[(String, String)], read: Read<'_>, around: &Around) {
    let mut variables = Variables::new(list, read);
    let in_use = variables.any(names::is_target);
    let mut images = Images::default();
    if in_use {
        images.targets(draft, &mut variables);
        if !around.file {
            images.settings(draft, &mut variables);
        }
        images.put_targets(draft);
    }
    for row in table().iter().filter(|row| row.name != "conffile") {
        let name = format!("{PREFIX}{}", row.name.to_ascii_uppercase());
        if let Some(found) = variables.take_even_empty(&name, draft) {
            draft.setting(row.name, &found.value, found.place);
        }
    }
    if in_use && !around.file {
        images.put_defaults(draft, around);
    }
    variables.know([CONFFILE, CONFIG_DIRS]);
    lookalikes::mention(draft, &variables, in_use, around.file);
}

/// Adds settings from the command line, each by its setting's name.
pub(super) fn apply_command_line(draft: &mut Draft, overrides: &[(String, String)]) {
    for (name, value) in overrides {
        draft.setting(name, value, Place::CommandLine);
    }
}

/// Whether these variables stand in for a configuration file: one of them names a server, a file, or a setting of ours.
pub fn environment_configures(list: &[(String, String)]) -> bool {
    let nothing = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let variables = Variables::new(list, &nothing);
    let settings: BTreeSet<String> =
        table().iter().map(|row| format!("{PREFIX}{}", row.name.to_ascii_uppercase())).collect();
    variables.any(|name| names::is_target(name) || name == CONFIG_DIRS || settings.contains(name))
}

/// Whether one of these variables names a server.
pub(super) fn environment_names_a_server(list: &[(String, String)]) -> bool {
    list.iter().any(|(name, value)| !value.is_empty() && names::is_target(name))
}

/// The value of a variable that is read before all others.
pub(super) fn early<'a>(list: &'a [(String, String)], name: &str) -> Option<&'a str> {
    list.iter().rfind(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests;
