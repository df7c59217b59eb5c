//! Images to begin with, where no registry gives them.
//!
//! A Debian is made by debootstrap, once; it stays in `target/tmp`. From it, under the names that `docker/Dockerfile`
//! and `docker/compose.yml` use: `rust`, with the toolchain and the packages that built this very test, and `postgres`,
//! with a script that obeys the three variables in use. An image of such a name that is there already is used and left
//! alone; a stand-in has the label and goes with everything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::engine::{LABEL, cache, run, say, try_run};

const DOCKERFILE: &str = include_str!("../../docker/Dockerfile");
const COMPOSE: &str = include_str!("../../docker/compose.yml");

/// What both stand-ins need of Debian.
const PACKAGES: &str = "gcc,libc6-dev,ca-certificates,tzdata,postgresql";

/// Much of a Debian is never read.
const LEFT_OUT: [&str; 6] = [
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/i18n",
    "./var/cache",
    "./var/lib/apt/lists",
];

/// Sees to it that the images are there.
///
/// # Errors
/// Why they cannot be made here.
pub(crate) fn ensure() -> Result<(), String> {
    let rust = format!("rust:{}-bookworm", word_after(DOCKERFILE, "ARG RUST_VERSION="));
    let postgres = format!("postgres:{}", word_after(COMPOSE, "image: postgres:"));
    let missing = |name: &str| try_run(&["docker", "image", "inspect", name]).is_err();
    if missing(&rust) {
        import_rust(&rust)?;
    }
    if missing(&postgres) {
        import_postgres(&postgres)?;
    }
    Ok(())
}

fn word_after<'a>(text: &'a str, mark: &str) -> &'a str {
    let rest = text.split(mark).nth(1).unwrap_or_else(|| panic!("{mark:?} is there"));
    rest.split_whitespace().next().unwrap()
}

/// The toolchain that runs this test, where the image `rust` has one on its path, and the registry's packages that
/// cargo has fetched already.
fn import_rust(name: &str) -> Result<(), String> {
    let tar = copy_of_debian("rust")?;
    let sysroot = PathBuf::from(run(&["rustc", "--print", "sysroot"]).trim());
    let host = run(&["rustc", "--print", "host-tuple"]);
    let mut parts = vec!["bin/cargo".to_owned(), "bin/rustc".to_owned(), format!("lib/rustlib/{}", host.trim())];
    for entry in fs::read_dir(sysroot.join("lib")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file.contains(".so") {
            parts.push(format!("lib/{file}"));
        }
    }
    append(&tar, &sysroot, "usr/local/", &parts);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").expect("HOME is set")).join(".cargo"));
    append(&tar, &home, "usr/local/cargo/", &["registry/cache".to_owned(), "registry/index".to_owned()]);
    let changes = [
        "ENV PATH=/usr/local/cargo/bin:/usr/local/bin:/usr/bin:/bin",
        "ENV CARGO_HOME=/usr/local/cargo",
        "ENV CARGO_NET_OFFLINE=true",
    ];
    import(&tar, name, &changes);
    Ok(())
}

fn import_postgres(name: &str) -> Result<(), String> {
    let tar = copy_of_debian("postgres")?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker");
    append(&tar, &here, "usr/local/bin/", &["postgres.sh".to_owned()]);
    let bin = run(&["sh", "-c", &format!("tar -tf '{}' | grep -m 1 '/bin/initdb$'", tar.display())]);
    let bin = bin.trim().trim_start_matches('.').trim_end_matches("/initdb");
    let changes = [
        &format!("ENV PATH={bin}:/usr/local/bin:/usr/bin:/bin"),
        "USER postgres",
        "EXPOSE 5432",
        r#"CMD ["/usr/local/bin/postgres.sh"]"#,
    ];
    import(&tar, name, &changes);
    Ok(())
}

fn import(tar: &Path, name: &str, changes: &[&str]) {
    let label = format!("LABEL {LABEL}=1");
    let mut command = vec!["docker", "import", "--change", &label];
    changes.iter().for_each(|change| command.extend(["--change", change]));
    let path = tar.display().to_string();
    command.extend([path.as_str(), name]);
    run(&command);
    fs::remove_file(tar).unwrap();
}

/// Appends files of `folder` to the archive, under `prefix`.
fn append(tar: &Path, folder: &Path, prefix: &str, files: &[String]) {
    let (tar, folder) = (tar.display().to_string(), folder.display().to_string());
    let rename = format!("--transform=s,^,{prefix},");
    let mut command =
        vec!["tar", "--append", "--file", &tar, "--directory", &folder, "--owner=0", "--group=0", &rename];
    command.extend(files.iter().map(String::as_str));
    run(&command);
}

/// An archive with a Debian, to be added to.
fn copy_of_debian(what: &str) -> Result<PathBuf, String> {
    let debian = cache().join("debian-bookworm.tar");
    if !debian.exists() {
        debootstrap(&debian)?;
    }
    let copy = cache().join(format!("{what}.tar"));
    run(&["cp", "--reflink=auto", &debian.display().to_string(), &copy.display().to_string()]);
    Ok(copy)
}

fn debootstrap(archive: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("there is no registry's image to begin with, and only root can make one".to_owned());
    }
    let program = ["/usr/sbin/debootstrap", "/sbin/debootstrap"].into_iter().find(|path| Path::new(path).exists());
    let program = program.ok_or("debootstrap is not installed (tests/deps.sh test)")?;
    say("making a Debian by debootstrap, for this time and the next");
    let include = format!("--include={PACKAGES}");
    // A mirror may have a bad moment. What was fetched before that is not fetched again.
    let packages = tempfile::Builder::new().prefix("packages-").tempdir_in(cache()).unwrap();
    let kept = format!("--cache-dir={}", packages.path().display());
    let attempt = || {
        let folder = tempfile::Builder::new().prefix("debian-").tempdir_in(cache()).unwrap();
        let root = folder.path().display().to_string();
        try_run(&[program, "--variant=minbase", &kept, &include, "bookworm", &root]).map(|_| folder)
    };
    let mut made = attempt();
    for seconds in [5, 20] {
        let Err(why) = &made else { break };
        say(&format!("debootstrap failed, trying again in {seconds} s: {why}"));
        std::thread::sleep(Duration::from_secs(seconds));
        made = attempt();
    }
    let folder = made?;
    let root = folder.path().display().to_string();
    run(&["chroot", &root, "install", "-d", "-o", "postgres", "-g", "postgres", "/var/lib/postgresql/data"]);
    let unfinished = archive.with_extension("unfinished");
    let mut tar = Command::new("tar");
    tar.args(LEFT_OUT.map(|path| format!("--exclude={path}")));
    tar.arg("--create").arg("--file").arg(&unfinished).args(["--directory", &root, "."]);
    assert!(tar.status().expect("tar runs").success(), "the Debian can be packed");
    fs::rename(&unfinished, archive).unwrap();
    Ok(())
}
