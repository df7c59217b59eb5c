//! The engine, and what the tests make in it: always with a label, always removed.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::stand_ins;

/// How long to wait for what must happen: a mere guard, because a loaded machine is no failure.
const PATIENCE: Duration = Duration::from_secs(300);

/// No command takes longer, in seconds; building the image is the longest.
const COMMAND_SECONDS_MAX: &str = "3600";

/// The image under test, the project of its compose files.
const NAME: &str = "pgweir-test";

/// The image's arguments for a build in a fraction of the time.
const QUICKLY: [&str; 4] = [
    "CARGO_PROFILE_RELEASE_LTO=off",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL=0",
    "CARGO_PROFILE_RELEASE_DEBUG=none",
];

/// On everything made here.
pub(crate) const LABEL: &str = "pgweir.test";

/// Removes what an engine has of ours, once its standard input ends: that is when this process is gone.
const CLEANER: &str = r#"
cat >/dev/null
for label in pgweir.test com.docker.compose.project=pgweir-test; do
    docker ps --all --quiet --filter label=$label | xargs -r docker rm --force --volumes
    docker network ls --quiet --filter label=$label | xargs -r docker network rm
    docker volume ls --quiet --filter label=$label | xargs -r docker volume rm
done
docker images --quiet --filter label=pgweir.test | sort -u | xargs -r docker rmi --force
docker image prune --force --filter label=pgweir.test
"#;

/// An engine that answers, with the image built. Only one test at a time has it.
pub(crate) struct Engine {
    compose: &'static [&'static str],
    /// Ends with this process.
    _cleaner: Child,
    /// Keeps other runs of these tests away from this engine.
    _lock: std::fs::File,
}

impl Engine {
    /// The engine; none if there is none to be had, which is said, so that nobody takes the test for passed.
    pub(crate) fn get() -> Option<MutexGuard<'static, Engine>> {
        static ENGINE: LazyLock<Result<Mutex<Engine>, String>> =
            LazyLock::new(|| Engine::prepare().map(Mutex::new).inspect_err(|why| say(&format!("skipped: {why}"))));
        match &*ENGINE {
            Ok(engine) => Some(engine.lock().unwrap_or_else(PoisonError::into_inner)),
            Err(_) => None,
        }
    }

    fn prepare() -> Result<Engine, String> {
        if std::env::var_os("PGWEIR_TEST_DOCKER").is_some_and(|wanted| wanted == "0") {
            return Err("PGWEIR_TEST_DOCKER is 0".to_owned());
        }
        try_run(&["docker", "version"]).map_err(|why| format!("no Docker Engine answers: {why}"))?;
        let compose: &[&str] = [["docker", "compose"].as_slice(), &["docker-compose"]]
            .into_iter()
            .find(|compose| try_run(&[compose, &["version"][..]].concat()).is_ok())
            .ok_or("neither `docker compose` nor docker-compose is there (tests/deps.sh test)")?;
        let lock_file = std::env::temp_dir().join("pgweir-test-docker.lock");
        let lock = std::fs::File::create(&lock_file).map_err(|error| format!("{}: {error}", lock_file.display()))?;
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        // What a run left behind that was killed together with its cleaner.
        clean(Stdio::null()).wait().unwrap();
        let cleaner = clean(Stdio::piped());
        let engine = Engine { compose, _cleaner: cleaner, _lock: lock };
        stand_ins::ensure()?;
        say("building the image");
        let root = env!("CARGO_MANIFEST_DIR");
        let label = format!("{LABEL}=1");
        let file = format!("{root}/docker/Dockerfile");
        let mut build = vec!["docker", "build", "--force-rm", "--label", &label, "--file", &file, "--tag", NAME];
        QUICKLY.iter().for_each(|argument| build.extend(["--build-arg", argument]));
        build.push(root);
        run(&build);
        Ok(engine)
    }

    /// The image's name.
    pub(crate) fn image(&self) -> &'static str {
        NAME
    }

    /// Runs a container to its end; returns what it printed.
    pub(crate) fn run(&self, options: &[&str], command: &[&str]) -> String {
        run(&[&["docker", "run", "--rm", "--label", LABEL][..], options, &[NAME], command].concat())
    }

    /// Starts a container.
    pub(crate) fn start(&self, options: &[&str], command: &[&str]) -> Container {
        let id = run(&[&["docker", "run", "--detach", "--label", LABEL][..], options, &[NAME], command].concat());
        Container { id: id.trim().to_owned() }
    }

    /// The paths in an image, folders with a slash at the end.
    pub(crate) fn files_of(&self, image: &str) -> Vec<String> {
        let container = Container { id: run(&["docker", "create", "--label", LABEL, image]).trim().to_owned() };
        let list = run(&["sh", "-c", &format!("docker export {} | tar --list", container.id)]);
        list.lines().map(str::to_owned).collect()
    }

    /// A network for a server at this address: subnet and address. Where this machine has a way to an address in that
    /// network, another one is taken.
    pub(crate) fn free_lan(&self, network: &str, host: u8) -> (String, String) {
        let routes = run(&["ip", "-4", "route", "show", "table", "all"]);
        let candidates = [network, "172.30.187", "192.168.219", "10.219.187"];
        let free = candidates.into_iter().find(|network| !routes.lines().any(|route| leads_into(route, network)));
        let network = free.expect("one of these networks is free");
        (format!("{network}.0/24"), format!("{network}.{host}"))
    }
}

/// A container, removed on drop.
pub(crate) struct Container {
    id: String,
}

impl Container {
    /// Runs a program in it until it succeeds; returns what it printed.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let command = [&["docker", "exec", &self.id][..], command].concat();
        patiently(&format!("{command:?} succeeds"), || try_run(&command).ok(), || self.logs())
    }

    /// What the program said.
    pub(crate) fn logs(&self) -> String {
        run(&["sh", "-c", &format!("docker logs {} 2>&1", self.id)])
    }

    /// `docker stop`; returns the exit status.
    pub(crate) fn stop(&self) -> i32 {
        run(&["docker", "stop", "--time", "120", &self.id]);
        run(&["docker", "inspect", "--format", "{{.State.ExitCode}}", &self.id]).trim().parse().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the container's log ---\n{}", try_run(&["docker", "logs", &self.id]).unwrap_or_default());
        }
        let _ = try_run(&["docker", "rm", "--force", "--volumes", &self.id]);
    }
}

/// What compose files describe, up until it is dropped.
pub(crate) struct Project {
    command: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Project {
    /// `up`, with these variables in the environment.
    pub(crate) fn up(engine: &Engine, files: &[&PathBuf], environment: &[(&str, &str)]) -> Project {
        // Tried and let go; whoever takes it between now and then is found by the engine.
        patiently(
            "port 6432 is free on this machine, as the compose files want it",
            || TcpListener::bind(("0.0.0.0", 6432)).ok(),
            || run(&["ss", "-Htlnp", "sport = :6432"]),
        );
        let mut command: Vec<String> = engine.compose.iter().map(|word| (*word).to_owned()).collect();
        command.extend(["--project-name".to_owned(), NAME.to_owned()]);
        for file in files {
            command.extend(["--file".to_owned(), file.display().to_string()]);
        }
        let environment = environment.iter().copied().chain([("PGWEIR_IMAGE", NAME)]);
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let project = Project { command, environment };
        project.compose(&["up", "--detach"]).unwrap();
        project
    }

    /// Waits until the image's own health check is content.
    pub(crate) fn until_healthy(&self, service: &str) {
        let id = self.compose(&["ps", "--quiet", service]).unwrap();
        let status = ["docker", "inspect", "--format", "{{.State.Health.Status}}", id.trim()];
        let check = || (run(&status).trim() == "healthy").then_some(());
        patiently(&format!("{service} is healthy"), check, || self.logs());
    }

    fn logs(&self) -> String {
        self.compose(&["logs", "--no-color"]).unwrap_or_else(|why| why)
    }

    fn compose(&self, arguments: &[&str]) -> Result<String, String> {
        let (program, rest) = self.command.split_first().unwrap();
        let mut command = Command::new("timeout");
        command.arg(COMMAND_SECONDS_MAX).arg(program).args(rest).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        outcome(&format!("compose {arguments:?}"), command.stdin(Stdio::null()).output())
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the project's log ---\n{}", self.logs());
        }
        let _ = self.compose(&["down", "--volumes", "--timeout", "1"]);
    }
}

/// Whether a line of `ip route` is about addresses of the network that begins with these three numbers.
fn leads_into(route: &str, network: &str) -> bool {
    let target = route.split_whitespace().find(|word| word.starts_with(|char: char| char.is_ascii_digit()));
    let Some((address, len)) = target.map(|target| target.split_once('/').unwrap_or((target, "32"))) else {
        return false;
    };
    let number = |text: &str| text.parse::<std::net::Ipv4Addr>().map(u32::from);
    let (Ok(there), Ok(here), Ok(len)) = (number(address), number(&format!("{network}.0")), len.parse::<u32>()) else {
        return false;
    };
    let in_common = len.min(24);
    (there ^ here).checked_shr(32 - in_common).unwrap_or(0) == 0
}

/// Asks again and again, until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn patiently<T>(what: &str, mut ask: impl FnMut() -> Option<T>, explain: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "did not happen within {PATIENCE:?}: {what}\n{}", explain());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a command that must succeed; returns what it printed.
#[track_caller]
pub(crate) fn run(command: &[&str]) -> String {
    try_run(command).unwrap_or_else(|why| panic!("{why}"))
}

/// Runs a command; returns what it printed, or how it failed.
pub(crate) fn try_run(command: &[&str]) -> Result<String, String> {
    let output = Command::new("timeout").arg(COMMAND_SECONDS_MAX).args(command).stdin(Stdio::null()).output();
    outcome(&command.join(" "), output)
}

fn outcome(what: &str, output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|error| format!("{what}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => {
            let words = text(&output.stdout) + &text(&output.stderr);
            let lines: Vec<&str> = words.lines().collect();
            let end = lines[lines.len().saturating_sub(30)..].join("\n");
            Err(format!("{what}: {}: {end}", output.status))
        }
    }
}

/// Starts [`CLEANER`].
fn clean(stdin: Stdio) -> Child {
    use std::os::unix::process::CommandExt;
    let mut shell = Command::new("/bin/sh");
    // In a process group of its own: Ctrl-C reaches it as the end of its input only.
    shell.args(["-c", CLEANER]).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().expect("a shell can be run")
}

/// To the terminal, past the test harness, which keeps what it captures of tests that pass.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "tests/docker: {text}");
}

/// Where large intermediate files are kept, to be used again.
pub(crate) fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
