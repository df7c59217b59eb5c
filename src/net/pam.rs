//! Passwords that PAM checks.
//!
//! ```text
//!   login ─► a place in line ─► the thread "pam" ─► a process for this check alone ─► yes | why not
//! ```
//!
//! PAM's modules are programs of others within this one. They wait as long as they like, start helpers, and most are
//! only ever run by servers that have a process for each login, as sshd and PostgreSQL do: pam_unix sets the handler of
//! SIGCHLD for the whole process while its helper runs. So here, too, each check has a process of its own: this program
//! once more, told so by [`CHECK_PAM`]. A socket for its stdin takes the question there and the answer back. Modules
//! meet the one thread they expect, one that hangs is killed when its client has left or has waited
//! `client_login_timeout`, one that crashes fails one login, and the copies of the password that modules make end with
//! the process. Threads have nothing of that, and PgBouncer's single one lets a module that hangs stop all logins.
//!
//! - `checker` what that process does

#[cfg(feature = "pam")]
mod checker;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::outside::{Line, Refusal};

#[cfg(feature = "pam")]
pub use checker::answer_stdin;

/// The long option that has a process check one password.
pub const CHECK_PAM: &str = "check-pam";

/// The most that is read of an answer, in bytes.
const ANSWER_MAX: u64 = 16_384;

/// The answer, if it is yes.
const YES: &str = "yes";

/// Checks passwords with PAM. A clone is the same.
#[derive(Clone)]
pub struct Pam {
    line: Arc<Line>,
}

/// Who logs in where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Whose rules count: the name of a file in `/etc/pam.d`.
    pub service: Arc<str>,
    /// PAM_USER.
    pub user: String,
    /// PAM_RHOST: the client's address, `unix` on a Unix socket.
    pub host: String,
}

impl Default for Pam {
    fn default() -> Pam {
        Pam { line: Arc::new(Line::new("PAM")) }
    }
}

impl fmt::Debug for Pam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pam")
    }
}

impl Pam {
    /// Is this the user's password, and may the user log in now?
    ///
    /// # Errors
    /// It is not, the user may not, or nobody knows; in words for the log.
    ///
    /// Cancel safe: a check that nobody waits for is killed.
    pub async fn check(&self, attempt: &Attempt, password: &str) -> Result<(), Refusal> {
        let question = question(attempt, password).ok_or(Refusal("a name with a NUL in it".into()))?;
        self.line.run(ask(question)).await
    }
}

/// The question, as it is sent.
fn question(Attempt { service, user, host }: &Attempt, password: &str) -> Option<Zeroizing<String>> {
    let parts = [&**service, user, host, password];
    // Room for all of it from the start, so that nothing is left behind by growing.
    let mut question = Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len() + 1).sum()));
    for part in parts {
        if part.contains('\0') {
            return None;
        }
        question.push_str(part);
        question.push('\0');
    }
    Some(question)
}

async fn ask(question: Zeroizing<String>) -> Result<(), Refusal> {
    let ended = || Err(Refusal("the process that asked PAM ended without an answer".into()));
    match exchange(&question).await {
        Ok(answer) if answer == YES => Ok(()),
        Ok(answer) if answer.is_empty() => ended(),
        Ok(answer) => Err(Refusal(answer)),
        // Before it had read all of the question.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => ended(),
        Err(error) => Err(Refusal(format!("cannot ask PAM: {error}"))),
    }
}

async fn exchange(question: &str) -> io::Result<String> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(ours)?;
    let mut checker = {
        // The path leads to this very program even when another one has taken its place on disk.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("pgweir").arg(format!("--{CHECK_PAM}")).kill_on_drop(true);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn()?
        // With `command` goes our copy of their end: where nobody has it any more, the answer ends.
    };
    stream.write_all(question.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    checker.wait().await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// What a build without PAM does in place of a check: fail.
#[cfg(not(feature = "pam"))]
pub fn answer_stdin() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(user: &str) -> Attempt {
        Attempt { service: "pgbouncer".into(), user: user.into(), host: "unix".into() }
    }

    #[test]
    fn a_question_has_its_parts_in_order_and_no_way_to_add_one() {
        assert_eq!(question(&attempt("ann"), "p w").unwrap().as_str(), "pgbouncer\0ann\0unix\0p w\0");
        assert_eq!(question(&attempt("ann\0root"), "pw"), None);
        assert_eq!(question(&attempt("ann"), "p\0w"), None);
    }
}
