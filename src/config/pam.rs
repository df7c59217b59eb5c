//! What is asked of PAM, and whether this build has it.
//!
//! Pure: the options of hba records, as in PostgreSQL. Manual: "PAM Authentication".

use std::sync::Arc;

/// Was this program built with PAM, the cargo feature `pam`?
pub const BUILT_IN: bool = cfg!(feature = "pam");

/// What a build without it says.
pub const NOT_BUILT_IN: &str = "this build has no PAM: it was made without the feature \"pam\", which is on by default";

/// The service whose rules count: PgBouncer's, which is `/etc/pam.d/pgbouncer` on most systems. PostgreSQL's own is
/// `postgresql`.
pub const SERVICE: &str = "pgbouncer";

/// The service that these options of an hba record name.
///
/// # Errors
/// An option that is none of PAM's, or whose value cannot be obeyed; in words.
pub fn service<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Arc<str>, String> {
    let mut service = SERVICE;
    for option in options {
        match option.split_once('=') {
            Some(("pamservice", name)) if is_name(name) => service = name,
            Some(("pamservice", name)) => {
                return Err(format!("pamservice={name:?} is no name of a file in /etc/pam.d"));
            }
            Some(("pam_use_hostname", "0")) => {}
            Some(("pam_use_hostname", _)) => {
                return Err("pam_use_hostname=1 is not supported: addresses are not looked up for their names".into());
            }
            _ => return Err(format!("unsupported parameters: {option:?}")),
        }
    }
    Ok(service.into())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_may_name_another_service() {
        assert_eq!(service([]).as_deref(), Ok("pgbouncer"));
        assert_eq!(service(["pam_use_hostname=0"]).as_deref(), Ok("pgbouncer"));
        assert_eq!(service(["pamservice=postgresql"]).as_deref(), Ok("postgresql"));
        assert_eq!(service(["pamservice=a", "pamservice=b c"]).as_deref(), Ok("b c"));
    }

    #[test]
    fn an_option_that_cannot_be_obeyed_says_why() {
        for option in ["pamservice=", "pamservice=../x", "pamservice=a\0b", "pam_use_hostname=1", "map=m", "pamservice"]
        {
            let why = service([option]).expect_err(option);
            assert!(why.contains(option.split('=').next().unwrap()), "{option}: {why}");
        }
    }
}
