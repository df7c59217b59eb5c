//! The environment and the command line.
//!
//! Pure: takes the variables as a list. Every setting of `[pgbouncer]` is `PGWEIR_` and its name in capitals;
//! `DATABASE_URL` makes the `*` database, so that any database a client asks for is the one the URL names, reached as
//! the URL's user, and lets that user log in with the URL's password where `auth_file` does not know him. Both override
//! files; the command line overrides both.
//!
//! A `PGWEIR_` variable that looks like a setting but is none is a problem, as a misspelt setting in a file is. Others
//! are only mentioned, because an environment is shared: tests have variables of their own, and Kubernetes makes some
//! for every service, which are passed over.

use super::draft::{Draft, Entry, Group, Section};
use super::problem::{Fault, Place, nearest};
use super::secret::Secret;
use super::settings::table;
use super::url;

/// The start of our variables' names.
const PREFIX: &str = "PGWEIR_";

/// The variable that names a server to pool.
const DATABASE_URL: &str = "DATABASE_URL";

/// Adds what the environment's variables say.
pub(super) fn apply_environment(draft: &mut Draft, variables: &[(String, String)]) {
    for (name, value) in variables {
        if name == DATABASE_URL && !value.is_empty() {
            apply_url(draft, value);
        } else if let Some(setting) = name.strip_prefix(PREFIX) {
            apply_variable(draft, name, setting, value);
        }
    }
}

/// Adds settings from the command line, each by its setting's name.
pub(super) fn apply_command_line(draft: &mut Draft, overrides: &[(String, String)]) {
    for (name, value) in overrides {
        draft.setting(name, value, Place::CommandLine);
    }
}

fn apply_variable(draft: &mut Draft, variable: &str, setting: &str, value: &str) {
    let setting = setting.to_ascii_lowercase();
    let place = Place::Variable(variable.into());
    if table().iter().any(|row| row.name == setting) {
        draft.setting(&setting, value, place);
    } else if let Some(near) = nearest(&setting, table().iter().map(|row| row.name)) {
        draft.problem(place, "", Fault::Unknown { what: "setting", near: Some(near) });
    } else if !is_service_link(&setting) {
        draft.notices.push(format!("{place}: no such setting; it has no effect"));
    }
}

/// Whether Kubernetes makes such a variable for a service called "pgweir": `PGWEIR_PORT_6432_TCP_ADDR` and the like.
fn is_service_link(setting: &str) -> bool {
    setting == "port" || setting.starts_with("port_") || setting.starts_with("service_")
}

fn apply_url(draft: &mut Draft, value: &str) {
    let place = Place::Variable(DATABASE_URL.into());
    let parts = match url::parse(value) {
        Ok(parts) => parts,
        Err(error) => {
            return draft.problem(place, "", Fault::expected_unseen(error.to_string()));
        }
    };

    let mut keys = Vec::new();
    let mut add = |key: &str, value: Option<String>| {
        keys.extend(value.map(|value| Entry { key: key.to_string(), value: Secret::new(value), place: place.clone() }));
    };
    let list = |items: &[String]| Some(items.join(",")).filter(|_| !items.is_empty());
    add("host", list(&parts.hosts));
    add("port", list(&parts.ports));
    add("dbname", parts.dbname);
    add("user", parts.user.clone());
    add("password", parts.password.as_ref().map(|secret| secret.reveal().to_string()));
    for (key, value) in parts.parameters {
        match key.as_str() {
            "host" | "port" | "dbname" | "user" | "password" | "client_encoding" | "application_name" => {
                add(&key, Some(value));
            }
            "sslmode" => draft.setting("server_tls_sslmode", &value, place.clone()),
            _ => draft.notices.push(format!("{place}: parameter {key} has no effect")),
        }
    }

    if let Some(replaced) = draft.databases.iter().rfind(|group| group.name == "*") {
        draft.notices.push(format!("{place}: replaces the database * of {}", replaced.place));
    }
    let find = |name: &str| keys.iter().rfind(|entry| entry.key == name).map(|entry| entry.value.clone());
    draft.login = find("user").zip(find("password")).map(|(user, password)| (user.reveal().to_string(), password));
    draft.group(Section::Databases, Group { name: "*".into(), place, keys });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(variables: &[(&str, &str)]) -> Draft {
        let mut draft = Draft::default();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        apply_environment(&mut draft, &variables);
        draft
    }

    #[test]
    fn every_setting_has_its_variable() {
        for row in table() {
            let draft = drafted(&[(&format!("PGWEIR_{}", row.name.to_ascii_uppercase()), "1")]);

            assert_eq!(draft.settings.len(), 1, "{}", row.name);
            assert_eq!(draft.settings[0].key, row.name);
        }
    }

    #[test]
    fn a_misspelt_variable_is_a_problem_and_a_stranger_is_mentioned() {
        let draft = drafted(&[
            ("PGWEIR_POOLMODE", "session"),
            ("PGWEIR_TEST_EXE", "/bin/true"),
            ("PGWEIR_SERVICE_HOST", "10.0.0.1"),
            ("PGWEIR_PORT", "tcp://10.0.0.1:6432"),
            ("PGWEIR_PORT_6432_TCP_PORT", "6432"),
            ("HOME", "/"),
        ]);

        let problems: Vec<String> = draft.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, ["environment: PGWEIR_POOLMODE: no such setting; did you mean pool_mode?"]);
        assert_eq!(draft.notices, ["environment: PGWEIR_TEST_EXE: no such setting; it has no effect"]);
        assert!(draft.settings.is_empty());
    }

    #[test]
    fn a_broken_url_is_reported_without_its_password() {
        let draft = drafted(&[("DATABASE_URL", "postgres://u:s3cret%zz@h/db")]);

        let problem = draft.problems[0].to_string();
        assert!(problem.starts_with("environment: DATABASE_URL: expected two hexadecimal digits"), "{problem}");
        assert!(!problem.contains("s3cret"));
    }

    #[test]
    fn a_url_is_the_fallback_database_and_a_login() {
        let draft = drafted(&[("DATABASE_URL", "postgres://ann:word@h:5433/app?sslmode=require&schema=x")]);

        let group = &draft.databases[0];
        let keys: Vec<(&str, &str)> =
            group.keys.iter().map(|entry| (entry.key.as_str(), entry.value.reveal())).collect();
        assert_eq!(group.name, "*");
        assert_eq!(keys, [("host", "h"), ("port", "5433"), ("dbname", "app"), ("user", "ann"), ("password", "word")]);
        assert_eq!(draft.login, Some(("ann".to_string(), Secret::new("word"))));
        assert_eq!(draft.settings[0].key, "server_tls_sslmode");
        assert_eq!(draft.notices, ["environment: DATABASE_URL: parameter schema has no effect"]);
    }
}
