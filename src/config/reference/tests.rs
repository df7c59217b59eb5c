//! The generated pages against the files in the repository.

use std::path::Path;

use super::*;
use crate::config::load::load_with;
use crate::config::{Config, Problem, Sources};

/// Loads the first of these files.
fn load_files(files: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let sources = Sources { conffile: files.first().map(|(path, _)| path.into()), ..Sources::default() };
    load_with(&sources, &|path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(std::io::ErrorKind::NotFound.into())
    })
}

/// Compares a page with its file in the repository, or rewrites the file where `UPDATE_GOLDEN` is set.
fn golden(file: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a page is in a directory")).expect("which can be made");
        std::fs::write(&path, page).expect("the page can be written");
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == page, "{file} is out of date: UPDATE_GOLDEN=1 cargo test --lib config::reference rewrites it");
}

#[test]
fn the_pages_in_the_repository_are_made_from_the_tables() {
    golden("docs/settings.md", &markdown());
    golden("docs/environment.md", &environment());
    golden("config/pgbouncer.ini", &sample_ini());
    golden("config/pgweir.toml", &sample_toml());
    golden("config/userlist.txt", SAMPLE_USERLIST);
}

#[test]
fn the_samples_load_and_mean_the_same() {
    let ini = load_files(&[("s.ini", &sample_ini()), ("/etc/pgweir/userlist.txt", SAMPLE_USERLIST)]);
    let toml = load_files(&[("s.toml", &sample_toml()), ("/etc/pgweir/userlist.txt", SAMPLE_USERLIST)]);

    let (ini, toml) = (ini.expect("it is in order"), toml.expect("it is in order"));
    assert_eq!(ini.databases, toml.databases);
    let differences: Vec<&str> = ini.settings.differences(&toml.settings).iter().map(|row| row.name).collect();
    assert_eq!(differences, ["conffile"]);
    assert_eq!(ini.notices, [] as [&str; 0]);
}

#[test]
fn every_setting_of_the_samples_may_be_switched_on() {
    let ini: String = sample_ini().lines().map(|line| format!("{}\n", switched_on(line, ';'))).collect();
    let toml: String = sample_toml().lines().map(|line| format!("{}\n", switched_on(line, '#'))).collect();
    let files = [("/etc/pgweir/userlist.txt", SAMPLE_USERLIST)];

    let ini = load_files(&[("s.ini", &ini), files[0]]).expect("it is in order");
    let toml = load_files(&[("s.toml", &toml), files[0]]).expect("it is in order");

    assert!(ini.settings.differences(&toml.settings).iter().all(|row| row.name == "conffile"));
    assert_eq!(ini.databases.len(), 2);
}

/// A line of settings behind a comment mark, without the mark.
fn switched_on(line: &str, mark: char) -> &str {
    match line.strip_prefix(mark) {
        Some(rest)
            if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') && !rest.starts_with("conffile") =>
        {
            rest
        }
        _ => line,
    }
}
