//! The process that checks one password with PAM and ends.
//!
//! It reads the question from the socket that is its stdin, goes through PAM's two questions (is this the user's
//! password, may the user log in now) and writes the answer there. Manual: pam(3), pam_conv(3).

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;

use nonstick::items::ItemsMut;
use nonstick::{AuthnFlags, ConversationAdapter, ErrorCode, PamShared, Transaction, TransactionBuilder};
use rustix::process::{Signal, set_parent_process_death_signal};
use zeroize::Zeroizing;

use super::YES;

/// The longest question: a startup message's worth of names, and a password.
const QUESTION_MAX: usize = 131_072;

/// Reads the question from stdin and answers it there.
pub fn answer_stdin() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked has gone, or was no pooler.
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut socket = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    // The modules' helpers get neither the socket nor what a question may hold.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut question = Zeroizing::new(Vec::with_capacity(QUESTION_MAX));
    (&mut socket).take(QUESTION_MAX as u64).read_to_end(&mut question)?;
    let mut parts = question.split(|byte| *byte == 0).map(std::str::from_utf8);
    let (Some(Ok(service)), Some(Ok(user)), Some(Ok(host)), Some(Ok(password)), Some(Ok("")), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    match check(service, user, host, password) {
        Ok(()) => socket.write_all(YES.as_bytes()),
        Err(why) => socket.write_all(why.as_bytes()),
    }
}

/// As PgBouncer goes through it, and with its words.
fn check(service: &str, user: &str, host: &str, password: &str) -> Result<(), String> {
    let complaints = Rc::new(RefCell::new(String::new()));
    let conversation = Conversation { password: Zeroizing::new(password.to_owned()), complaints: complaints.clone() };
    let builder = TransactionBuilder::new_with_service(service).username(user);
    let started = builder.build(conversation.into_conversation());
    let mut pam = started.map_err(|error| format!("pam_start() failed: {error}"))?;
    pam.items_mut()
        .set_remote_host(Some(OsStr::new(host)))
        .map_err(|_| format!("pam_set_item(): can't set PAM_RHOST to '{host}'"))?;
    let failed = |step, error| format!("{step}() failed: {error}{}", complaints.borrow());
    pam.authenticate(AuthnFlags::SILENT).map_err(|error| failed("pam_authenticate", error))?;
    pam.account_management(AuthnFlags::SILENT).map_err(|error| failed("pam_acct_mgmt", error))
}

/// A client that knows its password, and nothing else it could be asked for.
struct Conversation {
    password: Zeroizing<String>,
    /// What modules call an error, each after a semicolon.
    complaints: Rc<RefCell<String>>,
}

impl ConversationAdapter for Conversation {
    fn prompt(&self, _: impl AsRef<OsStr>) -> nonstick::Result<OsString> {
        Err(ErrorCode::ConversationError)
    }

    fn masked_prompt(&self, _: impl AsRef<OsStr>) -> nonstick::Result<OsString> {
        Ok(OsString::from(self.password.as_str()))
    }

    fn error_msg(&self, message: impl AsRef<OsStr>) {
        let mut complaints = self.complaints.borrow_mut();
        complaints.push_str("; ");
        complaints.push_str(&message.as_ref().to_string_lossy());
    }

    fn info_msg(&self, _: impl AsRef<OsStr>) {}
}
