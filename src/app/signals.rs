//! Signals as a stream: what each one does is `app::mod`'s matter (HUP reloads, TERM waits for clients, INT waits for
//! servers, QUIT ends at once, USR1 pauses, USR2 resumes).
//!
//! From [`Signals::listen`] on, none of these six kills the process. A signal that arrives twice before it is looked at
//! is seen once, as the kernel has it. SIGPIPE is ignored by every Rust program.

use std::io;

use tokio::signal::unix::{self, SignalKind};

/// A signal that the process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    Hup,
    /// SIGINT, also Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
    /// SIGQUIT.
    Quit,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

impl Signal {
    /// The signal's name in the log, as PgBouncer has it: `SIGHUP`.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Hup => "SIGHUP",
            Signal::Int => "SIGINT",
            Signal::Term => "SIGTERM",
            Signal::Quit => "SIGQUIT",
            Signal::Usr1 => "SIGUSR1",
            Signal::Usr2 => "SIGUSR2",
        }
    }
}

/// The signals that arrive from now on.
#[derive(Debug)]
pub struct Signals {
    hup: unix::Signal,
    int: unix::Signal,
    term: unix::Signal,
    quit: unix::Signal,
    usr1: unix::Signal,
    usr2: unix::Signal,
}

impl Signals {
    /// Begins to listen. Called on a tokio runtime with I/O, once, before anything is promised to anyone.
    ///
    /// # Errors
    /// The kernel refuses a handler.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            hup: unix::signal(SignalKind::hangup())?,
            int: unix::signal(SignalKind::interrupt())?,
            term: unix::signal(SignalKind::terminate())?,
            quit: unix::signal(SignalKind::quit())?,
            usr1: unix::signal(SignalKind::user_defined1())?,
            usr2: unix::signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal; the urgent ones first where several wait. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.quit.recv() => Signal::Quit,
            _ = self.int.recv() => Signal::Int,
            _ = self.term.recv() => Signal::Term,
            _ = self.hup.recv() => Signal::Hup,
            _ = self.usr1.recv() => Signal::Usr1,
            _ = self.usr2.recv() => Signal::Usr2,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{self, Signal as Raw};

    use super::*;

    fn raise(signal: Raw) {
        process::kill_process(process::getpid(), signal).unwrap();
    }

    // One test for all: a process has one set of signals, and the tests of a process run beside each other.
    #[tokio::test]
    async fn every_signal_comes_under_its_name() {
        let mut signals = Signals::listen().unwrap();
        let table = [
            (Raw::HUP, Signal::Hup),
            (Raw::INT, Signal::Int),
            (Raw::TERM, Signal::Term),
            (Raw::QUIT, Signal::Quit),
            (Raw::USR1, Signal::Usr1),
            (Raw::USR2, Signal::Usr2),
        ];

        for (raw, expected) in table {
            raise(raw);
            assert_eq!(signals.next().await, expected, "{}", expected.name());
        }
    }
}
