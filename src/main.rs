//! The `pgweir` command: arguments → configuration → [`pgweir::app::run`] → exit code.

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use pgweir::app::cli::{self, Command, Run};
use pgweir::app::control::{Control, log_options};
use pgweir::app::logging::{self, Log, LogOptions};
use pgweir::app::{self, process};
use pgweir::auth::KeyCache;
use pgweir::config::{self, Config, Sources};
use pgweir::net::listen::{ListenOptions, listen};
use pgweir::net::world;
use pgweir::stats::lines;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let configured = cli::environment_configures(environment.iter().map(|(name, _)| name.as_ref()));
    let sources = |conffile| Sources { conffile, environment, overrides: Vec::new() };
    match cli::parse(arguments.clone(), configured) {
        Ok(Command::Help) => print!("{}", cli::HELP),
        Ok(Command::Version) => print!("{}", cli::version()),
        Ok(Command::Check { conffile }) => return check(&sources(conffile)),
        Ok(Command::Run(run)) => return pool(&run, &arguments, sources(run.conffile.clone())),
        Err(error) => {
            eprintln!("pgweir: {error}\nTry \"pgweir --help\" for more information.");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// `--check`.
fn check(sources: &Sources) -> ExitCode {
    match config::load(sources) {
        Ok(config) => {
            config.notices.iter().for_each(|notice| println!("{notice}"));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            problems.iter().for_each(|problem| println!("{problem}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs until the end, or until something stands in the way of the start.
fn pool(run: &Run, arguments: &[OsString], sources: Sources) -> ExitCode {
    let quiet = run.quiet || run.detached;
    let log = match Log::start(&LogOptions { stderr: !quiet, verbose: run.verbose, ..LogOptions::default() }) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("pgweir: {error}");
            return ExitCode::FAILURE;
        }
    };
    logging::log_panics();
    let mut detached = None;
    let outcome = match run.daemon && !run.detached {
        true => go_to_background(arguments, &sources),
        false => serve(run, quiet, sources, &log, &mut detached),
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
fn go_to_background(arguments: &[OsString], sources: &Sources) -> Result<(), Box<dyn Error>> {
    // Here as well, so that problems are told one by one and on the terminal.
    let config = load(sources)?;
    if config.settings.pidfile.is_none() {
        return Err("daemon needs pidfile configured".into());
    }
    Ok(process::start_in_background(arguments)?)
}

fn serve(
    run: &Run,
    quiet: bool,
    sources: Sources,
    log: &Log,
    detached: &mut Option<process::Detached>,
) -> Result<(), Box<dyn Error>> {
    if run.detached {
        *detached = Some(process::Detached::begin()?);
    }
    let config = load(&sources)?;
    if let Some(user) = run.user.as_ref().or(config.settings.user.as_ref()).filter(|user| !user.is_empty()) {
        process::become_user(user)?;
    }
    process::refuse_root()?;
    log.reopen(&log_options(&config, quiet, run.verbose))?;
    config.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
    let pidfile = config.settings.pidfile.clone();
    if let Some(path) = &pidfile
        && process::Pidfile::check(path)?
    {
        tracing::info!("stale pidfile, removing");
    }
    count_descriptors(&config);
    let listening = listen(&ListenOptions::from_settings(&config.settings))?;
    let _pidfile = pidfile.as_deref().map(process::Pidfile::write).transpose()?;
    let mut process_key = [0; 32];
    world::fill_random(&mut process_key)?;
    let keys = KeyCache::new(process_key, config.settings.scram_iterations);
    let control = Arc::new(Control::new(sources, quiet, run.verbose, log.clone(), keys.clone()));
    let ready = || {
        if let Some(detached) = detached.take()
            && let Err(error) = detached.ready()
        {
            tracing::warn!("cannot let go of the terminal: {error}");
        }
    };
    Ok(app::run(config, listening, control, keys, ready)?)
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
    let pools = config.databases.values().map(|database| {
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
