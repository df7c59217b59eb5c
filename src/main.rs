//! The `pgweir` command: arguments → configuration → [`pgweir::app::run`] → exit code.

use std::error::Error;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use pgweir::app::check::{self, Rights};
use pgweir::app::cli::{self, Command, Run};
use pgweir::app::control::{Control, log_options};
use pgweir::app::logging::{self, Log, LogOptions};
use pgweir::app::takeover::{self, Takeover};
use pgweir::app::{self, ping, process};
use pgweir::auth::KeyCache;
use pgweir::config::{self, Config, Sources};
use pgweir::net::inherit::{self, Passed};
use pgweir::net::listen::{ListenError, ListenOptions, listen_on};
use pgweir::net::pam;
use pgweir::net::tls::Tls;
use pgweir::net::world;
use pgweir::stats::lines;

fn main() -> ExitCode {
    // First of all: it removes variables, which must not happen once there are threads.
    let passed = inherit::take();
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "pgweir".into());
    let arguments: Vec<OsString> = arguments.collect();
    // A value that is not text keeps a mark of it, which `config` makes a problem of where it reads the variable.
    let environment: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let configured = config::environment_configures(&environment);
    let sources = |conffile| Sources { conffile, environment, ..Sources::default() };
    match cli::parse(arguments.clone(), configured) {
        Ok(Command::Help) => print!("{}", cli::help(&program.to_string_lossy())),
        Ok(Command::Version) => print!("{}", cli::version()),
        Ok(Command::CheckPam) => return pam::answer_stdin(),
        Ok(Command::Check(run)) => return check(&run, &sources(run.conffile.clone())),
        Ok(Command::Ping { conffile }) => {
            return ask_for_life(&sources(conffile.or_else(ping::conffile_of_container)));
        }
        Ok(Command::Run(run)) => {
            let verbose = (run.verbose > 0).then(|| ("verbose".to_owned(), run.verbose.to_string()));
            let sources = Sources { fallbacks: Vec::from_iter(verbose), ..sources(run.conffile.clone()) };
            let start = Start { program, arguments, sources, run };
            return pool(start, passed);
        }
        Err(error) => {
            let program = program.display();
            eprintln!("{program}: {error}\nTry \"{program} --help\" for more information.");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// How the process was started.
struct Start {
    /// The name it was started under.
    program: OsString,
    /// As they were given.
    arguments: Vec<OsString>,
    /// What they mean.
    run: Run,
    sources: Sources,
}

/// Sockets of a service manager, or why they cannot be used.
type MaybePassed = Result<Option<Passed>, ListenError>;

/// The user that the command line or the configuration names.
fn user_to_become<'a>(run: &'a Run, config: &'a Config) -> Option<&'a str> {
    run.user.as_deref().or(config.settings.user.as_deref()).filter(|user| !user.is_empty())
}

/// `--check`.
fn check(run: &Run, sources: &Sources) -> ExitCode {
    match config::load(sources) {
        Ok(config) => {
            config.notices.iter().for_each(|notice| println!("{notice}"));
            config.given.iter().for_each(|given| println!("{given}"));
            let mut problems = Vec::new();
            if run.daemon && config.settings.pidfile.is_none() {
                problems.push(NO_PIDFILE.to_owned());
            }
            match Tls::default().prepare(&config.settings) {
                Ok(tls) => tls.notices.iter().for_each(|notice| println!("{notice}")),
                Err(error) => problems.push(config.tls_problem(&error)),
            }
            // From here on as whom the pooler would run; who is not root cannot become anybody.
            let rights = match user_to_become(run, &config).map(process::become_user) {
                None | Some(Ok(())) => Rights::Same,
                Some(Err(error)) if rustix::process::geteuid().is_root() => {
                    problems.push(error.to_string());
                    Rights::Others
                }
                Some(Err(_)) => Rights::Others,
            };
            let found = check::try_out(&config, rights);
            found.notices.iter().for_each(|notice| println!("{notice}"));
            problems.extend(found.problems);
            problems.iter().for_each(|problem| println!("{problem}"));
            if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problems) => {
            problems.iter().for_each(|problem| println!("{problem}"));
            ExitCode::FAILURE
        }
    }
}

/// `--ping`.
fn ask_for_life(sources: &Sources) -> ExitCode {
    let answer = match config::load(sources) {
        Ok(config) => ping::ping(&ListenOptions::from_settings(&config.settings)),
        Err(problems) => {
            problems.iter().for_each(|problem| println!("{problem}"));
            return ExitCode::FAILURE;
        }
    };
    match answer {
        Ok(place) => println!("{place} answers"),
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs until the end, or until something stands in the way of the start.
fn pool(start: Start, passed: MaybePassed) -> ExitCode {
    let run = &start.run;
    let journal_stream = start.sources.environment.iter().find(|(name, _)| name == "JOURNAL_STREAM");
    let program = Path::new(&start.program).file_name().unwrap_or(&start.program).to_string_lossy();
    let stream = journal_stream.map(|(_, value)| value.as_str());
    let log_base = LogOptions::from_start(run.quiet || run.detached, run.verbose, stream, &program);
    let log = match Log::start(&log_base) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("pgweir: {error}");
            return ExitCode::FAILURE;
        }
    };
    logging::log_panics();
    let mut detached = None;
    let outcome = match run.daemon && !run.detached {
        true => go_to_background(&start),
        false => serve(start, passed, log_base, &log, &mut detached),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::fatal(&error);
            if let Some(detached) = detached {
                process::Detached::failed(detached, &error);
            }
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

/// The half of `-d` that the operator sees.
fn go_to_background(start: &Start) -> Result<(), Box<dyn Error>> {
    // Here as well, so that problems are told one by one and on the terminal.
    let config = load(&start.sources)?;
    if config.settings.pidfile.is_none() {
        return Err(NO_PIDFILE.into());
    }
    Ok(process::start_in_background(&start.program, &start.arguments)?)
}

/// Why `-d` goes no further.
const NO_PIDFILE: &str = "daemon needs pidfile configured";

fn serve(
    Start { run, sources, .. }: Start,
    passed: MaybePassed,
    log_base: LogOptions,
    log: &Log,
    detached: &mut Option<process::Detached>,
) -> Result<(), Box<dyn Error>> {
    if run.detached {
        *detached = Some(process::Detached::begin()?);
    }
    let config = load(&sources)?;
    // As whoever starts it: keys may be root's alone.
    let tls = Tls::default().prepare(&config.settings);
    if let Some(user) = user_to_become(&run, &config) {
        process::become_user(user)?;
    }
    process::refuse_root()?;
    log.reopen(&log_options(&config, &log_base))?;
    // Only here, so that the log that was asked for has it.
    let tls = tls.map_err(|error| config.tls_problem(&error))?;
    config.given.iter().for_each(|given| tracing::info!("{given}"));
    config.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
    count_descriptors(&config);
    let mut takeover = None;
    if run.reboot {
        if matches!(passed, Ok(Some(_))) {
            return Err("cannot reboot under service manager: restart the service, or reload it".into());
        }
        takeover = takeover::begin(&config.settings)?;
        if takeover.is_none() {
            tracing::info!("old process not found, try to continue normally");
        }
    }
    let inherited = takeover.as_mut().map(Takeover::take_listeners);
    let pidfile = config.settings.pidfile.clone();
    if let Some(path) = pidfile.as_deref().filter(|_| takeover.is_none())
        && process::Pidfile::check(path)?
    {
        tracing::info!("stale pidfile, removing");
    }
    let listening = match passed? {
        Some(passed) => passed.listening(&config.settings)?,
        None => listen_on(&ListenOptions::from_settings(&config.settings), inherited.unwrap_or_default())?,
    };
    let mut held_pidfile = match takeover {
        None => pidfile.as_deref().map(process::Pidfile::write).transpose()?,
        // The old process has it yet.
        Some(_) => None,
    };
    let mut process_key = [0; 32];
    world::fill_random(&mut process_key)?;
    let keys = KeyCache::new(process_key, config.settings.scram_iterations);
    let control = Arc::new(Control::new(sources, log_base, log.clone(), keys.clone()));
    let ready = || {
        if held_pidfile.is_none() {
            match pidfile.as_deref().map(process::Pidfile::write).transpose() {
                Ok(written) => held_pidfile = written,
                Err(error) => tracing::warn!("{error}"),
            }
        }
        if let Some(detached) = detached.take()
            && let Err(error) = detached.ready()
        {
            tracing::warn!("cannot let go of the terminal: {error}");
        }
    };
    app::run(config, tls, listening, control, keys, takeover, ready)?;
    drop(held_pidfile);
    Ok(())
}

/// The configuration; each of its problems is a line in the log.
fn load(sources: &Sources) -> Result<Config, Box<dyn Error>> {
    config::load(sources).map_err(|problems| {
        problems.iter().for_each(|problem| tracing::error!("{problem}"));
        "cannot load the configuration".into()
    })
}

fn count_descriptors(config: &Config) {
    let limit = process::raise_descriptor_limit();
    let settings = &config.settings;
    let named = config.databases.iter().filter(|(name, _)| *name != "*");
    let pools = named.map(|(_, database)| {
        let size = database.pool_size.unwrap_or(settings.default_pool_size);
        (u64::from(size), database.user.is_some())
    });
    let max_client_conn = u64::from(settings.max_client_conn);
    let expected = process::expected_descriptors(max_client_conn, pools, config.secrets.len() as u64);
    tracing::info!("{}", lines::descriptor_limit(limit.soft, limit.hard, max_client_conn, expected));
    if let Some(shortage) = process::descriptor_shortage(limit, expected) {
        tracing::warn!("{shortage}");
    }
}
