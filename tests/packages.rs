//! What pgweir is delivered in besides an image: the Debian package, the unit file, the manual page, the manifests for
//! Kubernetes. Whatever of it can be checked without installing anything is checked here.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The oldest Kubernetes that docs/install.md promises, and a new one.
const KUBERNETES: [&str; 2] = ["1.32.0", "1.37.0"];

#[test]
fn every_file_that_the_debian_package_names_is_there() {
    let deb = debian_metadata();

    let mut delivered = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let [source, folder, mode] = [0, 1, 2].map(|index| asset[index].as_str().unwrap());
        let (place, name) = source.rsplit_once('/').unwrap_or((".", source));
        assert!(["755", "644", "640"].contains(&mode), "{source}: {mode}");
        if source == "target/release/pgweir" {
            continue;
        }
        let found: Vec<String> = fs::read_dir(root().join(place))
            .unwrap_or_else(|error| panic!("{source}: {error}"))
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| file == name || name.strip_prefix('*').is_some_and(|end| file.ends_with(end)))
            .collect();
        assert!(!found.is_empty(), "{source} is not there");
        let target = |file| if folder.ends_with('/') { format!("/{folder}{file}") } else { format!("/{folder}") };
        delivered.extend(found.iter().map(target));
    }

    for file in deb["conf-files"].as_array().unwrap() {
        assert!(delivered.iter().any(|path| path == file.as_str().unwrap()), "{file} is not among {delivered:?}");
    }
    for text in ["debian/pgweir.service", "docs/pgweir.1"] {
        let words = fs::read_to_string(root().join(text)).unwrap();
        for word in words.split_whitespace().map(|word| word.trim_start_matches("file:")) {
            let promised = word.starts_with("/usr/share/doc/") || word.starts_with("/etc/");
            assert!(!promised || delivered.iter().any(|path| path == word), "{text}: {word} is not in the package");
        }
    }
    let version = format!("pgweir ({}-1) ", env!("CARGO_PKG_VERSION"));
    let changes = fs::read_to_string(root().join(deb["changelog"].as_str().unwrap())).unwrap();
    assert!(changes.starts_with(&version), "debian/changelog does not begin with {version}");
    for file in [deb["license-file"][0].as_str().unwrap(), "debian/pgweir.service"] {
        assert!(root().join(file).is_file(), "{file}");
    }
}

#[test]
fn the_maintainer_scripts_are_sound() {
    for script in ["postinst", "prerm", "postrm"] {
        let path = root().join("debian").join(script);

        let parsed = Command::new("sh").arg("-n").arg(&path).output().unwrap();

        assert!(parsed.status.success(), "{script}: {}", printed(&parsed));
        assert!(fs::read_to_string(&path).unwrap().contains("#DEBHELPER#"), "{script}: no place for the unit's lines");
    }
}

#[test]
fn systemd_accepts_the_unit_file() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped("the unit file is not verified: systemd-analyze is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(root().join("debian/pgweir.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/pgweir /etc/pgweir/pgbouncer.ini"));
    let path = folder.path().join("pgweir.service");
    // The program has to be there, and the manual page to be installed.
    let unit = unit.replace("/usr/bin/pgweir", env!("CARGO_BIN_EXE_pgweir")).replace("man:pgweir(1) ", "");
    fs::write(&path, unit).unwrap();

    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();

    let said = printed(&verified);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("pgweir")).collect();
    assert!(ours.is_empty(), "{said}");
    assert!(verified.status.success(), "{said}");
}

#[test]
fn the_manual_page_tells_of_every_option() {
    let page = fs::read_to_string(root().join("docs/pgweir.1")).unwrap().replace('\\', "");
    let help = printed(&Command::new(env!("CARGO_BIN_EXE_pgweir")).arg("--help").output().unwrap());

    let options =
        help.split(|end: char| end.is_whitespace() || "=,[".contains(end)).filter(|word| word.starts_with("--"));

    let mut count = 0;
    for option in options {
        assert!(page.contains(option), "{option} is not in docs/pgweir.1");
        count += 1;
    }
    assert!(count >= 6, "{help}");
}

#[test]
fn the_configurations_that_packages_bring_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("userlist.txt").display().to_string();
    for (ini, list) in [
        ("config/pgbouncer.ini", "config/userlist.txt"),
        ("docker/kubernetes/pgbouncer.ini", "docker/kubernetes/userlist.txt"),
    ] {
        let text = fs::read_to_string(root().join(ini)).unwrap();
        assert!(text.contains("auth_file = /etc/pgweir/userlist.txt"), "{ini}");
        fs::copy(root().join(list), &users).unwrap();
        let path = folder.path().join("pgbouncer.ini");
        fs::write(&path, text.replace("/etc/pgweir/userlist.txt", &users)).unwrap();

        let checked = Command::new(env!("CARGO_BIN_EXE_pgweir")).arg("--check").arg(path).env_clear().output().unwrap();

        assert!(checked.status.success(), "{ini}: {}", printed(&checked));
    }
}

#[test]
fn every_replica_is_a_peer() {
    let set = fs::read_to_string(root().join("docker/kubernetes/statefulset.yaml")).unwrap();
    let ini = fs::read_to_string(root().join("docker/kubernetes/pgbouncer.ini")).unwrap();
    let replicas: usize = set.split("replicas: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();

    let peers: Vec<&str> = ini.lines().filter(|line| line.contains("= host=pgweir-")).collect();

    let expected: Vec<String> =
        (1..=replicas).map(|number| format!("{number} = host=pgweir-{number}.pgweir-peers port=6432")).collect();
    assert_eq!(peers, expected);
}

#[test]
fn the_manifests_fit_the_schemas_of_kubernetes() {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manifest-tools/bin");
    if !tools.join("kubernetes-validate").exists() {
        return skipped("the manifests are not validated: run `tests/deps.sh manifests`");
    }
    let folder = root().join("docker/kubernetes");
    let kustomization = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
    let resources: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .filter(|path| !path.ends_with("kustomization.yaml"))
        .collect();
    for path in &resources {
        let line = format!("  - {}\n", path.file_name().unwrap().display());
        assert!(kustomization.contains(&line), "kustomization.yaml leaves out {line}");
    }
    for version in KUBERNETES {
        let mut validate = Command::new(tools.join("kubernetes-validate"));
        validate.args(["--strict", "--kubernetes-version", version]).args(&resources);

        let validated = validate.output().unwrap();

        assert!(validated.status.success(), "{}", printed(&validated));
        assert!(printed(&validated).contains("passed for resource statefulset/pgweir"), "{}", printed(&validated));
    }

    let rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}";
    let mut lint = Command::new(tools.join("yamllint"));
    let linted = lint.args(["--strict", "-d", rules]).arg(root().join("docker")).output().unwrap();
    assert!(linted.status.success(), "{}", printed(&linted));
}

fn debian_metadata() -> serde_json::Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1"]).current_dir(root());
    let described: serde_json::Value = serde_json::from_slice(&cargo.output().unwrap().stdout).unwrap();
    described["packages"][0]["metadata"]["deb"].clone()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// To the terminal, past the test harness, so that nobody takes the test for passed.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "tests/packages: skipped: {why}");
}
