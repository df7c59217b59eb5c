//! House style that a machine can check: floors, purity, sizes. Reads `src` as text and reports all it finds at once.
//!
//! - A room imports rooms on lower floors only, and rooms on one floor do not import each other.
//! - A file whose header says `Pure:` has nothing to do with tasks, locks, sockets, files or clocks (its tests may).
//! - No line above 120 characters, no file above 900 lines, nothing left for later.
//! - Every setting that the table calls obeyed is read by code that obeys it.
//! - The texts for operators contain no word of [`DIALECT`].

use std::path::Path;

use pgweir::config;

/// Every room and its floor. A new room needs a line here.
const FLOORS: [(&str, u8); 15] = [
    ("wire", 0),
    ("protocol", 1),
    ("config", 1),
    ("stats", 1),
    ("auth", 2),
    ("net", 2),
    ("server", 3),
    ("pool", 4),
    ("cancel", 4),
    ("admin", 5),
    ("client", 6),
    ("doctor", 7),
    ("web", 7),
    ("app", 8),
    ("main", 9),
];

/// What a pure file does not mention.
const IMPURE: [&str; 17] = [
    "tokio",
    "async",
    "await",
    "Mutex",
    "RwLock",
    "Condvar",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "Instant",
    "SystemTime::now",
    "std::fs",
    "std::thread",
    "std::env",
];

const LINE_CHARS_MAX: usize = 120;
const FILE_LINES_MAX: usize = 900;
const LEFT_FOR_LATER: [&str; 2] = ["TODO", "FIXME"];

#[test]
fn the_house_is_tidy() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut findings = Vec::new();

    let files = check_folder(&src, &src, &mut findings);

    findings.sort();
    assert!(files > 10, "only {files} files were read");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

fn check_folder(folder: &Path, src: &Path, findings: &mut Vec<String>) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a folder's entry").path();
        if path.is_dir() {
            files += check_folder(&path, src, findings);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(src).expect("a path below src").to_string_lossy().replace('\\', "/");
            findings.extend(check_file(&name, &std::fs::read_to_string(&path).expect("a text")));
            files += 1;
        }
    }
    files
}

/// What is wrong with the file `name`, a path below `src`, with this text.
fn check_file(name: &str, text: &str) -> Vec<String> {
    let code = without_comments(text);
    let is_pure = text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("Pure:"));
    let mut findings = sizes(text);
    findings.extend(floors(name, &code));
    if is_pure {
        findings.extend(purity(&code));
    }
    findings.into_iter().map(|(line, what)| format!("src/{name}:{line}: {what}")).collect()
}

/// Texts for operators: files, and folders with all that is in them.
const FOR_OPERATORS: [&str; 6] = ["README.md", "CHANGELOG.md", "docs", "config", "docker", "debian"];

/// Words that texts for operators do not use, and what to write instead. Case does not matter. Code in backticks may
/// contain them.
const DIALECT: [(&str, &str); 45] = [
    ("as it stands", "unchanged"),
    ("bears", "has"),
    ("befalls", "happens to"),
    ("card", "status"),
    ("cards", "status"),
    ("deed", "action"),
    ("deeds", "actions"),
    ("door", "listener, port"),
    ("errand", "task"),
    ("errands", "tasks"),
    ("farewell", "disconnection"),
    ("floor", "layer"),
    ("floors", "layers"),
    ("gets its turn", "is next in the queue"),
    ("hear", "get a message"),
    ("heard", "got a message"),
    ("hears", "gets a message"),
    ("heed", "check, follow"),
    ("heeds", "checks, follows"),
    ("in line", "in the queue, waiting"),
    ("is told", "gets a message, reports"),
    ("are told", "get a message, report"),
    ("kin", "similar, the other ..."),
    ("nobody", "no user, no client, none"),
    ("obey", "apply, support"),
    ("obeyed", "applied, supported"),
    ("obeys", "applies, supports"),
    ("on loan", "in use, assigned"),
    ("outrank", "override, have precedence over"),
    ("outranks", "overrides, has precedence over"),
    ("passed over", "ignored"),
    ("passes over", "ignores"),
    ("passing over", "ignoring"),
    ("room", "module"),
    ("rooms", "modules"),
    ("roster", "connections"),
    ("shelf", "idle list"),
    ("sign of life", "answer"),
    ("somebody", "a user, a client, a program"),
    ("stands in for", "replaces"),
    ("strangers", "unauthenticated clients"),
    ("unawares", "without a message"),
    ("whence", "from where"),
    ("whoever", "a user who, a client that"),
    ("whom", "the user who, the client that"),
];

/// Words that are something else in these files.
const NOT_DIALECT: [(&str, &str, &str); 2] =
    [("config/demo.sh", "nobody", "a system user"), ("debian/copyright", "whom", "the text of a licence")];

#[test]
fn texts_for_operators_are_in_plain_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut findings = Vec::new();

    let files: usize = FOR_OPERATORS.iter().map(|name| check_words(root, &root.join(name), &mut findings)).sum();

    findings.sort();
    assert!(files > 20, "only {files} files were read");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Reads this file, or the files below this folder. Returns how many files it read.
fn check_words(root: &Path, path: &Path, findings: &mut Vec<String>) -> usize {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder");
        return entries.map(|entry| check_words(root, &entry.expect("an entry").path(), findings)).sum();
    }
    let name = path.strip_prefix(root).expect("a path below the root").to_string_lossy().replace('\\', "/");
    let text = std::fs::read_to_string(path).expect("a text");
    for (line, word, instead) in dialect(&text) {
        if !NOT_DIALECT.iter().any(|(file, allowed, _)| (*file, *allowed) == (name.as_str(), word)) {
            findings.push(format!("{name}:{line}: \"{word}\": write \"{instead}\""));
        }
    }
    1
}

/// The words of [`DIALECT`] in this text, each with its line and what to write instead. A phrase may continue on the
/// next line.
fn dialect(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let text = without_code(&text.to_lowercase());
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let line = line.trim_end();
        let next = lines.get(at + 1).map_or("", |next| next.trim_start_matches(|c: char| !is_word(c)));
        let both = format!("{line} {next}");
        for (word, instead) in DIALECT {
            let starts_here =
                both.match_indices(word).any(|(start, _)| start < line.len() && is_whole(&both, start, word));
            if starts_here {
                findings.push((at + 1, word, instead));
            }
        }
    }
    findings
}

/// The text with the code in backticks blanked. A backtick without a partner has no effect beyond its paragraph.
fn without_code(text: &str) -> String {
    let mut is_code = false;
    let mut plain = String::with_capacity(text.len());
    let mut is_empty_line = true;
    for char in text.chars() {
        match char {
            '`' => is_code = !is_code,
            '\n' if is_empty_line => is_code = false,
            _ => {}
        }
        is_empty_line = char == '\n';
        plain.push(if is_code && char != '\n' { '`' } else { char });
    }
    plain
}

#[test]
fn words_of_the_dialect_are_found() {
    let found = |text: &str| dialect(text).into_iter().map(|(line, ..)| line).collect::<Vec<_>>();

    assert_eq!(found("One.\n# Passed over.\n; It is passed\n; over."), [2, 3]);
    assert_eq!(found("A wildcard, an akin word, doors; `farewell` and `a\nroom` in code."), [0; 0]);
    assert_eq!(found("A lone ` tick.\n\nThe KIN of it."), [3]);
    assert_eq!(found("A door.\nnobody"), [1, 2]);
}

/// Where a setting only changes hands: from the configuration to the rules that a pool's clients look at.
const RULES: &str = "pool/rules.rs";

#[test]
fn every_setting_is_read_by_code() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    code_below(&src, &src, &mut files);

    let rows = config::table();
    let unread: Vec<&str> = rows.iter().map(|row| row.name).filter(|name| !is_read(name, &files)).collect();

    assert!(rows.len() > 90 && files.len() > 50, "{} rows, {} files", rows.len(), files.len());
    assert!(unread.is_empty(), "rows of config/settings.rs that no code reads: {unread:?}");
}

/// What code calls an entry of each section, by the struct of its keys in config/keys.rs.
const ENTRIES: [(&str, &[&str]); 3] =
    [("DatabaseKeys", &["database", "own"]), ("UserRules", &["own"]), ("PeerKeys", &["peer"])];

/// Keys that the configuration has put together in a field of another name.
const TOGETHER: [(&str, &str, &str); 7] = [
    ("DatabaseKeys", "host", "hosts"),
    ("DatabaseKeys", "port", "hosts"),
    ("DatabaseKeys", "client_encoding", "startup"),
    ("DatabaseKeys", "datestyle", "startup"),
    ("DatabaseKeys", "timezone", "startup"),
    ("DatabaseKeys", "application_name", "startup"),
    ("PeerKeys", "port", "host"),
];

#[test]
fn every_key_of_databases_users_and_peers_is_read_by_code() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    code_below(&src, &src, &mut files);
    let table = std::fs::read_to_string(src.join("config/keys.rs")).expect("a text");

    let (mut section, mut rows, mut unread) = ("", 0, Vec::new());
    for line in table.lines() {
        if let Some((keys, _)) = ENTRIES.iter().find(|(keys, _)| line.contains(&format!("struct {keys} in "))) {
            section = keys;
        }
        let Some((key, _)) = line.trim().strip_suffix(", Reload;").and_then(|row| row.split_once(": ")) else {
            continue;
        };
        rows += 1;
        let together = TOGETHER.iter().find(|(keys, name, _)| (*keys, *name) == (section, key));
        let field = together.map_or(key, |(_, _, field)| field);
        let (_, owners) = ENTRIES.iter().find(|(keys, _)| *keys == section).expect("a section above each row");
        let is_read =
            |(_, code): &(String, String)| owners.iter().any(|owner| mentions(code, &format!("{owner}.{field}")));
        if !files.iter().any(is_read) {
            unread.push(format!("{section}: {key}"));
        }
    }

    assert!(rows > 30, "{rows} rows");
    assert!(unread.is_empty(), "rows of config/keys.rs that no code reads: {unread:?}");
}

/// Adds the name and code of each file below `folder` that may obey a setting: no tests, and of the room that reads the
/// configuration only what follows it there (`%include`, `auth_file` and the like).
fn code_below(folder: &Path, src: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a folder's entry").path();
        let name = path.strip_prefix(src).expect("a path below src").to_string_lossy().replace('\\', "/");
        if path.is_dir() {
            if !name.ends_with("tests") {
                code_below(&path, src, files);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let is_table = name.starts_with("config/") && !["config/load.rs", "config/mod.rs"].contains(&name.as_str());
            if !is_table {
                let text = std::fs::read_to_string(&path).expect("a text");
                let code = without_comments(&text);
                files.push((name, code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()));
            }
        }
    }
}

/// Does code in one of these files take the field of that name from the settings, or from the rules made of them? Where
/// the rules have a field of the same name, filling that is no reading.
fn is_read(name: &str, files: &[(String, String)]) -> bool {
    files.iter().any(|(file, code)| {
        // A chain of fields may be broken over lines.
        let code: Vec<&str> = code.split_whitespace().collect();
        let code = code.join(" ").replace(" .", ".");
        // Taken apart: `let Settings { auth_file: Some(path), .. } = …`.
        let patterns = code.split("let Settings {").skip(1).filter_map(|rest| rest.split('}').next());
        if patterns.into_iter().any(|fields| mentions(fields, name)) {
            return true;
        }
        let field = format!(".{name}");
        code.match_indices(&field).any(|(at, _)| {
            let after = &code[at + field.len()..];
            let before = code[..at].strip_suffix("()").unwrap_or(&code[..at]);
            let owner = before.rsplit(|c| !is_word(c)).next().unwrap_or_default();
            let is_whole = !after.starts_with(|c: char| is_word(c) || c == '(');
            let is_settings = matches!(owner, "settings" | "running");
            let is_rules = matches!(owner, "rules" | "self");
            let is_copied = file == RULES && code.contains(&format!("pub {name}:"));
            let reads = (is_settings && !is_copied) || (is_rules && (owner != "self" || file == RULES));
            is_whole && reads
        })
    })
}

#[test]
fn a_setting_that_is_only_copied_is_found() {
    let files = |name: &str, code: &str| vec![(name.to_owned(), code.to_owned())];

    assert!(is_read("pool_size", &files("net/x.rs", "let a = config.settings.pool_size;")));
    assert!(is_read("pool_size", &files("net/x.rs", "config\n    .settings\n    .pool_size\n    .max(1)")));
    assert!(is_read("pool_size", &files("pool/x.rs", "self.rules().pool_size.clone()")));
    assert!(is_read("pool_size", &files("pool/x.rs", "u64::from(settings.pool_size)")));
    assert!(is_read("pool_size", &files(RULES, "Policy { size: self.pool_size }")));
    assert!(!is_read("pool_size", &files(RULES, "pub pool_size: u32, } Rules { pool_size: settings.pool_size }")));
    assert!(is_read("pool_size", &files(RULES, "pub size: u32, } Rules { size: settings.pool_size }")));
    assert!(!is_read(
        "pool_size",
        &files("net/x.rs", "settings.pool_size_max + table.pool_size + settings.pool_size()")
    ));
    assert!(is_read("pool_size", &files("net/x.rs", "let Settings { pool_size, .. } = &settings;")));
    assert!(!is_read("pool_size", &files("net/x.rs", "\"pool_size\"")));
}

fn sizes(text: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let chars = text.chars().count();
        if chars > LINE_CHARS_MAX {
            findings.push((line, format!("{chars} characters, at most {LINE_CHARS_MAX}")));
        }
        let words = LEFT_FOR_LATER.iter().filter(|word| mentions(text, word));
        findings.extend(words.map(|word| (line, format!("{word}: do it or leave it"))));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push((lines, format!("{lines} lines, at most {FILE_LINES_MAX}")));
    }
    findings
}

fn floors(name: &str, code: &str) -> Vec<(usize, String)> {
    let room = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if room == "lib" {
        return Vec::new();
    }
    let Some(floor) = floor_of(room) else {
        return vec![(1, format!("room {room} has no floor in tests/tidy.rs"))];
    };
    let verdict = |(line, other): (usize, String)| match floor_of(&other)? {
        _ if other == room => None,
        above if above > floor => Some((line, format!("{room} ({floor}) imports {other} ({above}) above it"))),
        same if same == floor => Some((line, format!("{room} imports {other} beside it ({floor})"))),
        _ => None,
    };
    imports(code).into_iter().filter_map(verdict).collect()
}

fn purity(code: &str) -> Vec<(usize, String)> {
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let words = |(line, text)| {
        let found = IMPURE.iter().filter(move |word| mentions(text, word));
        found.map(move |word| (line, format!("a pure file mentions {word}")))
    };
    (1..).zip(code.lines()).flat_map(words).collect()
}

fn floor_of(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// The text without what follows `//` on any line. Good enough here: a string with `//` in it loses its end.
fn without_comments(text: &str) -> String {
    text.lines().flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"]).collect()
}

/// The names that follow `crate::`, also those in a group in braces, each with the line of its `crate::`.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        let line = code[..at].lines().count().max(1) + usize::from(code[..at].ends_with('\n'));
        let rest = &code[at + path.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => names_in_group(group),
            None => vec![first_name(rest)],
        };
        found.extend(names.into_iter().map(|name| (line, name)));
    }
    found
}

/// The names at the start and behind each comma up to the closing brace, those in inner braces left out.
fn names_in_group(group: &str) -> Vec<String> {
    let mut names = vec![first_name(group)];
    let mut depth = 1;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(first_name(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn first_name(text: &str) -> String {
    text.trim_start().chars().take_while(|char| is_word(*char)).collect()
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Does `word` occur in `text`, not as part of a longer one?
fn mentions(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| is_whole(text, at, word))
}

/// Is the `word` at this place in `text` not part of a longer one?
fn is_whole(text: &str, at: usize, word: &str) -> bool {
    !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
}

#[test]
fn an_import_from_above_or_beside_is_found() {
    assert_eq!(check_file("auth/x.rs", "use crate::net::world;"), ["src/auth/x.rs:1: auth imports net beside it (2)"]);
    assert_eq!(
        check_file("pool/mod.rs", "\nfn f() { crate::app::run() }"),
        ["src/pool/mod.rs:2: pool (4) imports app (8) above it"]
    );
    assert_eq!(check_file("hall/x.rs", ""), ["src/hall/x.rs:1: room hall has no floor in tests/tidy.rs"]);
}

#[test]
fn groups_of_imports_are_looked_into() {
    let group = "\nuse crate::{\n    config::{Config, admin},\n    wire,\n    client::session,\n};";

    let names: Vec<String> = imports(group).into_iter().map(|(_, name)| name).collect();

    assert_eq!(names[..3], ["config", "wire", "client"]);
    assert_eq!(check_file("server/x.rs", group), ["src/server/x.rs:2: server (3) imports client (6) above it"]);
}

#[test]
fn imports_from_below_and_from_the_room_itself_are_welcome() {
    let text = "use crate::wire::error::{pool, app};\nuse crate::server::Server;\n/// See [`crate::app`].\nstruct X;";

    assert_eq!(check_file("server/x.rs", text), [""; 0]);
}

#[test]
fn a_clock_or_lock_in_a_pure_file_is_found() {
    for line in ["use tokio::net;", "let a = b.await;", "x: Mutex<u8>,", "let t = Instant::now();", "use std::fs;"] {
        assert_eq!(check_file("wire/x.rs", &format!("//! Pure: yes.\n{line}\n")).len(), 1, "{line}");
        assert_eq!(check_file("wire/x.rs", &format!("//! Not so.\n{line}\n")).len(), 0, "{line}");
    }
    let fine = "//! Pure: no tokio.\n// no Mutex either\nfn awaited() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n";
    assert_eq!(check_file("wire/x.rs", fine), [""; 0]);
}

#[test]
fn long_lines_long_files_and_notes_for_later_are_found() {
    assert_eq!(check_file("lib.rs", &"é".repeat(121)), ["src/lib.rs:1: 121 characters, at most 120"]);
    assert_eq!(check_file("lib.rs", &"é".repeat(120)), [""; 0]);
    assert_eq!(check_file("lib.rs", &"\n".repeat(901)).len(), 1);
    assert_eq!(check_file("lib.rs", "// FIXME later").len(), 1);
}
