//! Which certificates of directories are good: what `ldap.conf` says.
//!
//! PostgreSQL and PgBouncer leave this to OpenLDAP's library, whose file administrators know: TLS_REQCERT, TLS_CACERT
//! and TLS_CACERTDIR of `/etc/ldap/ldap.conf`, or of the file that LDAPCONF names; LDAPTLS_REQCERT and so on in the
//! environment go first, LDAPNOINIT turns all of it off. Manual: ldap.conf(5). Where it names no authorities, the
//! system's count. It is read for each connection; authorities only where the file has changed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ldap3::LdapConnSettings;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Where distributions have it.
const FILES: [&str; 2] = ["/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf"];

/// What is known of authorities.
#[derive(Default)]
pub(super) struct Trust {
    held: Mutex<Option<Held>>,
}

struct Held {
    policy: Policy,
    changed: Vec<Option<SystemTime>>,
    config: Arc<ClientConfig>,
}

/// What `ldap.conf` says of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Policy {
    /// TLS_REQCERT never or allow.
    unchecked: bool,
    file: Option<PathBuf>,
    folder: Option<PathBuf>,
}

impl Trust {
    /// Has a connection trust whom it should.
    ///
    /// # Errors
    /// The authorities cannot be read.
    pub(super) fn apply(&self, settings: LdapConnSettings) -> Result<LdapConnSettings, String> {
        let policy = Policy::of_this_system()?;
        if policy.unchecked {
            return Ok(settings.set_no_tls_verify(true));
        }
        if policy.file.is_none() && policy.folder.is_none() {
            return Ok(settings);
        }
        let paths = [&policy.file, &policy.folder].into_iter().flatten();
        let changed = paths.map(|path| fs::metadata(path).and_then(|known| known.modified()).ok()).collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match &*held {
            Some(held) if held.policy == policy && held.changed == changed => held.config.clone(),
            _ => {
                let config = policy.config()?;
                *held = Some(Held { policy, changed, config: config.clone() });
                config
            }
        };
        Ok(settings.set_config(config))
    }
}

impl Policy {
    fn of_this_system() -> Result<Policy, String> {
        let mut policy = Policy::default();
        if env::var_os("LDAPNOINIT").is_some() {
            return Ok(policy);
        }
        let named = env::var_os("LDAPCONF").map(PathBuf::from);
        let paths = FILES.iter().map(PathBuf::from).chain(named);
        for path in paths {
            policy
                .read(&fs::read(&path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default())?;
        }
        for key in ["TLS_REQCERT", "TLS_CACERT", "TLS_CACERTDIR"] {
            if let Ok(value) = env::var(format!("LDAP{key}")) {
                policy.set(key, &value)?;
            }
        }
        Ok(policy)
    }

    /// Lines of a keyword and a value; other keywords are for others.
    fn read(&mut self, text: &str) -> Result<(), String> {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let line = line.trim();
            if let Some((key, value)) = line.split_once(char::is_whitespace) {
                self.set(&key.to_ascii_uppercase(), value.trim())?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "TLS_REQCERT" => {
                self.unchecked = match value.to_ascii_lowercase().as_str() {
                    "never" | "allow" => true,
                    "try" | "demand" | "hard" => false,
                    _ => {
                        return Err(format!(
                            "ldap.conf: TLS_REQCERT is {value:?}, expected never, allow, try or demand"
                        ));
                    }
                };
            }
            "TLS_CACERT" => self.file = Some(value.into()),
            "TLS_CACERTDIR" => self.folder = Some(value.into()),
            _ => {}
        }
        Ok(())
    }

    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.file {
            add(&mut roots, file).map_err(|why| format!("TLS_CACERT {}: {why}", file.display()))?;
        }
        if let Some(folder) = &self.folder {
            let entries = fs::read_dir(folder).map_err(|why| format!("TLS_CACERTDIR {}: {why}", folder.display()))?;
            for entry in entries.flatten() {
                // Other files stand in such folders, too.
                let _ = add(&mut roots, &entry.path());
            }
        }
        if roots.is_empty() {
            return Err("no authority's certificate is in TLS_CACERT or TLS_CACERTDIR of ldap.conf".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        // One that cannot be used as an authority vouches for nobody.
        let _ = roots.add(certificate.map_err(|error| error.to_string())?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        let mut policy = Policy::default();
        policy.read(text).map(|()| policy)
    }

    #[test]
    fn certificates_are_checked_unless_the_file_says_otherwise() {
        let checked = Policy { unchecked: false, file: Some("/a b".into()), folder: Some("/d".into()) };
        let text = "# TLS_REQCERT never\nBASE dc=x\ntls_cacert\t/a b \nTLS_CACERTDIR /d\nTLS_REQCERT demand\n";
        assert_eq!(policy(text), Ok(checked));
        for (word, unchecked) in [("never", true), ("Allow", true), ("try", false), ("hard", false)] {
            assert_eq!(policy(&format!("TLS_REQCERT {word}")).map(|policy| policy.unchecked), Ok(unchecked));
        }
        assert!(policy("TLS_REQCERT newer").is_err(), "a slip of the pen does not turn checks off");
    }

    #[test]
    fn authorities_that_are_named_must_be_there() {
        let missing = Policy { file: Some("/nonexistent".into()), ..Policy::default() };
        assert!(missing.config().is_err_and(|why| why.contains("TLS_CACERT /nonexistent")));
        let empty = tempfile::tempdir().expect("a folder");
        let empty = Policy { folder: Some(empty.path().into()), ..Policy::default() };
        assert!(empty.config().is_err());
    }
}
