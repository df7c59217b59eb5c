//! The command line: PgBouncer's, and `--check`.
//!
//! Pure: words in, a [`Command`] or a [`UsageError`] out; `main` prints and exits. Bundled short options (`-dq`),
//! values with and without a space or `=`, and unambiguous beginnings of long options (`--verb`) are taken as getopt
//! takes them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

/// What the process was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Pool connections.
    Run(Run),
    /// Read the configuration, print what is wrong with it, and say by the exit code whether it would start.
    Check {
        /// The configuration file; none where the environment holds it all.
        conffile: Option<PathBuf>,
    },
    /// Print [`HELP`].
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
    /// `-R`.
    Reboot,
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
                "no configuration file specified, and neither DATABASE_URL nor a PGWEIR_ variable in the environment",
            ),
            UsageError::TwoFiles(second) => write!(out, "more than one configuration file specified: {second:?}"),
            UsageError::Reboot => out.write_str(
                "option --reboot (-R) is not in this version: set so_reuseport = 1 and start the new process beside \
                 the old",
            ),
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
/// Whatever PgBouncer would refuse, and `-R`.
pub fn parse<I>(arguments: I, environment_configures: bool) -> Result<Command, UsageError>
where
    I: IntoIterator<Item = OsString>,
    I::IntoIter: 'static,
{
    let mut parser = Parser::from_args(arguments);
    let mut run = Run::default();
    let mut check = false;
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
            Arg::Long(name) => long_option(name)?,
        };
        match option.map(|option| option.meaning) {
            Some(Meaning::Daemon) => run.daemon = true,
            Some(Meaning::Quiet) => run.quiet = true,
            Some(Meaning::Verbose) => run.verbose = run.verbose.saturating_add(1),
            Some(Meaning::User) => run.user = Some(parser.value()?.string()?),
            Some(Meaning::Check) => check = true,
            Some(Meaning::Reboot) => return Err(UsageError::Reboot),
            Some(Meaning::Help) => return Ok(Command::Help),
            Some(Meaning::Version) => return Ok(Command::Version),
            None => return Err(argument.unexpected().into()),
        }
    }
    if run.conffile.is_none() && !environment_configures {
        return Err(UsageError::NoConfiguration);
    }
    Ok(if check { Command::Check { conffile: run.conffile } } else { Command::Run(run) })
}

/// Does this environment, as names, hold a configuration?
pub fn environment_configures<'a>(names: impl IntoIterator<Item = &'a OsStr>) -> bool {
    names.into_iter().any(|name| name == "DATABASE_URL" || name.as_encoded_bytes().starts_with(b"PGWEIR_"))
}

/// What `-V` prints: the version line first, as scripts expect.
pub fn version() -> String {
    format!("pgweir {}\nconfiguration and console: PgBouncer 1.25\ntls: none\nsystemd: no\n", env!("CARGO_PKG_VERSION"))
}

/// What `-h` prints.
pub const HELP: &str = "\
pgweir pools connections to PostgreSQL.

Usage:
  pgweir [OPTION]... [CONFIG_FILE]

CONFIG_FILE is a pgbouncer.ini or a pgweir.toml. It may be left out when the
environment has DATABASE_URL or PGWEIR_<SETTING> variables.

Options:
  -d, --daemon         run in the background (needs the pidfile setting)
  -q, --quiet          write nothing to stderr
  -u, --user=USERNAME  become USERNAME once started
  -v, --verbose        log more; twice for yet more
      --check          read the configuration, print its problems, then exit
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
    Reboot,
    Help,
    Version,
}

struct CommandOption {
    short: Option<char>,
    long: &'static str,
    meaning: Meaning,
}

const OPTIONS: [CommandOption; 8] = [
    CommandOption { short: Some('d'), long: "daemon", meaning: Meaning::Daemon },
    CommandOption { short: Some('q'), long: "quiet", meaning: Meaning::Quiet },
    CommandOption { short: Some('v'), long: "verbose", meaning: Meaning::Verbose },
    CommandOption { short: Some('u'), long: "user", meaning: Meaning::User },
    CommandOption { short: None, long: "check", meaning: Meaning::Check },
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
            ("-vv x.ini -v", run(|run| run.verbose = 3)),
            ("--verb x.ini", run(|run| run.verbose = 1)),
            ("-u joe x.ini", joe()),
            ("-ujoe x.ini", joe()),
            ("--user=joe x.ini", joe()),
            ("--user joe x.ini", joe()),
            ("--us joe -- x.ini", joe()),
            ("-d --detached x.ini", run(|run| (run.daemon, run.detached) = (true, true))),
            ("--check x.ini", Command::Check { conffile: Some(PathBuf::from("x.ini")) }),
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
            ("", "no configuration file specified, and neither DATABASE_URL nor"),
            ("-q", "no configuration file specified"),
            ("-x x.ini", "invalid option '-x'"),
            ("--nonsense x.ini", "invalid option '--nonsense'"),
            ("--ver x.ini", "option '--ver' is ambiguous"),
            ("x.ini -u", "missing argument"),
            ("--quiet=3 x.ini", "unexpected argument"),
            ("-R x.ini", "option --reboot (-R) is not in this version"),
            ("x.ini y.ini", "more than one configuration file specified: \"y.ini\""),
        ];

        for (words, expected) in table {
            let text = parse_words(words).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{words}: {text}");
        }
    }

    #[test]
    fn the_environment_stands_in_for_a_file() {
        let names = |name: &'static str| [OsStr::new("PATH"), OsStr::new(name)];

        assert!(environment_configures(names("DATABASE_URL")));
        assert!(environment_configures(names("PGWEIR_LISTEN_PORT")));
        assert!(!environment_configures(names("MY_PGWEIR_X")));
        assert_eq!(parse([], true).unwrap(), Command::Run(Run::default()));
        assert_eq!(parse(["--check".into()], true).unwrap(), Command::Check { conffile: None });
    }

    #[test]
    fn the_version_line_comes_first() {
        assert_eq!(version().lines().next(), Some(concat!("pgweir ", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn the_help_names_every_option_but_the_one_that_is_not_there() {
        for option in &OPTIONS {
            assert_eq!(HELP.contains(option.long), option.long != "reboot", "{}", option.long);
        }
    }
}
