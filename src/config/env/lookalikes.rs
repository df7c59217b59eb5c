//! Variables that look like settings and are none, or are not read.
//!
//! Pure: adds notices to the draft, and a problem for a slip of the pen in a variable of ours.

use super::super::draft::Draft;
use super::super::keys::DATABASE_ROWS;
use super::super::problem::{Fault, Place, nearest, nearest_within};
use super::super::settings::table;
use super::names::{
    ALIASES, BARE_KEYS, DATABASES_PREFIX, FILE_SUFFIX, IDLE, IMAGE_PREFIX, NOT_BARE, NOT_FOR_IMAGES, PREFIX, SLIPS,
    STRANGERS, TARGETS,
};
use super::variables::Variables;

/// The shortest bare name that is taken for a misspelt setting: shorter ones are too often somebody else's.
const BARE_LENGTH_MIN: usize = 8;

/// How many letters of a bare name may be wrong.
const BARE_TOLERANCE: usize = 2;

/// Why variables of the images are not read where there is no file.
const NO_SERVER: &str = "no variable names a server (DATABASES_HOST, DATABASE_URL, DB_HOST, POSTGRESQL_HOST)";

/// Looks at every variable that has not been read. `in_use` says whether those of the images are, `file` whether there
/// is a configuration file.
pub(super) fn mention(draft: &mut Draft, variables: &Variables<'_>, in_use: bool, file: bool) {
    let mut unread = Vec::new();
    for name in variables.unknown() {
        let base = name.strip_suffix(FILE_SUFFIX).unwrap_or(name);
        let hint =
            |table: &[(&str, &'static str)]| table.iter().find(|(known, _)| *known == base).map(|(_, use_)| *use_);
        if let Some(setting) = name.strip_prefix(PREFIX) {
            own(draft, name, setting);
        } else if let Some(meant) = hint(&STRANGERS) {
            draft.notices.push(format!("environment: {name}: has no effect; use {meant}"));
        } else if is_image_setting(base) && (file || !in_use) {
            unread.push(name);
        } else if file && !in_use {
            // What may be meant for an image is no concern of a process that has a file.
        } else if let Some(why) = hint(&IDLE) {
            draft.notices.push(format!("environment: {name}: has no effect: {why}"));
        } else {
            match hint(&SLIPS).map(str::to_string).or_else(|| meant(base)) {
                Some(meant) if meant == base => {
                    draft.notices.push(format!("environment: {name}: has no effect, because {NO_SERVER}"));
                }
                Some(meant) => {
                    draft.notices.push(format!("environment: {name}: has no effect; did you mean {meant}?"));
                }
                None if names_a_pooler(base) => {
                    draft.notices.push(format!("environment: {name}: no such setting; it has no effect"));
                }
                None => {}
            }
        }
    }
    if !file && draft.databases.is_empty() {
        draft.notices.push(format!("there is no database, because {NO_SERVER}"));
    }
    let Some(first) = unread.first() else { return };
    let why = match file {
        true => "a configuration file outranks the variables of the images",
        false => NO_SERVER,
    };
    let setting = image_setting(first).unwrap_or_default().to_ascii_uppercase();
    let names = unread.join(", ");
    draft.notices.push(format!("environment: {names}: not read, because {why}; {PREFIX}{setting} would be"));
}

/// A variable of ours that is none.
fn own(draft: &mut Draft, name: &str, setting: &str) {
    let setting = setting.to_ascii_lowercase();
    let place = Place::Variable(name.into());
    let base = setting.strip_suffix("_file").unwrap_or(&setting);
    let near = |text: &str| nearest(text, table().iter().map(|row| row.name));
    match near(&setting).or_else(|| near(base)) {
        Some(near) => draft.problem(place, "", Fault::Unknown { what: "setting", near: Some(near) }),
        // Tests have variables of their own, and so has Docker's way of linking containers.
        None => draft.notices.push(format!("{place}: no such setting; it has no effect")),
    }
}

/// The setting that an image would read from this variable; of bare names only those that are hardly anything else.
fn image_setting(name: &str) -> Option<&'static str> {
    let known = |setting: &str| table().into_iter().map(|row| row.name).find(|row| *row == setting);
    match name.strip_prefix(IMAGE_PREFIX) {
        Some(rest) => {
            let alias = ALIASES.iter().find(|(alias, _)| *alias == rest).map(|(_, setting)| *setting);
            known(&rest.to_ascii_lowercase()).or(alias)
        }
        None if name.contains('_') && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') => {
            known(&name.to_ascii_lowercase()).filter(|setting| !NOT_BARE.contains(setting))
        }
        None => None,
    }
}

fn is_image_setting(name: &str) -> bool {
    image_setting(name).is_some()
}

/// What was meant by a variable of an image that does not exist, as a variable's name.
fn meant(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let settings = || table().into_iter().map(|row| row.name);
    if let Some(rest) = name.strip_prefix(IMAGE_PREFIX) {
        let rest = rest.to_ascii_lowercase();
        if let Some((setting, _)) = NOT_FOR_IMAGES.iter().find(|(setting, _)| *setting == rest) {
            return Some(format!("{PREFIX}{}", setting.to_ascii_uppercase()));
        }
        return nearest(&rest, settings()).map(|near| format!("{IMAGE_PREFIX}{}", near.to_ascii_uppercase()));
    }
    if let Some(rest) = name.strip_prefix(DATABASES_PREFIX) {
        let near = nearest(rest, DATABASE_ROWS.iter().map(|row| row.name).chain(["client_side_dbname"]));
        return near.map(|near| format!("{DATABASES_PREFIX}{}", near.to_ascii_uppercase()));
    }
    if NOT_BARE.contains(&lower.as_str()) && name.bytes().all(|byte| !byte.is_ascii_lowercase()) {
        return Some(format!("{PREFIX}{name}"));
    }
    if names_a_pooler(name) || name.starts_with("DB_") || name.starts_with("DATABASE_") {
        let family = ["DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "POSTGRESQL_PORT"];
        return nearest(name, TARGETS.into_iter().chain(family)).map(str::to_string);
    }
    let capitals = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    if !capitals || name.len() < BARE_LENGTH_MIN {
        return None;
    }
    let known = settings().chain(BARE_KEYS.map(|(_, key)| key));
    nearest_within(BARE_TOLERANCE, &lower, known).map(str::to_ascii_uppercase)
}

/// Whether a name belongs to an image of a pooler and nobody else.
fn names_a_pooler(name: &str) -> bool {
    [IMAGE_PREFIX, DATABASES_PREFIX, "POSTGRESQL_"].iter().any(|prefix| name.starts_with(prefix))
}
