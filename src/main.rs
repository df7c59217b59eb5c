//! The pgweir command: arguments → configuration → process → exit code. The only place that prints and exits.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use pgweir::app::cli::{self, Command, Run};
use pgweir::app::control::{Control, log_options};
use pgweir::app::logging::{self, Log};
use pgweir::app::process::{self, Detached, Pidfile};
use pgweir::auth::KeyCache;
use pgweir::config::{self, Config, Sources};
use pgweir::net::listen::{ListenOptions, listen};
use pgweir::net::world;
use pgweir::stats::lines;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let names: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
    let configures = cli::environment_configures(names.iter().map(OsString::as_os_str));
    let outcome = match cli::parse(arguments.clone(), configures) {
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::FAILURE;
        }
        Ok(Command::Help) => {
            print!("{}", cli::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            print!("{}", cli::version());
            return ExitCode::SUCCESS;
        }
        Ok(Command::Check { conffile }) => check(&sources(conffile)),
        Ok(Command::Run(run)) if run.daemon && !run.detached => start_in_background(&run, &arguments),
        Ok(Command::Run(run)) => serve(&run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Everything configuration may come from.
fn sources(conffile: Option<std::path::PathBuf>) -> Sources {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Sources { conffile, environment, overrides: Vec::new() }
}

fn load(sources: &Sources) -> Result<Config, Failure> {
    config::load(sources).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n").into()
    })
}

fn check(sources: &Sources) -> Result<(), Failure> {
    let config = load(sources)?;
    for notice in &config.notices {
        println!("{notice}");
    }
    println!("the configuration is fine");
    Ok(())
}

fn start_in_background(run: &Run, arguments: &[OsString]) -> Result<(), Failure> {
    let config = load(&sources(run.conffile.clone()))?;
    if config.settings.pidfile.is_none() {
        return Err("-d needs a pidfile: set pidfile in the configuration".into());
    }
    Ok(process::start_in_background(arguments)?)
}

fn serve(run: &Run) -> Result<(), Failure> {
    if !run.detached {
        return run_process(run, || ());
    }
    let detached = std::cell::Cell::new(Some(Detached::begin()?));
    let outcome = run_process(run, || {
        if let Some(detached) = detached.take() {
            let _ = detached.ready();
        }
    });
    if let (Err(failure), Some(detached)) = (&outcome, detached.take()) {
        detached.failed(failure);
    }
    outcome
}

fn run_process(run: &Run, ready: impl FnOnce()) -> Result<(), Failure> {
    let sources = sources(run.conffile.clone());
    let config = load(&sources)?;
    if let Some(user) = run.user.as_ref().or(config.settings.user.as_ref()) {
        process::become_user(user)?;
    }
    process::refuse_root()?;
    let log = Log::start(&log_options(&config, run.quiet || run.detached, run.verbose))?;
    logging::log_panics();
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let outcome = start(run, sources, config, log, ready);
    if let Err(failure) = &outcome {
        logging::fatal(failure);
    }
    outcome
}

fn start(run: &Run, sources: Sources, config: Config, log: Log, ready: impl FnOnce()) -> Result<(), Failure> {
    let settings = &config.settings;
    if let Some(path) = &settings.pidfile
        && Pidfile::check(path)?
    {
        tracing::info!("removed stale pidfile \"{}\"", path.display());
    }
    let limit = process::raise_descriptor_limit();
    let clients = u64::from(settings.max_client_conn);
    tracing::info!("{}", lines::descriptor_limit(limit.soft, limit.hard, clients, clients + 10));
    let listening = listen(&ListenOptions::from_settings(settings))?;
    let _pidfile = settings.pidfile.as_deref().map(Pidfile::write).transpose()?;
    let mut key = [0; 32];
    world::fill_random(&mut key)?;
    let keys = KeyCache::new(key, settings.scram_iterations);
    let control = Arc::new(Control::new(sources, run.quiet || run.detached, run.verbose, log, keys.clone()));
    pgweir::app::run(config, listening, control.clone(), keys, ready)?;
    control.flush_log();
    Ok(())
}
