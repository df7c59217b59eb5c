//! The command line: PgBouncer's, `--check` and `--ping`.
//!
//! Pure: words in, a [`Command`] or a [`UsageError`] out; `main` prints and exits. Bundled short options (`-dq`),
//! values with and without a space or `=`, and unambiguous beginnings of long options (`--verb`) are taken as getopt
//! takes them.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

use crate::admin::PGBOUNCER_VERSION;
use crate::config::pam;
use crate::net::pam::CHECK_PAM;
use crate::stats::lines;

/// What the process was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Pool connections.
    Run(Run),
    /// Read the configuration, print what is wrong with it, and say by the exit code whether it would start so.
    Check(Run),
    /// Ask whether the process with this configuration answers, and say so by the exit code.
    Ping {
        /// The configuration file; none where the environment holds it all, or the container's command names it.
        conffile: Option<PathBuf>,
    },
    /// Check a password with PAM for the pooler that this process was started by. Not in the help.
    CheckPam,
    /// Print [`help`].
    Help,
    /// Print [`version`].
    Version,
}

/// How to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The configuration file; none where the environment holds it all.
    pub conffile: Option<PathBuf>,
    /// `-d`: run in the background.
    pub daemon: bool,
    /// This process is the background half of `-d`, started by the half that the operator sees (see `process::Daemon`).
    pub detached: bool,
    /// `-R`: in the place of the process that runs with the same configuration.
    pub reboot: bool,
    /// `-q`: nothing on stderr.
    pub quiet: bool,
    /// How many `-v` there were. As with PgBouncer, a `verbose` line in the configuration outranks them.
    pub verbose: u8,
    /// `-u`: the user to become, instead of the `user` setting.
    pub user: Option<String>,
}

/// A command line that cannot be obeyed; printed, it says why.
#[derive(Debug)]
pub enum UsageError {
    /// Neither a file nor an environment to configure from.
    NoConfiguration,
    /// A second file.
    TwoFiles(OsString),
    /// The beginning of several options.
    Ambiguous(String),
    /// Anything else, in the parser's words.
    Other(lexopt::Error),
}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> UsageError {
        UsageError::Other(error)
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UsageError::NoConfiguration => out.write_str(
                "no configuration file specified, and no variable in the environment that stands in for one \
                 (DATABASES_HOST, DATABASE_URL, DB_HOST, POSTGRESQL_HOST or PGWEIR_<SETTING>; see docs/environment.md)",
            ),
            UsageError::TwoFiles(second) => write!(out, "more than one configuration file specified: {second:?}"),
            UsageError::Ambiguous(name) => write!(out, "option '--{name}' is ambiguous"),
            UsageError::Other(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for UsageError {}

/// Reads the arguments, without the program's name. `environment_configures` says whether the environment holds a
/// configuration, so that no file is needed.
///
/// # Errors
/// Whatever PgBouncer would refuse.
pub fn parse<I>(arguments: I, environment_configures: bool) -> Result<Command, UsageError>
where
    I: IntoIterator<Item = OsString>,
    I::IntoIter: 'static,
{
    let mut parser = Parser::from_args(arguments);
    let mut run = Run::default();
    let (mut check, mut ping) = (false, false);
    while let Some(argument) = parser.next()? {
        let option = match argument {
            Arg::Value(file) if run.conffile.is_none() => {
                run.conffile = Some(file.into());
                continue;
            }
            Arg::Value(file) => return Err(UsageError::TwoFiles(file)),
            Arg::Short(letter) => OPTIONS.iter().find(|option| option.short == Some(letter)),
            Arg::Long(DETACHED) => {
                run.detached = true;
                continue;
            }
            Arg::Long(CHECK_PAM) => return Ok(Command::CheckPam),
            Arg::Long(name) => long_option(name)?,
        };
        match option.map(|option| option.meaning) {
            Some(Meaning::Daemon) => run.daemon = true,
            Some(Meaning::Quiet) => run.quiet = true,
            Some(Meaning::Verbose) => run.verbose = run.verbose.saturating_add(1),
            Some(Meaning::User) => run.user = Some(parser.value()?.string()?),
            Some(Meaning::Check) => check = true,
            Some(Meaning::Ping) => ping = true,
            Some(Meaning::Reboot) => run.reboot = true,
            Some(Meaning::Help) => return Ok(Command::Help),
            Some(Meaning::Version) => return Ok(Command::Version),
            None => return Err(argument.unexpected().into()),
        }
    }
    if run.conffile.is_none() && !environment_configures && !ping {
        return Err(UsageError::NoConfiguration);
    }
    Ok(match (check, ping) {
        (true, _) => Command::Check(run),
        (false, true) => Command::Ping { conffile: run.conffile },
        (false, false) => Command::Run(run),
    })
}

/// What `-V` prints. The first line is the console's SHOW VERSION, whatever name the program was started under:
/// scripts take PgBouncer's number from there to know which settings and columns there are.
pub fn version() -> String {
    let version = lines::version(PGBOUNCER_VERSION);
    let (own, tls) = (env!("CARGO_PKG_VERSION"), lines::TLS);
    let pam = if pam::BUILT_IN { "yes" } else { "no" };
    format!("{version}\npgweir {own}\nadns: domain\ntls: {tls}\npam: {pam}\nsystemd: yes\n")
}

/// What `-h` prints, under the name the program was started under.
pub fn help(program: &str) -> String {
    HELP.replace("PROGRAM", program)
}

const HELP: &str = "\
PROGRAM pools connections to PostgreSQL.

Usage:
  PROGRAM [OPTION]... [CONFIG_FILE]

CONFIG_FILE is a pgbouncer.ini or a pgweir.toml. It is not needed if the
environment contains DATABASE_URL, another variable of PgBouncer's images, or
PGWEIR_<SETTING> variables (docs/environment.md).

Options:
  -d, --daemon         run in the background (needs the pidfile setting)
  -R, --reboot         take over sockets and connections of the running process
  -q, --quiet          write nothing to stderr
  -u, --user=USERNAME  become USERNAME after the start
  -v, --verbose        log more; give it twice to log even more
      --check          check the configuration, print all problems, then exit
      --ping           check whether the process of this configuration answers;
                       exit with 0 if it answers, else with 1
  -V, --version        print the version, then exit
  -h, --help           print this help, then exit
";

/// The long option by which `-d` marks its background half. Not in the help: nobody but `process::Daemon` gives it.
pub const DETACHED: &str = "detached";

#[derive(Clone, Copy)]
enum Meaning {
    Daemon,
    Quiet,
    Verbose,
    User,
    Check,
    Ping,
    Reboot,
    Help,
    Version,
}

struct CommandOption {
    short: Option<char>,
    long: &'static str,
    meaning: Meaning,
}

const OPTIONS: [CommandOption; 9] = [
    CommandOption { short: Some('d'), long: "daemon", meaning: Meaning::Daemon },
    CommandOption { short: Some('q'), long: "quiet", meaning: Meaning::Quiet },
    CommandOption { short: Some('v'), long: "verbose", meaning: Meaning::Verbose },
    CommandOption { short: Some('u'), long: "user", meaning: Meaning::User },
    CommandOption { short: None, long: "check", meaning: Meaning::Check },
    CommandOption { short: None, long: "ping", meaning: Meaning::Ping },
    CommandOption { short: Some('R'), long: "reboot", meaning: Meaning::Reboot },
    CommandOption { short: Some('h'), long: "help", meaning: Meaning::Help },
    CommandOption { short: Some('V'), long: "version", meaning: Meaning::Version },
];

/// The option with this name, or the only one that begins so.
fn long_option(name: &str) -> Result<Option<&'static CommandOption>, UsageError> {
    if let Some(exact) = OPTIONS.iter().find(|option| option.long == name) {
        return Ok(Some(exact));
    }
    let mut candidates = OPTIONS.iter().filter(|option| option.long.starts_with(name));
    match (candidates.next(), candidates.next()) {
        (Some(_), Some(_)) => Err(UsageError::Ambiguous(name.to_owned())),
        (only, _) => Ok(only),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &str) -> Result<Command, UsageError> {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        parse(words, false)
    }

    fn check(change: impl FnOnce(&mut Run)) -> Command {
        match run(change) {
            Command::Run(run) => Command::Check(run),
            other => other,
        }
    }

    fn run(change: impl FnOnce(&mut Run)) -> Command {
        let mut run = Run { conffile: Some(PathBuf::from("x.ini")), ..Run::default() };
        change(&mut run);
        Command::Run(run)
    }

    #[test]
    fn every_way_to_write_an_option_means_the_same() {
        let joe = || run(|run| run.user = Some("joe".to_owned()));
        let table = [
            ("x.ini", run(|_| ())),
            ("-d x.ini", run(|run| run.daemon = true)),
            ("x.ini --daemon", run(|run| run.daemon = true)),
            ("-dq x.ini", run(|run| (run.daemon, run.quiet) = (true, true))),
            ("-R x.ini", run(|run| run.reboot = true)),
            ("--reboot x.ini", run(|run| run.reboot = true)),
            ("-vv x.ini -v", run(|run| run.verbose = 3)),
            ("--verb x.ini", run(|run| run.verbose = 1)),
            ("-u joe x.ini", joe()),
            ("-ujoe x.ini", joe()),
            ("--user=joe x.ini", joe()),
            ("--user joe x.ini", joe()),
            ("--us joe -- x.ini", joe()),
            ("-d --detached x.ini", run(|run| (run.daemon, run.detached) = (true, true))),
            ("--check x.ini", check(|_| ())),
            (
                "--check -dqvu joe x.ini",
                check(|run| {
                    (run.daemon, run.quiet, run.verbose, run.user) = (true, true, 1, Some("joe".to_owned()));
                }),
            ),
            ("--ping x.ini", Command::Ping { conffile: Some(PathBuf::from("x.ini")) }),
            ("--ping", Command::Ping { conffile: None }),
            ("--check-pam", Command::CheckPam),
            ("-h --nonsense", Command::Help),
            ("--version", Command::Version),
            ("-V", Command::Version),
        ];

        for (words, expected) in table {
            assert_eq!(parse_words(words).unwrap(), expected, "{words}");
        }
    }

    #[test]
    fn what_cannot_be_obeyed_says_why() {
        let table = [
            ("", "no configuration file specified, and no variable in the environment that"),
            ("-q", "no configuration file specified"),
            ("-x x.ini", "invalid option '-x'"),
            ("--nonsense x.ini", "invalid option '--nonsense'"),
            ("--ver x.ini", "option '--ver' is ambiguous"),
            ("x.ini -u", "missing argument"),
            ("--quiet=3 x.ini", "unexpected argument"),
            ("x.ini y.ini", "more than one configuration file specified: \"y.ini\""),
        ];

        for (words, expected) in table {
            let text = parse_words(words).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{words}: {text}");
        }
    }

    #[test]
    fn the_environment_stands_in_for_a_file() {
        assert_eq!(parse([], true).unwrap(), Command::Run(Run::default()));
        assert_eq!(parse(["--check".into()], true).unwrap(), Command::Check(Run::default()));
    }

    #[test]
    fn the_version_line_comes_first() {
        let own = concat!("pgweir ", env!("CARGO_PKG_VERSION"));
        assert_eq!(version().lines().take(2).collect::<Vec<_>>(), ["PgBouncer 1.25.2", own]);
    }

    #[test]
    fn the_help_is_about_the_name_the_program_was_started_under() {
        let text = help("/usr/sbin/pgbouncer");

        assert!(text.starts_with("/usr/sbin/pgbouncer pools"), "{text}");
        assert!(text.contains("\n  /usr/sbin/pgbouncer [OPTION]... [CONFIG_FILE]\n"), "{text}");
    }

    #[test]
    fn the_help_names_every_option() {
        for option in &OPTIONS {
            assert!(HELP.contains(option.long), "{}", option.long);
        }
    }
}
