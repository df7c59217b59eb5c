//! The maps of `auth_ident_file`: which users a name from outside (of a system user, of a certificate) may log in as.
//!
//! Pure: text in, maps out. A line is `map system-name database-user`, where the last may be `all`. As with the records
//! of `auth_hba_file`, a line that cannot be followed is passed over with a warning; that can only keep people out.
//! Manual: "User Name Maps".

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::records::{Fault, Files, Skipped, Token, lines_of};

/// Every map, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentMaps {
    maps: BTreeMap<String, Arc<IdentMap>>,
}

/// One map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentMap {
    /// What `map=` calls it.
    pub name: String,
    mappings: Vec<Mapping>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    system: String,
    /// `None` for all.
    user: Option<String>,
}

impl IdentMaps {
    /// The map of this name.
    pub fn find(&self, name: &str) -> Option<Arc<IdentMap>> {
        self.maps.get(name).cloned()
    }
}

impl IdentMap {
    /// The names from outside that may log in as `user`, in order.
    pub fn names_for<'a>(&'a self, user: &'a str) -> impl Iterator<Item = &'a str> {
        let fits = move |mapping: &&Mapping| mapping.user.as_deref().is_none_or(|mapped| mapped == user);
        self.mappings.iter().filter(fits).map(|mapping| mapping.system.as_str())
    }
}

/// What was read of a file.
#[derive(Debug, Default)]
pub struct IdentRead {
    /// The maps.
    pub maps: IdentMaps,
    /// The lines that were passed over.
    pub skipped: Vec<Skipped>,
}

/// Reads the maps of `path` and of the files it includes.
///
/// # Errors
/// `path` itself cannot be read. What else cannot be followed is in [`IdentRead::skipped`].
pub fn read(path: &Path, files: &Files<'_>) -> io::Result<IdentRead> {
    let mut maps: BTreeMap<String, IdentMap> = BTreeMap::new();
    let mut skipped = Vec::new();
    lines_of(path, files, &mut skipped, &mut |line, skipped| match mapping(line.tokens) {
        Ok((name, mapping)) => {
            let map = maps.entry(name.clone()).or_insert_with(|| IdentMap { name, mappings: Vec::new() });
            map.mappings.push(mapping);
        }
        Err(why) => skipped.push(Skipped { place: line.place.clone(), why, fatal: false }),
    })?;
    let maps = maps.into_iter().map(|(name, map)| (name, Arc::new(map))).collect();
    Ok(IdentRead { maps: IdentMaps { maps }, skipped })
}

fn mapping(tokens: &[Token]) -> Result<(String, Mapping), Fault> {
    let [name, system, user] = tokens else {
        return Err("expected a map, a name from outside and a user".into());
    };
    if let Some(token) = tokens.iter().find(|token| token.comma) {
        return Err(format!("expected a map, a name from outside and a user, got {:?}", token.written()).into());
    }
    for token in [system, user] {
        // Quoted or not, as in PostgreSQL.
        if token.text.starts_with('/') {
            return Err(format!("{} is not supported: names cannot be regular expressions", token.text).into());
        }
    }
    if user.word().is_some_and(|word| word.starts_with('+')) {
        return Err(format!("{} is not supported: a pooler does not know who is in which role", user.text).into());
    }
    let user_name = (!user.is("all")).then(|| user.text.clone());
    Ok((name.text.clone(), Mapping { system: system.text.clone(), user: user_name }))
}

/// Reads maps from `text` alone: what it includes counts as not there.
pub fn read_text(text: &[u8]) -> IdentRead {
    let own = PathBuf::from("ident.conf");
    let read_file = |path: &Path| match path == own {
        true => Ok(text.to_vec()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let files = Files { read: &read_file, list: &|_| Err(io::ErrorKind::NotFound.into()) };
    read(&own, &files).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_map_says_who_may_be_whom() {
        let read = read_text(b"# maps\nweb www-data app\nweb deploy all\nweb \"o'brien\" \"all\"\nother x y\n");

        assert!(read.skipped.is_empty(), "{:?}", read.skipped);
        let web = read.maps.find("web").expect("it is there");
        assert_eq!(web.names_for("app").collect::<Vec<_>>(), ["www-data", "deploy"]);
        assert_eq!(web.names_for("all").collect::<Vec<_>>(), ["deploy", "o'brien"], "a quoted all is a name");
        assert!(read.maps.find("none").is_none());
    }

    #[test]
    fn what_cannot_be_followed_is_passed_over_with_its_line() {
        let read = read_text(b"m a\nm \"/^(.*)$\" \\1\nm a +team\nm a b c\nm a,b\nm a b\ninclude gone.conf\n");

        let said: Vec<String> = read.skipped.iter().map(|line| format!("{}: {}", line.place, line.why)).collect();
        assert_eq!(
            said,
            [
                "ident.conf:1: expected a map, a name from outside and a user",
                "ident.conf:2: /^(.*)$ is not supported: names cannot be regular expressions",
                "ident.conf:3: +team is not supported: a pooler does not know who is in which role",
                "ident.conf:4: expected a map, a name from outside and a user",
                "ident.conf:5: expected a map, a name from outside and a user",
                "ident.conf:7: gone.conf cannot be read: entity not found",
            ]
        );
        assert_eq!(read.maps.find("m").expect("one line is good").names_for("b").collect::<Vec<_>>(), ["a"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_text(&bytes);
        }

        #[test]
        fn a_map_lets_in_only_whom_it_names(lines in "([ab] [xy] (u|v|all)\n){0,8}", user in "[uvw]") {
            let read = read_text(lines.as_bytes());
            for name in ["x", "y"] {
                let named = lines.lines().any(|line| {
                    line == format!("a {name} {user}") || line == format!("a {name} all")
                });
                let lets_in = read.maps.find("a").is_some_and(|map| map.names_for(&user).any(|found| found == name));
                prop_assert_eq!(lets_in, named);
            }
        }
    }
}
